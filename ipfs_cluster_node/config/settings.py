"""A node's settings: `config.toml`, then `IPFS_CLUSTER_NODE_*`, then flags."""

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.config.files import read_regular
from ipfs_cluster_node.config.home import HOME_VARIABLE
from ipfs_cluster_node.config.profiles import CLIENT_VARIABLES
from ipfs_cluster_node.config.units import parse_duration, parse_size, toml_text
from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import parse_name
from ipfs_cluster_node.core.model import Role

VARIABLE_PREFIX: Final = "IPFS_CLUSTER_NODE_"
TEST_VARIABLES: Final = frozenset(
    {"IPFS_CLUSTER_NODE_VECTORS", "IPFS_CLUSTER_NODE_CASES", "IPFS_CLUSTER_NODE_SEED"}
)
NOT_SETTINGS: Final = frozenset({HOME_VARIABLE, *CLIENT_VARIABLES, *TEST_VARIABLES})
"""Variables with this prefix that are not settings; a client's may be set as well."""

MIB: Final = 1024 * 1024
BIND_DEFAULT: Final = Endpoint("127.0.0.1", 9096)
ENROLMENT_PORT: Final = 9095


def enrolment_beside(bind: str) -> str:
    """The default enrolment address beside `bind`, on its host; raises INVALID_ARGUMENT."""
    return str(Endpoint(parse_endpoint(bind).host, ENROLMENT_PORT))


def names_file(handlers: str) -> bool:
    """Whether `--handlers` or `tasks.handlers` names a file, not a module."""
    return os.sep in handlers or handlers.endswith(".py")


def _setting(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSection:
    """`[node]`: the node's name, role and addresses."""

    name: str = field(metadata={"about": "a display name"})
    role: str = field(metadata={"about": "master, worker or leecher; as enrolled"})
    bind: str = _setting(str(BIND_DEFAULT), "where the node listens, mutual TLS")
    enrolment_bind: str = _setting(
        enrolment_beside(str(BIND_DEFAULT)),
        "where a master accepts joiners, by `init` and `join` at the host of `bind`; only the "
        "server is authenticated",
    )
    advertise: tuple[str, ...] = _setting(
        (), "where others reach it; required unless bind is loopback"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSection:
    """`[cluster]`: the node's cluster."""

    id: str = field(metadata={"about": "the cluster's id"})
    name: str = field(metadata={"about": "the cluster's name"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSection:
    """`[raft]`: timing of consensus, equal on every master."""

    heartbeat_interval: timedelta = _setting(
        timedelta(milliseconds=100), "interval of the leader's heartbeats"
    )
    election_timeout_min: timedelta = _setting(
        timedelta(milliseconds=600), "shortest silence after which a follower campaigns"
    )
    election_timeout_max: timedelta = _setting(
        timedelta(milliseconds=1200), "longest silence after which a follower campaigns"
    )
    snapshot_entries: int = _setting(20_000, "log entries after which a snapshot replaces them")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSection:
    """`[tasks]`: attempts on this node."""

    slots: int = _setting(-1, "concurrent attempts; -1 means one per core on a worker, else none")
    handlers: tuple[str, ...] = _setting(
        (), "Python files, and modules, with task handlers, besides the files of `handlers` here"
    )
    drain: timedelta = _setting(
        timedelta(0),
        "how long attempts may continue after the node is told to stop; then others get them",
    )
    memory_max: int = _setting(
        1024 * MIB, "memory of one attempt, in addition to 256MiB for the processes themselves"
    )
    hidden_paths: tuple[str, ...] = _setting(
        (), "files and directories hidden from handlers, besides the node's own and profiles"
    )
    writable_paths: tuple[str, ...] = _setting(
        (),
        "directories that handlers may write to besides their own; none may overlap a hidden one",
    )
    require_confinement: bool = _setting(
        False,
        "refuse to start if handlers can't be isolated from the node's files and processes",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSection:
    """`[storage]`: use of the disk."""

    log_reserve: int = _setting(
        1024 * MIB, "free space reserved for the log; at most 5 % of a small disk"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """All settings of a node: frozen, complete, checked when made."""

    node: NodeSection
    cluster: ClusterSection
    raft: RaftSection = field(default_factory=RaftSection)
    tasks: TaskSection = field(default_factory=TaskSection)
    storage: StorageSection = field(default_factory=StorageSection)

    def __post_init__(self) -> None:
        """Check the settings together; raises CONFIG_INVALID."""
        if self.node.role not in (Role.MASTER, Role.WORKER, Role.LEECHER):
            raise _invalid("node.role", "write master, worker or leecher")
        try:
            parse_name(self.node.name, what="a name")
        except ValueError as error:
            raise _invalid("node.name", str(error)) from error
        if not -1 <= self.tasks.slots <= 1024:
            raise _invalid("tasks.slots", "write -1 to 1024")
        files = tuple(each for each in self.tasks.handlers if names_file(each))
        for key, paths in (
            ("handlers", files),
            ("hidden_paths", self.tasks.hidden_paths),
            ("writable_paths", self.tasks.writable_paths),
        ):
            for each in paths:
                if not Path(each).is_absolute():
                    raise _invalid(f"tasks.{key}", f"{each!r} is not an absolute path")
        if self.storage.log_reserve < 0:
            raise _invalid("storage.log_reserve", "write a size such as 1GiB, or 0 for none")
        addresses = [
            ("node.bind", self.node.bind),
            ("node.enrolment_bind", self.node.enrolment_bind),
            *(("node.advertise", each) for each in self.node.advertise),
        ]
        for name, address in addresses:
            try:
                parse_endpoint(address)
            except ClusterError as error:
                raise _invalid(name, error.message) from error
        if not self.node.advertise and not parse_endpoint(self.node.bind).is_loopback:
            raise _invalid(
                "node.advertise",
                f"{self.node.bind} is not a loopback address, so give the address at which others "
                "reach it with --advertise",
            )

    @property
    def enrolment_endpoints(self) -> tuple[str, ...]:
        """Addresses where joiners reach this node's enrolment port."""
        bound = parse_endpoint(self.node.enrolment_bind)
        if bound.address is None or not bound.address.is_unspecified:
            return (str(bound),)
        hosts = dict.fromkeys(parse_endpoint(each).host for each in self.node.advertise)
        return tuple(str(Endpoint(host, bound.port)) for host in hosts)

    @property
    def slot_count(self) -> int:
        """The number of concurrent attempts."""
        if self.tasks.slots >= 0:
            return self.tasks.slots
        return (os.cpu_count() or 1) if self.node.role == Role.WORKER else 0


_SECTIONS: Final[Mapping[str, Any]] = {each.name: each.type for each in fields(NodeSettings)}


def load_settings(
    path: Path,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> NodeSettings:
    """Read the settings.

    Args:
        path: `config.toml`.
        environment: `IPFS_CLUSTER_NODE_<SECTION>_<KEY>`, for example
            `IPFS_CLUSTER_NODE_TASKS_SLOTS`; a list is separated by commas. Default: the process's.
        flags: `section.key` to value; None counts as absent.

    Raises:
        ClusterError: CONFIG_INVALID, naming the place of the error.
    """
    try:
        document = tomllib.loads(read_regular(path).decode())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError(
            Reason.CONFIG_INVALID, f"{path} can't be read ({error}); correct it"
        ) from error
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for section, table in document.items():
        if section not in _SECTIONS or not isinstance(table, dict):
            raise _unknown(f"{path}: {section}", section, list(_SECTIONS))
        for key, value in table.items():
            _put(values, section, key, value, where=f"{path}: {section}.{key}")
    for variable, text in sorted((os.environ if environment is None else environment).items()):
        name = variable.removeprefix(VARIABLE_PREFIX)
        if name == variable or variable in NOT_SETTINGS:
            continue
        section, _, key = name.lower().partition("_")
        _put(values, section, key, text, where=f"the variable {variable}")
    for flag, value in (flags or {}).items():
        if value is not None:
            section, _, key = flag.partition(".")
            value = list(value) if isinstance(value, tuple) else value
            _put(values, section, key, value, where=f"--{key.replace('_', '-')}")
    for section, kind in _SECTIONS.items():
        for entry in fields(kind):
            needed = entry.default is MISSING and entry.default_factory is MISSING
            if needed and entry.name not in values[section]:
                raise _invalid(f"{path}: {section}.{entry.name}", "it is missing")
    return NodeSettings(**{section: kind(**values[section]) for section, kind in _SECTIONS.items()})


def write_settings(settings: NodeSettings) -> str:
    """Write the first `config.toml`, with a comment on each setting."""
    lines = [
        "# Settings of this node. Durations are written like 30s, sizes like 64MiB.",
        "# IPFS_CLUSTER_NODE_<SECTION>_<KEY> and flags of `serve` override this file.",
    ]
    for section in _SECTIONS:
        lines += ["", f"[{section}]"]
        for entry in fields(_SECTIONS[section]):
            value = getattr(getattr(settings, section), entry.name)
            lines += [f"# {entry.metadata['about']}", f"{entry.name} = {_literal(value)}"]
    return "\n".join(lines) + "\n"


def _put(
    values: dict[str, dict[str, Any]], section: str, key: str, value: Any, *, where: str
) -> None:
    kind = _SECTIONS.get(section)
    if kind is None:
        raise _unknown(where, section, list(_SECTIONS))
    known = {entry.name: entry for entry in fields(kind)}
    if key not in known:
        raise _unknown(where, key, list(known))
    try:
        values[section][key] = _READERS[known[key].type](value)
    except (ValueError, TypeError) as error:
        raise _invalid(where, str(error)) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("write a string in quotes")
    return value


def _count(value: Any) -> int:
    if isinstance(value, str) and value[-1:] == "B":
        return parse_size(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("write a whole number")
    return int(value)


def _flag(value: Any) -> bool:
    known = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    if not isinstance(value, bool):
        raise TypeError("write true or false")
    return value


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, list):
        raise TypeError('write a list such as ["a", "b"]')
    return tuple(_text(part) for part in value)


_READERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: _text,
    int: _count,
    bool: _flag,
    timedelta: lambda value: parse_duration(_text(value)),
    tuple[str, ...]: _list,
}


def _literal(value: Any) -> str:
    if isinstance(value, timedelta):
        return f'"{round(value.total_seconds() * 1000)}ms"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(part) for part in value) + "]"
    if isinstance(value, str):
        return toml_text(value)
    return f'"{value // MIB}MiB"' if value >= MIB else str(value)


def _unknown(where: str, name: str, known: list[str]) -> ClusterError:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return _invalid(where, f"{name!r} is not known; {hint}")


def _invalid(where: str, rule: str) -> ClusterError:
    return ClusterError(Reason.CONFIG_INVALID, f"{where} is wrong: {rule}")

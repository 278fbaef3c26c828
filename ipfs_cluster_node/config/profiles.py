"""Client profiles: each names a cluster, and this user's identity in it."""

import fcntl
import itertools
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from ipfs_cluster_node.config.files import (
    make_private_directory,
    open_regular,
    read_regular,
    write_private,
)
from ipfs_cluster_node.config.units import toml_text
from ipfs_cluster_node.core.errors import ClusterError, Reason

PROFILES_VARIABLE: Final = "IPFS_CLUSTER_NODE_PROFILES"
PROFILE_VARIABLE: Final = "IPFS_CLUSTER_NODE_PROFILE"
UCAN_VARIABLE: Final = "IPFS_CLUSTER_NODE_UCAN"
KIT_DIRECTORY_VARIABLE: Final = "IPFS_CLUSTER_NODE_KIT_DIRECTORY"
JOIN_TOKEN_VARIABLE: Final = "IPFS_CLUSTER_NODE_JOIN_TOKEN"  # noqa: S105
CLIENT_VARIABLES: Final = frozenset(
    {
        PROFILES_VARIABLE,
        PROFILE_VARIABLE,
        UCAN_VARIABLE,
        KIT_DIRECTORY_VARIABLE,
        JOIN_TOKEN_VARIABLE,
    }
)
"""Variables of a client; a node ignores them."""
DEFAULT_PROFILE: Final = "default"
LOCK_SECONDS_MAX: Final = 10.0
"""A command locks the file for milliseconds only."""
LOCK_RETRY_SECONDS: Final = 0.02
_locked: Final[set[Path]] = set()


@dataclass(frozen=True, slots=True)
class ProfileEndpoint:
    """A master's address and id."""

    address: str
    node_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How to reach a cluster, and with which identity."""

    endpoints: tuple[ProfileEndpoint, ...]
    ca: Path
    certificate: Path
    key: Path


def profile_files() -> list[Path]:
    """Where this user's keys and delegations are: the directory, and the file that replaces it."""
    named = os.environ.get(PROFILES_VARIABLE)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    folder = Path(base).expanduser() / "ipfs-cluster-node"
    return [folder, Path(named)] if named else [folder]


def profiles_path() -> Path:
    """The file of the profiles."""
    folder, *named = profile_files()
    return named[0] if named else folder / "profiles.toml"


def chosen_profile(name: str | None) -> str:
    """Name the profile in use: as given, else the environment's, `use_profile`'s, `default`.

    Raises:
        ClusterError: CONFIG_INVALID, if the file is needed and can't be read.
    """
    return name or os.environ.get(PROFILE_VARIABLE) or _read(profiles_path()).default


def load_profile(name: str | None) -> Profile:
    """Read the profile that `chosen_profile` names; raises CONFIG_INVALID."""
    path = profiles_path()
    name = chosen_profile(name)
    profiles = _read(path).profiles
    if name not in profiles:
        there = f"there are {', '.join(sorted(profiles))}" if profiles else "there are none"
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"no profile {name!r} in {path} ({there}); `init`, `dev` and the `join` of a client "
            "write one, --profile and `profile use` choose",
        )
    profile = _parse(path, name, profiles[name])
    if not profile.endpoints:
        raise ClusterError(
            Reason.CONFIG_INVALID, f"profile {name!r} in {path} has no endpoint; add one"
        )
    return profile


def profile_names() -> tuple[str, ...]:
    """The names of all profiles; raises CONFIG_INVALID, if the file can't be read."""
    return tuple(sorted(_read(profiles_path()).profiles))


def use_profile(name: str) -> None:
    """Make a profile the default; raises CONFIG_INVALID, and as `save_profile`."""
    load_profile(name)
    path = profiles_path()
    with updating_profiles():
        _write(path, _parsed(path, _read(path).profiles), name)


@contextmanager
def updating_profiles() -> Iterator[None]:
    """Lock the file to other processes; may be nested. Raises DEADLINE_EXCEEDED."""
    path = profiles_path().resolve()  # Several links may lead to it.
    if path in _locked:
        yield
        return
    make_private_directory(path.parent)
    lock = path.with_name(f"{path.name}.lock")
    descriptor = open_regular(lock, os.O_RDWR | os.O_CREAT)
    try:
        _wait_for_lock(descriptor, lock)
        _locked.add(path)
        try:
            yield
        finally:
            _locked.remove(path)
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, lock: Path) -> None:
    until = monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > until:
                raise ClusterError(
                    Reason.DEADLINE_EXCEEDED,
                    f"another process has held {lock} for {LOCK_SECONDS_MAX:.0f} s; let it end "
                    "(`fuser` names it), and try again",
                ) from None
            sleep(LOCK_RETRY_SECONDS)
        else:
            return


def check_profile_name(name: str | None) -> None:
    """Check early that a new profile can be written, before its identity is created.

    Raises:
        ClusterError: CONFIG_INVALID, if a profile of that name is in use, or the file is invalid.
    """
    path = profiles_path()
    kept = _read(path).profiles
    if name is not None and name in _taken(kept):
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"{path} already has a profile {name!r}; name another with --profile-name",
        )
    _parsed(path, {key: table for key, table in kept.items() if key != name})


def free_profile_name(cluster_name: str) -> str:
    """Choose an unused name: `default`, else one after the cluster.

    A profile whose certificate is gone counts as unused.

    Raises:
        ClusterError: CONFIG_INVALID, if the file can't be read.
    """
    taken = _taken(_read(profiles_path()).profiles)
    names = (f"{cluster_name}-{n}" for n in itertools.count(2))
    return next(
        n for n in itertools.chain((DEFAULT_PROFILE, cluster_name), names) if n not in taken
    )


def save_profile(name: str, profile: Profile) -> None:
    """Write a profile; the others stay.

    Raises:
        ClusterError: CONFIG_INVALID, if the file can't be read, or another profile in it is wrong;
            DEADLINE_EXCEEDED, if another process keeps it locked.
    """
    path = profiles_path()
    with updating_profiles():
        kept = _read(path)
        others = {key: table for key, table in kept.profiles.items() if key != name}
        _write(path, _parsed(path, others) | {name: profile}, kept.default)


def move_profiles(old: Path, new: Path) -> None:
    """Have profiles use files that were moved from `old` to `new`; raises as `save_profile`."""
    old = old.absolute()
    with updating_profiles():
        for name in profile_names():
            profile = load_profile(name)
            files = {key: getattr(profile, key) for key in ("ca", "certificate", "key")}
            moved = {
                key: new.absolute() / path.relative_to(old)
                for key, path in files.items()
                if path.is_relative_to(old)
            }
            if moved:
                save_profile(name, replace(profile, **moved))


def remove_profile(name: str) -> None:
    """Remove a profile, if it exists; raises as `save_profile`."""
    path = profiles_path()
    if not path.exists():
        return
    with updating_profiles():
        kept = _read(path)
        if kept.profiles.pop(name, None) is not None:
            default = DEFAULT_PROFILE if kept.default == name else kept.default
            _write(path, _parsed(path, kept.profiles), default)


def _taken(profiles: Mapping[str, Any]) -> set[str]:
    """Names of the usable profiles: those whose certificate exists."""
    return {
        name
        for name, table in profiles.items()
        if isinstance(table, dict) and Path(str(table.get("certificate", ""))).is_file()
    }


@dataclass(frozen=True, slots=True)
class _Kept:
    """The content of the file."""

    profiles: dict[str, Any]
    default: str


def _parsed(path: Path, tables: Mapping[str, Any]) -> dict[str, Profile]:
    return {name: _parse(path, name, table) for name, table in tables.items()}


def _parse(path: Path, name: str, table: Any) -> Profile:
    try:
        return Profile(
            endpoints=tuple(
                ProfileEndpoint(str(entry["address"]), str(entry["node_id"]))
                for entry in table["endpoints"]
            ),
            ca=Path(table["ca"]),
            certificate=Path(table["certificate"]),
            key=Path(table["key"]),
        )
    except (KeyError, TypeError) as error:
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"profile {name!r} in {path} is invalid ({error}); correct or recreate it",
        ) from error


def _write(path: Path, profiles: Mapping[str, Profile], default: str) -> None:
    lines = ["# Written by ipfs-cluster-node; edit freely."]
    if default != DEFAULT_PROFILE:
        lines.append(f"default = {toml_text(default)}")
    for name, profile in profiles.items():
        lines += ["", f"[profiles.{toml_text(name)}]"]
        lines += [
            f"{key} = {toml_text(str(getattr(profile, key)))}"
            for key in ("ca", "certificate", "key")
        ]
        for endpoint in profile.endpoints:
            lines += [
                f"[[profiles.{toml_text(name)}.endpoints]]",
                f"address = {toml_text(endpoint.address)}",
                f"node_id = {toml_text(endpoint.node_id)}",
            ]
    path = path.resolve()  # Keeps a link: its target is written.
    make_private_directory(path.parent)
    write_private(path, ("\n".join(lines) + "\n").encode())


def _read(path: Path) -> _Kept:
    try:
        document = tomllib.loads(read_regular(path).decode())
        default = document.get("default", DEFAULT_PROFILE)
        if not isinstance(default, str):
            raise TypeError("`default` does not name a profile")
        return _Kept(dict(document.get("profiles", {})), default)
    except FileNotFoundError:
        return _Kept({}, DEFAULT_PROFILE)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            Reason.CONFIG_INVALID, f"{path} can't be read ({error}); correct it, or move it away"
        ) from error

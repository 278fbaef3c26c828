"""The directory of a cluster that `dev` made and continues: which nodes it has, at which ports."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.net.ports import LOOPBACK, is_free
from ipfs_cluster_node.cli.output import counted
from ipfs_cluster_node.config.files import make_private_directory, read_regular, write_private
from ipfs_cluster_node.config.home import Home, check_unused
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Role

KEPT_NAME: Final = "dev.json"
LEFT_BEFORE_KEPT: Final = ("lock", f".{KEPT_NAME}.*.tmp")
"""What is there if `dev` was stopped before it had written which nodes there are."""


@dataclass(frozen=True, slots=True)
class KeptCluster:
    """The nodes of a cluster in a directory; they may not have been made yet."""

    profile: str
    """The name of the client's profile when it ran last."""
    ports: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By the name of a node: where it listens, and accepts joiners."""

    def count(self, role: Role) -> int:
        """How many nodes have a role."""
        return sum(name.startswith(f"{role}-") for name in self.ports)

    def check_counts(self, directory: Path, masters: int | None, workers: int | None) -> None:
        """Refuse other numbers of nodes than there are; raises INVALID_ARGUMENT."""
        here = self.count(Role.MASTER), self.count(Role.WORKER)
        if (masters or here[0], here[1] if workers is None else workers) != here:
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"{directory} has {counted(here[0], 'master')} and {counted(here[1], 'worker')}; "
                "leave out --masters and --workers, or name another --directory",
            )

    def check_ports(self) -> None:
        """Refuse to start where something else listens; raises PORT_IN_USE."""
        taken = [
            f"{LOOPBACK}:{port} ({name})"
            for name, ports in self.ports.items()
            for port in ports
            if not is_free(port)
        ]
        if taken:
            raise ClusterError(
                Reason.PORT_IN_USE,
                f"something listens on {', '.join(taken)}, where nodes of this cluster did; stop "
                "that, and start this again",
            )


@contextmanager
def using(directory: Path) -> Iterator[KeptCluster | None]:
    """Keep a directory for this process; what `dev` made there, or None if it is new or empty.

    Raises:
        ClusterError: HOME_EXISTS, if something else is there; HOME_IN_USE, if `dev` runs there
            already; HOME_DAMAGED.
    """
    kept = directory / KEPT_NAME
    if not kept.exists():
        check_unused(directory, option="--directory", ours=LEFT_BEFORE_KEPT)
    make_private_directory(directory)
    with _locked(directory):
        yield _read(kept) if kept.exists() else None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = Home(directory).lock()
    try:
        lock.__enter__()
    except ClusterError as error:
        raise ClusterError(
            error.reason,
            f"`dev` runs in {directory} already; stop it, or name another --directory",
        ) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def keep(directory: Path, profile: str, ports: Mapping[str, Sequence[int]]) -> None:
    """Write which nodes there are, before any is made."""
    text = json.dumps({"profile": profile, "ports": {name: list(p) for name, p in ports.items()}})
    write_private(directory / KEPT_NAME, text.encode())


def _read(path: Path) -> KeptCluster:
    try:
        document = json.loads(read_regular(path))
        ports = {
            str(name): (int(port), int(enrolment))
            for name, (port, enrolment) in document["ports"].items()
        }
        return KeptCluster(str(document["profile"]), ports)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{path} can't be read ({error!r}); restore it, or name another --directory",
        ) from error

"""Which process acts for a member: the copy of a home directory runs under the same identity.

Two processes of one identity would displace each other for ever, or vote twice. Each is identified
by its boot, a random number that it draws when it starts. The one with an open connection keeps its
place, and every other process is refused until that connection has ended: at once with its process,
or when it is found dead. So a restarted node need not wait.

A single master has no peer that would refuse its copy, so it calls its own addresses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId

UNKNOWN: Final = 0
"""The boot of a caller that sends none: it can't be told from another process."""


def other_address(boot: int, heard: Mapping[str, int]) -> str | None:
    """The address at which a process other than `boot` answered.

    `heard` has, by address, the boot of the process that proved the same identity there.
    """
    return next((address for address, each in heard.items() if each != boot), None)


def runs_twice(node_id: NodeId, address: str = "") -> ClusterError:
    """The error for a refused process; `address` is the other one's, if known."""
    where = f" at {address}" if address else ""
    return ClusterError(
        Reason.MEMBER_RUNS_TWICE,
        f"{node_id} runs already{where}, in another process with the same identity: stop one of "
        "the two; a second node needs an identity of its own, so join it in an empty home "
        "directory",
    )


@dataclass(slots=True)
class _Process:
    """The process that acts for a member."""

    boot: int
    connections: int


class Boots:
    """The processes with an open connection here."""

    def __init__(self, own: NodeId | None = None, boot: int = UNKNOWN, address: str = "") -> None:
        self._own, self._boot, self._address = own, boot, address
        self._processes: dict[NodeId, _Process] = {}

    def check(self, node_id: NodeId, boot: int) -> None:
        """Refuse a process if another one acts for this member; raises MEMBER_RUNS_TWICE."""
        is_own, known = node_id == self._own, self._processes.get(node_id)
        here = self._boot if is_own else known.boot if known else UNKNOWN
        if UNKNOWN not in (boot, here) and boot != here:
            raise runs_twice(node_id, self._address if is_own else "")

    def joined(self, node_id: NodeId, boot: int) -> None:
        """A process opened a connection; `left` must follow.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        self.check(node_id, boot)
        process = self._processes.setdefault(node_id, _Process(boot, 0))
        if process.boot == UNKNOWN:
            process.boot = boot
        process.connections += 1

    def left(self, node_id: NodeId) -> None:
        """An accepted connection has ended."""
        process = self._processes[node_id]
        process.connections -= 1
        if process.connections == 0:
            del self._processes[node_id]

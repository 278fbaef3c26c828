"""Which process speaks for a member: a copied home directory runs under the same identity.

Two processes of one identity would push one another out for ever, or vote twice. Each names itself
by its boot, a random number. Whoever has a connection open keeps its place, and every other process
is refused, until that connection has ended: at once with its process, else once it is found dead.
So a node that is started again waits for nothing.

The only master has nobody that would refuse its copy. It asks at its own addresses itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId

UNKNOWN: Final = 0
"""The boot of who says none: it is not told from others."""


@dataclass(frozen=True, slots=True)
class Process:
    """One that has proved to be of this node's identity."""

    address: str
    """Where it answered."""
    boot: int
    uptime_seconds: float


def beside(boot: int, heard: Iterable[Process]) -> list[Process]:
    """Those that are not the asking process itself, which always says its boot."""
    return [each for each in heard if each.boot != boot]


def gives_way(uptime_seconds: float, other: Process) -> bool:
    """Whether a process that leads ends, because of another one: whoever began first goes on.

    Args:
        uptime_seconds: How long this one ran when it asked; so two can't both have begun first.
        other: What was answered.
    """
    return other.uptime_seconds >= uptime_seconds


def runs_twice(node_id: NodeId, address: str = "") -> ClusterError:
    """Why a process is refused.

    Args:
        node_id: Its identity.
        address: Where the other one is, if that is known.
    """
    where = f" at {address}" if address else ""
    return ClusterError(
        Reason.MEMBER_RUNS_TWICE,
        f"{node_id} runs already{where}, in another process with the same identity: stop one of "
        "the two; a second node needs an identity of its own, so join it in an empty home "
        "directory",
    )


@dataclass(slots=True)
class _Speaker:
    boot: int
    connections: int


class Boots:
    """Who has a connection open here."""

    def __init__(self, own: NodeId | None = None, boot: int = UNKNOWN, address: str = "") -> None:
        """Know nobody but this node itself, and where it is."""
        self._own, self._boot, self._address = own, boot, address
        self._speakers: dict[NodeId, _Speaker] = {}

    def check(self, node_id: NodeId, boot: int) -> None:
        """Pass unless another process speaks for this member.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        is_own, speaker = node_id == self._own, self._speakers.get(node_id)
        here = self._boot if is_own else speaker.boot if speaker else UNKNOWN
        if UNKNOWN not in (boot, here) and boot != here:
            raise runs_twice(node_id, self._address if is_own else "")

    def joined(self, node_id: NodeId, boot: int) -> None:
        """A process opened a connection; `left` must follow.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        self.check(node_id, boot)
        speaker = self._speakers.setdefault(node_id, _Speaker(boot, 0))
        if speaker.boot == UNKNOWN:
            speaker.boot = boot
        speaker.connections += 1

    def left(self, node_id: NodeId) -> None:
        """A connection that was let in has ended."""
        speaker = self._speakers[node_id]
        speaker.connections -= 1
        if speaker.connections == 0:
            del self._speakers[node_id]

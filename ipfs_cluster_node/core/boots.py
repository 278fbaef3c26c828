"""Which process speaks for a member: a copied home directory runs under the same identity.

Two processes of one identity would push one another out for ever, or vote twice. Each names itself
by its boot, a random number. Whoever has a connection open keeps its place, and every other process
is refused, until that connection has ended: at once with its process, else once it is found dead.
So a node that is started again waits for nothing.

The only master has nobody that would refuse its copy. It asks at its own addresses itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId

UNKNOWN: Final = 0
"""The boot of who says none: it is not told from others."""


def other_address(boot: int, heard: Mapping[str, int]) -> str | None:
    """Where another process answered than the one that asked, which always says its boot.

    Args:
        boot: Who asked.
        heard: By address, the boot of who proved there to be of the same identity.
    """
    return next((address for address, each in heard.items() if each != boot), None)


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

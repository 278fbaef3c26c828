"""Which process speaks for a member: a copied home directory runs under the same identity.

Two processes of one identity would push one another out for ever, or vote twice. Each names itself
by its boot, a random number. Whoever has a connection open keeps its place, and every other process
is refused, until that connection has ended: at once with its process, else once it is found dead.
So a node that is started again waits for nothing.
"""

from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId

UNKNOWN: Final = 0
"""The boot of who says none: it is not told from others."""


@dataclass(slots=True)
class _Speaker:
    boot: int
    connections: int


class Boots:
    """Who has a connection open here."""

    def __init__(self, own: NodeId | None = None, boot: int = UNKNOWN) -> None:
        """Know nobody but this node itself."""
        self._own, self._boot = own, boot
        self._speakers: dict[NodeId, _Speaker] = {}

    def check(self, node_id: NodeId, boot: int) -> None:
        """Pass unless another process speaks for this member.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE.
        """
        speaker = self._speakers.get(node_id)
        here = self._boot if node_id == self._own else speaker.boot if speaker else UNKNOWN
        if UNKNOWN not in (boot, here) and boot != here:
            raise ClusterError(
                Reason.MEMBER_RUNS_TWICE,
                f"{node_id} runs already, in another process with the same identity: stop one of "
                "the two; a second node needs an identity of its own, so join it in an empty home "
                "directory",
            )

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

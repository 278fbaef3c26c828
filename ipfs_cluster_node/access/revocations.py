"""What is revoked, and who is a node, where there is no log: as the leader told it."""

from collections.abc import Callable

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.v1 import membership_pb2 as pb


class Revocations:
    """What one node without a log knows."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.version = 0
        self.on_change: Callable[[], None] = lambda: None
        self._dids: frozenset[str] = frozenset()
        self._serials: frozenset[int] = frozenset()
        self._node_dids: frozenset[str] = frozenset()

    def take(self, told: pb.Revocations) -> None:
        """Take what the leader told: all there is, not what is new."""
        self.version = told.version
        self._dids = frozenset(told.dids)
        self._serials = frozenset(map(int.from_bytes, told.serials))
        self._node_dids = frozenset(told.node_dids)
        self.on_change()

    def revokes_certificate(self, serial: int, did: Did) -> bool:
        """Whether a certificate counts no more: it, or its owner, was revoked or removed."""
        return serial in self._serials or did in self._dids

    def knows_node(self, did: Did) -> bool:
        """Whether this is a node of the cluster: the CA's key alone makes nobody one."""
        return did in self._node_dids

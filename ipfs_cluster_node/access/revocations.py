"""Revocations and nodes as the leader sent them, for a node without a log."""

from collections.abc import Callable

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.worker.v1 import node_pb2 as pb


class Revocations:
    """What one node without a log knows."""

    def __init__(self) -> None:
        self.version = 0
        self.on_change: Callable[[], None] = lambda: None
        self._dids: frozenset[str] = frozenset()
        self._serials: frozenset[int] = frozenset()
        self._node_dids: frozenset[str] = frozenset()

    def take(self, told: pb.Revocations) -> None:
        """Replace everything by what the leader sent, which is complete."""
        self.version = told.version
        self._dids = frozenset(told.dids)
        self._serials = frozenset(int(serial, 16) for serial in told.serials)
        self._node_dids = frozenset(told.node_dids)
        self.on_change()

    def revokes_certificate(self, serial: int, did: Did) -> bool:
        """Whether a certificate is revoked: it, or its owner, was revoked or removed."""
        return serial in self._serials or did in self._dids

    def knows_node(self, did: Did) -> bool:
        """Whether this is a node of the cluster: a certificate of the CA is not enough."""
        return did in self._node_dids

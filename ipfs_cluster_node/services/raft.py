"""RaftService."""

from collections.abc import AsyncIterator
from typing import Any

from ipfs_cluster_node.access.context import current_caller
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from ipfs_cluster_node.internal.v1 import raft_pb2_grpc


class RaftServicer(raft_pb2_grpc.RaftServiceServicer):
    """Consensus between the masters."""

    def __init__(self, consensus: Consensus) -> None:
        self._consensus = consensus

    def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: Any
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Receive one master's messages."""
        replica = self._consensus.require_replica()
        return replica.exchange(current_caller().node_id, request_iterator)

"""RaftService."""

from collections.abc import AsyncIterator
from typing import Any

from ipfs_cluster_node.access.context import current_caller
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from ipfs_cluster_node.internal.v1 import raft_pb2_grpc


class RaftServicer(raft_pb2_grpc.RaftServiceServicer):
    """Consensus between the masters."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: Any
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Receive one master's messages."""
        return self._replica.exchange(current_caller().node_id, request_iterator)

"""HealthService."""

from collections.abc import Callable
from typing import Any

from ipfs_cluster_node.v1 import health_pb2 as pb
from ipfs_cluster_node.v1 import health_pb2_grpc


class HealthServicer(health_pb2_grpc.HealthServiceServicer):
    """This node's health."""

    def __init__(self, get_health: Callable[[], pb.GetHealthResponse]) -> None:
        self._get_health = get_health

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.GetHealthResponse:
        """Answer from this node's memory."""
        return self._get_health()

"""HealthService."""

from typing import Any

from ipfs_cluster_node.services.ports import HealthPort
from ipfs_cluster_node.v1 import health_pb2 as pb
from ipfs_cluster_node.v1 import health_pb2_grpc


class HealthServicer(health_pb2_grpc.HealthServiceServicer):
    """How this node is."""

    def __init__(self, health: HealthPort) -> None:
        """Serve this."""
        self._health = health

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.GetHealthResponse:
        """Answer from the node's own memory."""
        return self._health.get_health()

"""NodeService."""

from datetime import timedelta
from typing import Any

from ipfs_cluster_node.access.context import current_caller
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.codec.members import endpoints_of, nodes_to_proto, seal_key_of, task_types_of
from ipfs_cluster_node.codec.tasks import duration_of_ms, request_id_of, timestamp_of_ms
from ipfs_cluster_node.core.commands import RegisterNode
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.worker.v1 import node_pb2 as pb
from ipfs_cluster_node.worker.v1 import node_pb2_grpc

VERSION_CHARS_MAX = 64


class NodeServicer(node_pb2_grpc.NodeServiceServicer):
    """Nodes that start and that are alive."""

    def __init__(self, members: Members, consensus: Consensus) -> None:
        self._members = members
        self._consensus = consensus

    async def RegisterNode(
        self, request: pb.RegisterNodeRequest, context: Any
    ) -> pb.RegisterNodeResponse:
        """Register a node with what it starts with."""
        if len(request.version) > VERSION_CHARS_MAX:
            raise invalid_field("version", f"at most {VERSION_CHARS_MAX} characters")
        lease = await self._members.register_node(
            RegisterNode(
                node_id=current_caller().node_id,
                endpoints=endpoints_of(request.endpoints),
                task_types=task_types_of(request.task_types),
                slot_count=request.slot_count,
                version=request.version,
                seal_key=seal_key_of(request.seal_key),
                enrolment_endpoints=endpoints_of(
                    request.enrolment_endpoints, "enrolment_endpoints"
                ),
            ),
            incarnation=request.incarnation,
            boot=request.boot,
        )
        return pb.RegisterNodeResponse(
            node_lease=duration_of_ms(lease // timedelta(milliseconds=1))
        )

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        """Renew a lease."""
        lease = self._members.heartbeat(
            current_caller().node_id,
            room_bytes=request.room_bytes if request.HasField("room_bytes") else None,
            content_bytes=request.content_bytes if request.HasField("content_bytes") else None,
            boot=request.boot,
        )
        epoch, revocations = self._members.certificate_news(
            current_caller().node_id,
            epoch=request.certificate_epoch,
            version=request.revocations_version,
        )
        return pb.HeartbeatResponse(
            node_lease=duration_of_ms(lease // timedelta(milliseconds=1)),
            masters=nodes_to_proto(
                self._members.masters(), self._consensus.voters, self._consensus.leader
            ),
            certificate_epoch=epoch,
            revocations=revocations,
            time=timestamp_of_ms(self._members.wall_ms()),
        )

    async def LeaveCluster(
        self, request: pb.LeaveClusterRequest, context: Any
    ) -> pb.LeaveClusterResponse:
        """Remove the calling node."""
        await self._members.leave_cluster(
            current_caller().node_id,
            request_id=request_id_of(request.request_id),
            lose_files=request.lose_files,
            check_only=request.check_only,
        )
        return pb.LeaveClusterResponse()

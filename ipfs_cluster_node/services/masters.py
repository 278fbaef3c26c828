"""MasterService."""

from typing import Any

from ipfs_cluster_node.access.context import current_caller
from ipfs_cluster_node.cluster.certificates.issuing import Certificates
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.codec.enums import GRANT, ROLE
from ipfs_cluster_node.codec.members import (
    did_of,
    endpoints_of,
    nodes_to_proto,
    pem_of,
    seal_key_of,
)
from ipfs_cluster_node.codec.tasks import name_of, request_id_of, timestamp_of_ms
from ipfs_cluster_node.core.commands import RedeemJoinToken
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.internal.v1 import masters_pb2 as pb
from ipfs_cluster_node.internal.v1 import masters_pb2_grpc
from ipfs_cluster_node.services.certificates import issued_fields


class MasterServicer(masters_pb2_grpc.MasterServiceServicer):
    """What masters ask of the leader."""

    def __init__(self, members: Members, certificates: Certificates, consensus: Consensus) -> None:
        self._members = members
        self._certificates = certificates
        self._consensus = consensus

    async def RedeemJoinToken(
        self, request: pb.RedeemJoinTokenRequest, context: Any
    ) -> pb.RedeemJoinTokenResponse:
        """Admit a joiner."""
        admission = await self._members.redeem_join_token(
            RedeemJoinToken(
                token_id=request.token_id,
                secret_hash=request.secret_hash,
                did=did_of(request.did),
                name=name_of(request.name, "name"),
                endpoints=endpoints_of(request.endpoints),
                seal_key=seal_key_of(request.seal_key),
            ),
            request_id=request_id_of(request.request_id),
            certificate_request=request.certificate_request,
            proof=request.proof,
            check_only=request.check_only,
        )
        state = self._consensus.state()
        return pb.RedeemJoinTokenResponse(
            server_time=timestamp_of_ms(admission.at_ms),
            token_expire_time=timestamp_of_ms(admission.token_expires_at_ms),
            role=ROLE.numbers[admission.role],
            incarnation=admission.incarnation or None,
            grant=GRANT.by.encode(admission.grant),
            **issued_fields(admission.issued),
            cluster_id=state.cluster_id,
            cluster_name=state.cluster_name,
            masters=nodes_to_proto(
                self._members.masters(), self._consensus.voters, self._consensus.leader
            ),
        )

    async def RenewForMember(
        self, request: pb.RenewForMemberRequest, context: Any
    ) -> pb.RenewForMemberResponse:
        """Renew a certificate for a caller that reached another master."""
        issued = await self._certificates.renew_expired_certificate(
            pem_of(request.certificate_pem), request.certificate_request, request.proof
        )
        return pb.RenewForMemberResponse(**issued_fields(issued))

    async def ReplaceLog(
        self, request: pb.ReplaceLogRequest, context: Any
    ) -> pb.ReplaceLogResponse:
        """Have a master start a new log."""
        if request.HasField("incarnation") and request.incarnation < 1:
            raise invalid_field("incarnation", "1 or more; leave it unset if it is not known")
        incarnation = await self._members.replace_log(
            current_caller().node_id,
            damaged=request.incarnation,
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.ReplaceLogResponse(incarnation=incarnation)

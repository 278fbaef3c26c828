"""EnrolmentService."""

from hashlib import sha256
from typing import Any

from ipfs_cluster_node.codec.members import did_of, endpoints_of, name_of, pem_of, seal_key_of
from ipfs_cluster_node.codec.tasks import request_id_of
from ipfs_cluster_node.core.commands import RedeemJoinToken
from ipfs_cluster_node.services.ports import EnrolmentPort
from ipfs_cluster_node.v1 import enrolment_pb2 as pb
from ipfs_cluster_node.v1 import enrolment_pb2_grpc


class EnrolmentServicer(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Gives first certificates."""

    def __init__(self, enrolment: EnrolmentPort) -> None:
        """Serve this."""
        self._enrolment = enrolment

    async def Enrol(self, request: pb.EnrolRequest, context: Any) -> pb.EnrolResponse:
        """Redeem a join token for a certificate."""
        enrolled = await self._enrolment.enrol(
            RedeemJoinToken(
                token_id=name_of(request.token_id, "token_id"),
                secret_hash=sha256(request.token_secret.encode()).digest(),
                did=did_of(request.did),
                name=name_of(request.name, "name"),
                endpoints=endpoints_of(request.endpoints),
                seal_key=seal_key_of(request.seal_key),
            ),
            request_id=request_id_of(request.request_id),
            certificate_request=request.certificate_request,
            proof=request.proof,
        )
        return pb.EnrolResponse(
            certificate_pem=enrolled.issued.certificate_pem.decode(),
            trust_bundle_pem=enrolled.issued.trust_bundle_pem.decode(),
            enrolment_endpoints=enrolled.issued.enrolment_endpoints,
            epoch=enrolled.issued.epoch,
            cluster_id=enrolled.cluster_id,
            cluster_name=enrolled.cluster_name,
            role=enrolled.role,
            incarnation=enrolled.incarnation,
            masters=[
                pb.MasterEndpoint(node_id=node_id, endpoints=endpoints)
                for node_id, endpoints in enrolled.masters.items()
            ],
        )

    async def RenewExpired(
        self, request: pb.RenewExpiredRequest, context: Any
    ) -> pb.RenewExpiredResponse:
        """Renew an expired certificate."""
        issued = await self._enrolment.renew_expired(
            pem_of(request.certificate_pem), request.certificate_request, request.proof
        )
        return pb.RenewExpiredResponse(
            certificate_pem=issued.certificate_pem.decode(),
            trust_bundle_pem=issued.trust_bundle_pem.decode(),
            enrolment_endpoints=issued.enrolment_endpoints,
            epoch=issued.epoch,
        )

"""Admits joiners on every master: checked here, admitted and signed by the leader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.cluster.certificates.issuing import Issued, check_renewal
from ipfs_cluster_node.cluster.members import check_enrolment
from ipfs_cluster_node.core.commands import RedeemJoinToken
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.internal.v1 import masters_pb2
from ipfs_cluster_node.internal.v1 import masters_pb2 as pb
from ipfs_cluster_node.internal.v1.masters_pb2_grpc import MasterServiceStub

REDEEM_SECONDS_MAX: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What a joiner receives."""

    issued: Issued
    cluster_id: str
    cluster_name: str
    role: str
    incarnation: int
    masters: Mapping[NodeId, Sequence[str]]
    server_time: Timestamp
    token_expire_time: Timestamp


class Enrolment:
    """Redeems tokens for certificates, and renews expired ones."""

    def __init__(self, connection: Connection, *, clock: Clock) -> None:
        """Forward to the leader what needs the log and the keys."""
        self._connection = connection
        self._clock = clock

    async def enrol(
        self,
        body: RedeemJoinToken,
        *,
        request_id: str,
        certificate_request: bytes,
        proof: bytes,
        check_only: bool = False,
    ) -> Enrolled:
        """Check the joiner, and have the leader consume the token and sign."""
        check_enrolment(
            token_id=body.token_id, did=body.did, request_der=certificate_request, proof=proof
        )
        redeemed: pb.RedeemJoinTokenResponse = await self._connection.unary(
            lambda channel: MasterServiceStub(channel).RedeemJoinToken,
            pb.RedeemJoinTokenRequest(
                request_id=request_id,
                token_id=body.token_id,
                secret_hash=body.secret_hash,
                did=body.did,
                name=body.name,
                endpoints=body.endpoints,
                certificate_request=certificate_request,
                proof=proof,
                seal_key=body.seal_key,
                check_only=check_only,
            ),
            timeout=REDEEM_SECONDS_MAX,
        )
        return Enrolled(
            issued=Issued(
                certificate_pem=redeemed.certificate_pem.encode(),
                trust_bundle_pem=redeemed.trust_bundle_pem.encode(),
                enrolment_endpoints=tuple(redeemed.enrolment_endpoints),
                epoch=redeemed.epoch,
            ),
            cluster_id=redeemed.cluster_id,
            cluster_name=redeemed.cluster_name,
            role=redeemed.role,
            incarnation=redeemed.incarnation,
            masters={NodeId(m.node_id): list(m.endpoints) for m in redeemed.masters},
            server_time=redeemed.server_time,
            token_expire_time=redeemed.token_expire_time,
        )

    async def renew_expired(
        self, certificate_pem: bytes, certificate_request: bytes, proof: bytes
    ) -> Issued:
        """Check that the request is the expired certificate's owner's, and have the leader sign."""
        check_renewal(certificate_pem, certificate_request, proof, now=self._clock.wall())
        renewed: masters_pb2.RenewForMemberResponse = await self._connection.unary(
            lambda channel: MasterServiceStub(channel).RenewForMember,
            masters_pb2.RenewForMemberRequest(
                certificate_pem=certificate_pem.decode(),
                certificate_request=certificate_request,
                proof=proof,
            ),
            timeout=REDEEM_SECONDS_MAX,
        )
        return Issued(
            certificate_pem=renewed.certificate_pem.encode(),
            trust_bundle_pem=renewed.trust_bundle_pem.encode(),
            enrolment_endpoints=tuple(renewed.enrolment_endpoints),
            epoch=renewed.epoch,
        )

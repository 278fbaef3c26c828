"""Admits joiners on every master: checked here, admitted and signed by the leader."""

from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.cluster.certificates.issuing import check_renewal
from ipfs_cluster_node.cluster.members import check_enrolment
from ipfs_cluster_node.core.commands import RedeemJoinToken
from ipfs_cluster_node.internal.v1 import masters_pb2 as pb

REDEEM_SECONDS_MAX: Final = 15.0


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
        check_only: bool,
    ) -> pb.RedeemJoinTokenResponse:
        """Check the joiner, and have the leader consume the token and sign."""
        check_enrolment(
            token_id=body.token_id, did=body.did, request_der=certificate_request, proof=proof
        )
        redeemed: pb.RedeemJoinTokenResponse = await self._connection.unary(
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
        return redeemed

    async def renew_expired_certificate(
        self, certificate_pem: bytes, certificate_request: bytes, proof: bytes
    ) -> pb.RenewForMemberResponse:
        """Check that the request is the expired certificate's owner's, and have the leader sign."""
        check_renewal(certificate_pem, certificate_request, proof, now=self._clock.wall())
        renewed: pb.RenewForMemberResponse = await self._connection.unary(
            pb.RenewForMemberRequest(
                certificate_pem=certificate_pem.decode(),
                certificate_request=certificate_request,
                proof=proof,
            ),
            timeout=REDEEM_SECONDS_MAX,
        )
        return renewed

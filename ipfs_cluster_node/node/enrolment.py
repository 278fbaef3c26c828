"""Lets joiners in, on the first master, which holds the CA's key."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.keys.certificates import LEAF_LIFETIME, CertificateAuthority
from ipfs_cluster_node.adapters.keys.delegation import delegate_grant
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.core.commands import RedeemJoinToken
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.clock import now_ms
from ipfs_cluster_node.node.members import check_enrolment, issue_certificate
from ipfs_cluster_node.v1 import authorization_pb2
from ipfs_cluster_node.v1 import membership_pb2 as pb
from ipfs_cluster_node.v1.authorization_pb2_grpc import AuthorizationServiceStub
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub

REDEEM_SECONDS_MAX: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What a joiner gets."""

    certificate_pem: bytes
    trust_bundle_pem: bytes
    cluster_id: str
    cluster_name: str
    role: str
    incarnation: int
    masters: Mapping[NodeId, Sequence[str]]


class Enrolment:
    """Redeems tokens for certificates."""

    def __init__(
        self, ca: CertificateAuthority, authority: Identity, connection: Connection
    ) -> None:
        """Sign with `ca` and `authority`; have the leader consume tokens."""
        self._ca = ca
        self._authority = authority
        self._connection = connection

    async def enrol(
        self,
        body: RedeemJoinToken,
        *,
        request_id: str,
        certificate_request: bytes,
        proof: bytes,
    ) -> Enrolled:
        """Check the joiner, have the token consumed through the log, then sign."""
        check_enrolment(
            token_id=body.token_id, did=body.did, request_der=certificate_request, proof=proof
        )
        # A name that no certificate can carry is refused before the token is used up.
        issue_certificate(
            self._ca,
            did=body.did,
            request_der=certificate_request,
            endpoints=body.endpoints,
            is_node=True,
        )
        redeemed: pb.RedeemJoinTokenResponse = await self._connection.unary(
            lambda channel: MembershipServiceStub(channel).RedeemJoinToken,
            pb.RedeemJoinTokenRequest(
                request_id=request_id,
                token_id=body.token_id,
                secret_hash=body.secret_hash,
                did=body.did,
                name=body.name,
                endpoints=body.endpoints,
            ),
            timeout=REDEEM_SECONDS_MAX,
        )
        if redeemed.grant:
            await self._delegate(body, redeemed.grant, request_id)
        certificate = issue_certificate(
            self._ca,
            did=body.did,
            request_der=certificate_request,
            endpoints=body.endpoints,
            is_node=redeemed.role != Role.CLIENT,
        )
        return Enrolled(
            certificate_pem=certificate,
            trust_bundle_pem=self._ca.certificate_pem,
            cluster_id=redeemed.cluster_id,
            cluster_name=redeemed.cluster_name,
            role=redeemed.role,
            incarnation=redeemed.incarnation,
            masters={NodeId(m.node_id): list(m.endpoints) for m in redeemed.masters},
        )

    async def _delegate(self, body: RedeemJoinToken, grant: str, request_id: str) -> None:
        """Have what the joiner may do kept in the log, before it learns that it is in."""
        at_ms = now_ms()
        delegations = delegate_grant(
            self._authority,
            body.did,
            grant,
            expires_s=at_ms // 1000 + int(LEAF_LIFETIME.total_seconds()),
            at_ms=at_ms,
            seed=f"{body.token_id} {request_id}",
        )
        await self._connection.unary(
            lambda channel: AuthorizationServiceStub(channel).PutDelegation,
            authorization_pb2.PutDelegationRequest(
                request_id=secrets.token_hex(12), tokens=[d.token for d in delegations]
            ),
            timeout=REDEEM_SECONDS_MAX,
        )

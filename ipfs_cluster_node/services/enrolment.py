"""EnrolmentService."""

from datetime import timedelta
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import unquote

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.cluster.enrolment import Enrolment
from ipfs_cluster_node.codec.members import did_of, endpoints_of, pem_of, seal_key_of
from ipfs_cluster_node.codec.tasks import name_of, request_id_of
from ipfs_cluster_node.core.commands import RedeemJoinToken
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.rates import RateLimit
from ipfs_cluster_node.services.certificates import issued_fields
from ipfs_cluster_node.v1 import enrolment_pb2 as pb
from ipfs_cluster_node.v1 import enrolment_pb2_grpc

ENROLMENT_BURST: Final = 60
"""Calls that one address may make at once; sized for a rack of joiners behind one router."""
ENROLMENTS_PER_SECOND: Final = 2.0
"""Calls that one address may make for long."""
NETWORK_BITS: Final = 64
"""Bits of an IPv6 address that count as its origin: one host may use any address of its /64."""


def network_of(peer: str) -> str:
    """The caller's origin, as far as it can't choose it: an IPv4 address, or a /64 of IPv6.

    Args:
        peer: As gRPC writes it: `ipv4:192.0.2.7:40312`, `ipv6:%5B2001:db8::1%5D:40312`. The port
            differs with each connection.
    """
    address = peer.rpartition(":")[0]
    text = unquote(address.partition(":")[2]).strip("[]").partition("%")[0]
    try:
        parsed = ip_address(text)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((parsed, NETWORK_BITS), strict=False))


class EnrolmentServicer(enrolment_pb2_grpc.EnrolmentServiceServicer):
    """Issues first certificates."""

    def __init__(self, enrolment: Enrolment, *, clock: Clock) -> None:
        self._enrolment = enrolment
        self._clock = clock
        self._rates = RateLimit(burst=ENROLMENT_BURST, per_second=ENROLMENTS_PER_SECOND)

    async def Enrol(self, request: pb.EnrolRequest, context: Any) -> pb.EnrolResponse:
        """Redeem a join token for a certificate."""
        self._check_rate(context)
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
            check_only=request.check_only,
        )
        return pb.EnrolResponse(
            **issued_fields(enrolled),
            server_time=enrolled.server_time,
            token_expire_time=enrolled.token_expire_time,
            cluster_id=enrolled.cluster_id,
            cluster_name=enrolled.cluster_name,
            role=enrolled.role,
            incarnation=enrolled.incarnation if enrolled.HasField("incarnation") else None,
            masters=[
                pb.MasterEndpoint(
                    node_id=master.node_id, endpoints=master.endpoints, tls_name=master.tls_name
                )
                for master in enrolled.masters
            ],
        )

    async def RenewExpiredCertificate(
        self, request: pb.RenewExpiredCertificateRequest, context: Any
    ) -> pb.RenewExpiredCertificateResponse:
        """Renew an expired certificate."""
        self._check_rate(context)
        issued = await self._enrolment.renew_expired_certificate(
            pem_of(request.certificate_pem), request.certificate_request, request.proof
        )
        return pb.RenewExpiredCertificateResponse(**issued_fields(issued))

    def _check_rate(self, context: Any) -> None:
        wait = self._rates.take(network_of(context.peer()), self._clock.monotonic())
        if wait:
            raise ClusterError(
                Reason.OVERLOADED,
                f"too many attempts from this address; try again in {wait:.1f} s",
                retry_after=timedelta(seconds=wait),
            )

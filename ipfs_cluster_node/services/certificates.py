"""CertificateService."""

from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

from ipfs_cluster_node.access.context import current_caller, current_permissions, shown_certificate
from ipfs_cluster_node.access.turns import gathered
from ipfs_cluster_node.cluster.certificates.issuing import Certificates
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.codec.enums import PHASE
from ipfs_cluster_node.codec.members import did_of, serial_of, serial_text
from ipfs_cluster_node.codec.pages import page_of
from ipfs_cluster_node.codec.tasks import request_id_of, timestamp_of_ms
from ipfs_cluster_node.core.authorization import certificate_args
from ipfs_cluster_node.core.certificates import CertificateRecord
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import certificate_pb2 as pb
from ipfs_cluster_node.v1 import certificate_pb2_grpc


class CertificateServicer(certificate_pb2_grpc.CertificateServiceServicer):
    """Certificates of members."""

    def __init__(self, certificates: Certificates, consensus: Consensus) -> None:
        self._certificates = certificates
        self._consensus = consensus

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Any
    ) -> pb.RenewCertificateResponse:
        """Renew the caller's certificate."""
        issued = await self._certificates.renew_current(
            shown_certificate(context), request.certificate_request, request.proof
        )
        return pb.RenewCertificateResponse(**issued_fields(issued))

    async def ListCertificates(
        self, request: pb.ListCertificatesRequest, context: Any
    ) -> pb.ListCertificatesResponse:
        """List certificates."""
        page = page_of(request, "certificates")
        after = serial_of(page.after) if page.after else 0
        state = self._consensus.read_state()
        table = state.certificates
        if request.serial:
            record = table.get(serial_of(request.serial))
            records: Sequence[CertificateRecord] = () if record is None else (record,)
        elif request.did:
            records = table.of_owner(did_of(request.did))
        else:
            records = table.records()
        permissions = current_permissions()
        prefix = request.serial_prefix
        if prefix:
            serial_of(prefix, "serial_prefix")
        found = await gathered(
            r
            if r.serial > after
            and (not prefix or serial_text(r.serial).startswith(prefix))
            and permissions.allows(certificate_args(r.did))
            else None
            for r in records
        )
        # One more than a page, to know whether more follow.
        first = nsmallest(page.size + 1, found, key=lambda r: r.serial)
        shown, following = await page_of_items(
            ((_to_proto(state, record), f"{record.serial:x}") for record in first), page
        )
        return pb.ListCertificatesResponse(
            certificates=shown,
            next_page_token=following,
        )

    async def RevokeCertificate(
        self, request: pb.RevokeCertificateRequest, context: Any
    ) -> pb.RevokeCertificateResponse:
        """Revoke certificates."""
        await self._certificates.revoke(
            serial=serial_of(request.serial) if request.serial else None,
            did=did_of(request.did) if request.did else None,
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.RevokeCertificateResponse()

    async def RotateCertificates(
        self, request: pb.RotateCertificatesRequest, context: Any
    ) -> pb.RotateCertificatesResponse:
        """Have every node renew its certificate."""
        epoch = await self._certificates.rotate(
            new=request.new_root,
            proceed=request.proceed,
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.RotateCertificatesResponse(epoch=epoch)

    async def GetRotation(
        self, request: pb.GetRotationRequest, context: Any
    ) -> pb.GetRotationResponse:
        """Report the progress of a rotation."""
        rotation = self._certificates.rotation()
        authority = rotation.authority
        return pb.GetRotationResponse(
            phase=PHASE.numbers[authority.phase],
            epoch=authority.epoch,
            phase_time=timestamp_of_ms(authority.phase_at_ms),
            root_pins=rotation.root_pins,
            confirmed_count=rotation.confirmed_count,
            waiting_dids=rotation.waiting,
            waiting_count=rotation.waiting_count,
        )


def issued_fields(issued: Any) -> dict[str, Any]:
    """The fields of a new certificate, `Issued` or a message that holds one."""
    return {
        "certificate_pem": issued.certificate_pem,
        "trust_bundle_pem": issued.trust_bundle_pem,
        "enrolment_endpoints": issued.enrolment_endpoints,
        "epoch": issued.epoch,
    }


def _to_proto(state: ClusterState, record: CertificateRecord) -> pb.Certificate:
    owner = state.members.get(record.did)
    return pb.Certificate(
        serial=serial_text(record.serial),
        did=record.did,
        name="" if owner is None else owner.name,
        spki_sha256=record.spki_hash.hex(),
        issue_time=timestamp_of_ms(record.issued_at_ms),
        expire_time=timestamp_of_ms(record.not_after_s * 1000),
        revoked=state.certificates.is_revoked(record.serial, record.did)
        or owner is None
        or owner.removed,
        epoch=record.epoch,
    )

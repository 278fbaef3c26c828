"""AuditService."""

from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.codec.enums import OUTCOME
from ipfs_cluster_node.codec.pages import page_of
from ipfs_cluster_node.codec.views import AUDIT_RECORD
from ipfs_cluster_node.core.audit import AuditLog, AuditQuery
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.v1 import audit_pb2 as pb
from ipfs_cluster_node.v1 import audit_pb2_grpc

YEAR_9999_S: Final = 253_402_300_799


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """This node's audit log."""

    def __init__(self, audit: AuditLog, node_id: NodeId) -> None:
        self._audit = audit
        self._node_id = node_id

    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: Any
    ) -> pb.ListAuditRecordsResponse:
        """List records."""
        page = page_of(request, "audit")
        records = await self._audit.read(
            AuditQuery(
                since_ms=_ms_of(request.since_time, "since_time"),
                until_ms=_ms_of(request.until_time, "until_time"),
                caller=request.caller_did,
                method=request.method,
                outcome=OUTCOME.word(request.outcome, "outcome") if request.outcome else "",
                before_sequence=page.after_number() or 0,
                size=page.size + 1,
            )
        )
        shown, following = await page_of_items(
            ((AUDIT_RECORD.encode(record), record.sequence) for record in records), page
        )
        return pb.ListAuditRecordsResponse(
            records=shown,
            next_page_token=following,
            node_id=self._node_id,
        )


def _ms_of(time: Timestamp, field: str) -> int:
    if not 0 <= time.seconds <= YEAR_9999_S or not 0 <= time.nanos < 10**9:
        raise invalid_field(field, "a time between 1970 and 9999")
    return 1000 * time.seconds + time.nanos // 10**6

"""`ClusterError` to a gRPC status with details, and back. Shared by servers and clients."""

import asyncio
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from ipfs_cluster_node.core.errors import (
    LOCAL_REASONS,
    ClusterError,
    FieldViolation,
    Leader,
    Reason,
)
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.v1.errors_pb2 import NotLeader

ERROR_DOMAIN: Final = "ipfs_cluster_node"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
REASON_KEY: Final = "ipfs-cluster-node-reason"
"""In the trailing metadata of a failed call: `ErrorInfo.reason`, for callers without google.rpc."""
LEADER_ENDPOINT_KEY: Final = "ipfs-cluster-node-leader-endpoint"
"""In the trailing metadata with NOT_LEADER: the first of `NotLeader.endpoints`."""
CORE_FAILURE: Final = "Internal error from Core"
TOO_LARGE: Final = ("message larger than max", "metadata size exceeds")
"""What gRPC says of a message, or of metadata, that it does not take or send."""
TOO_MANY_CALLS: Final = "Concurrent RPC limit exceeded"
"""What a node's gRPC server says at its limit of calls: the only refusal of the library that is an
overload of the node."""
MESSAGE_CHARS_MAX: Final = 2048
"""Longest status message; trailers have a hard limit of 16 KiB in all."""


def status_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC status of a reason."""
    return grpc.StatusCode[reason.status]


_REASON_BY_STATUS: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE: Reason.UNREACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: Reason.CALLER_UNKNOWN,
    grpc.StatusCode.PERMISSION_DENIED: Reason.CALLER_NOT_ALLOWED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_ARGUMENT,
}


def on_the_wire(reason: Reason) -> Reason:
    """The reason that a caller is told: INTERNAL for one that is not in the API."""
    return Reason.INTERNAL if reason in LOCAL_REASONS else reason


def trailers_of(error: ClusterError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata of a failed call."""
    trailers: tuple[tuple[str, str | bytes], ...] = (
        (STATUS_DETAILS_KEY, status_details(error)),
        (REASON_KEY, on_the_wire(error.reason).value),
    )
    if error.leader is not None and error.leader.endpoints:
        trailers += ((LEADER_ENDPOINT_KEY, error.leader.endpoints[0]),)
    return trailers


def status_details(error: ClusterError) -> bytes:
    """Encode the `google.rpc.Status` that travels in the trailers."""
    reason = on_the_wire(error.reason)
    status = Status(code=status_of(reason).value[0], message=str(error)[:MESSAGE_CHARS_MAX])
    info = ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=dict(error.metadata))
    packed = [_pack(info)]
    if error.leader is not None:
        node_id, endpoints = error.leader.node_id, error.leader.endpoints
        packed.append(_pack(NotLeader(node_id=node_id, endpoints=endpoints)))
    if error.retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        packed.append(_pack(retry))
    if error.violations:
        bad = BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        packed.append(_pack(bad))
    status.details.extend(packed)
    return bytes(status.SerializeToString())


def error_from_rpc(rpc_error: grpc.aio.AioRpcError) -> ClusterError:
    """Read a server's error; one without details gets the nearest reason."""
    for key, value in rpc_error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return _error_from_status(Status.FromString(value))
    code = rpc_error.code()
    message = (rpc_error.details() or code.name.lower())[:MESSAGE_CHARS_MAX]
    if message == CORE_FAILURE:
        # The server ended the call while we were sending: its answer is lost, so retry.
        return ClusterError(Reason.UNREACHABLE, "the call was cut off while it was sent")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # By gRPC itself: mostly no repeat helps.
        if any(said in message for said in TOO_LARGE):
            return ClusterError(Reason.PAYLOAD_TOO_LARGE, message)
        if TOO_MANY_CALLS in message:
            return ClusterError(Reason.OVERLOADED, message)
    return ClusterError(_REASON_BY_STATUS.get(code, Reason.INTERNAL), message)


def _error_from_status(status: Status) -> ClusterError:
    reason, metadata = Reason.INTERNAL, {}
    retry_after: timedelta | None = None
    violations: list[FieldViolation] = []
    leader: Leader | None = None
    info, retry, bad, not_leader = ErrorInfo(), RetryInfo(), BadRequest(), NotLeader()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            reason = Reason.__members__.get(info.reason, Reason.INTERNAL)
            metadata = dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
        elif detail.Unpack(not_leader):
            leader = Leader(not_leader.node_id, tuple(not_leader.endpoints))
        elif detail.Unpack(bad):
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
    return ClusterError(
        reason,
        status.message or Code.Name(status.code),
        metadata=metadata,
        retry_after=retry_after,
        violations=tuple(violations),
        leader=leader,
    )


def _pack(message: ErrorInfo | RetryInfo | BadRequest | NotLeader) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def error_from_ucan(
    error: UcanError, *, command: str = "", now_s: int | None = None, namespace: str = ""
) -> ClusterError:
    """The error of a call for a UCAN refusal.

    `command` is empty if only the tokens are at fault; `namespace` is that of the request. `now_s`,
    this node's time, is reported if the token's times are. The message is for people: what UCAN
    calls it, and the token, are in the metadata.
    """
    metadata = {"ucan_error": error.name.value, "ucan_detail": error.detail}
    if command:
        metadata["command"] = command
    if namespace:
        metadata["namespace"] = namespace
    if error.link is not None:
        metadata["link"] = str(error.link)
    if error.cid is not None:
        metadata["cid"] = str(error.cid)
    if now_s is not None and error.name in {Refusal.EXPIRED, Refusal.TOO_EARLY, Refusal.REPLAY}:
        metadata["server_time_s"] = str(now_s)
    if error.name in _OF_THE_TOKEN:
        return ClusterError(
            Reason.DELEGATION_INVALID,
            f"a delegation that decides this is refused: {error.detail}; present another one",
            metadata=metadata,
        )
    return ClusterError(
        Reason.NOT_DELEGATED,
        f"you were not delegated {command or 'that'} ({error.detail}); `auth explain` says what is "
        "missing, and who delegated to you can grant it",
        metadata=metadata,
    )


_OF_THE_TOKEN: Final = frozenset(
    {
        Refusal.MALFORMED,
        Refusal.TOO_LARGE,
        Refusal.INVALID_SIGNATURE,
        Refusal.EXPIRED,
        Refusal.TOO_EARLY,
        Refusal.UNAVAILABLE_PROOF,
        Refusal.REPLAY,
        Refusal.CHAIN_TOO_LONG,
    }
)
"""Refusals about the tokens themselves, not about permissions."""


def is_being_cancelled() -> bool:
    """Whether the running task is being cancelled.

    gRPC also raises CancelledError if a call ends while it is written to; then the task is not
    being cancelled, and the connection broke.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0

"""Tasks: requests to core values, core values to answers. Validates callers' input."""

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.codec.derived import By, codec
from ipfs_cluster_node.core.errors import ClusterError, FieldViolation, Reason, invalid_field
from ipfs_cluster_node.core.ids import NAME_PATTERN, TaskId
from ipfs_cluster_node.core.model import (
    CONTENT_TYPE_CHARS_MAX,
    DEFAULT_CONTENT_TYPE,
    MESSAGE_CHARS_MAX,
    OUTPUT_TAIL_BYTES_MAX,
    RESULT_INLINE_BYTES_MAX,
    STATES_MAX,
    AttemptId,
    AttemptOutcome,
    Task,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.multiformats import parse_cid
from ipfs_cluster_node.core.printable import end_of_text
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2

ATTEMPT_DIGITS_MAX: Final = 9
NAME_RULE: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -, the first a letter or digit"

_REASON_PREFIX: Final = "ERROR_REASON_"
_STATE_PREFIX: Final = "TASK_STATE_"
_STATE_TO_PROTO: Final = {
    state: pb.TaskState.Value(f"{_STATE_PREFIX}{state.upper()}") for state in TaskState
}
_STATE_FROM_PROTO: Final[dict[int, TaskState]] = {
    value: state for state, value in _STATE_TO_PROTO.items()
}


def name_of(text: str, field: str) -> str:
    """Check a name; raises INVALID_ARGUMENT."""
    if not NAME_PATTERN.fullmatch(text):
        raise invalid_field(field, NAME_RULE)
    return text


def request_id_of(text: str) -> str:
    """Check a request id; raises INVALID_ARGUMENT."""
    return name_of(text, "request_id")


def task_id_of(text: str, field: str = "task_id") -> TaskId:
    """Check a task id; raises INVALID_ARGUMENT."""
    return TaskId(name_of(text, field))


def attempt_text(attempt: AttemptId) -> str:
    """The form of an attempt in metadata."""
    return f"{attempt.task_id}.{attempt.attempt}"


def attempt_from_text(text: str) -> AttemptId:
    """Parse the output of `attempt_text`; raises INVALID_ARGUMENT."""
    task_id, _, number = text.partition(".")
    if not (number.isascii() and number.isdigit() and len(number) <= ATTEMPT_DIGITS_MAX):
        raise invalid_field("attempt", "a task's id, a dot and the number of an attempt")
    return AttemptId(task_id_of(task_id, "attempt"), int(number))


def cid_text(text: str, field: str) -> str:
    """Check a CID and spell it as this project does; raises MALFORMED_CID."""
    try:
        return str(parse_cid(text))
    except ValueError as error:
        raise ClusterError(
            Reason.MALFORMED_CID,
            f"{text[:80]!r} is not a CID that can be stored here",
            violations=(FieldViolation(field, str(error)),),
        ) from error


def reason_to_proto(reason: Reason) -> errors_pb2.ErrorReason.ValueType:
    """Encode a reason."""
    return errors_pb2.ErrorReason.Value(f"{_REASON_PREFIX}{reason}")


def reason_from_proto(value: int) -> Reason:
    """Decode a reason; one of a newer release becomes INTERNAL."""
    name = errors_pb2.ErrorReason.Name(value) if value in errors_pb2.ErrorReason.values() else ""  # type: ignore[arg-type]
    return Reason.__members__.get(name.removeprefix(_REASON_PREFIX), Reason.INTERNAL)


def duration_of_ms(milliseconds: int) -> Duration:
    """Encode a duration."""
    duration = Duration()
    duration.FromMilliseconds(milliseconds)
    return duration


def timestamp_of_ms(milliseconds: int) -> Timestamp | None:
    """Encode an instant; None for 0, which stands for never."""
    if not milliseconds:
        return None
    timestamp = Timestamp()
    timestamp.FromMilliseconds(milliseconds)
    return timestamp


def ms_of_timestamp(timestamp: Timestamp) -> int:
    """Read an instant; an unset one is 0."""
    return timestamp.ToMilliseconds()


_INPUT: Final = codec(TaskInput, pb.TaskInput)
_RESULT: Final = codec(TaskResult, pb.TaskResult)
_FAILURE: Final = codec(
    TaskFailure, pb.TaskFailure, by={"reason": By(reason_to_proto, reason_from_proto)}
)
spec_to_proto: Final = codec(
    TaskSpec,
    pb.TaskSpec,
    codecs={TaskInput: _INPUT},
    renamed={"attempt_timeout_ms": "attempt_timeout"},
    by={"attempt_timeout_ms": By(duration_of_ms, Duration.ToMilliseconds)},
).encode
"""Encodes a spec for a worker."""
attempt_to_proto: Final = codec(AttemptId, worker_pb2.AttemptId).encode
"""Encodes an attempt's id."""


def task_to_proto(
    task: Task, *, with_data: bool = True, progress: tuple[float, str] | None = None
) -> pb.Task:
    """Encode a task; without its inline result for a list."""
    message = pb.Task(
        task_id=task.task_id,
        task_type=task.spec.task_type,
        namespace=task.spec.namespace,
        state=_STATE_TO_PROTO[task.state],
        submitter=task.submitter,
        attempt=task.attempt,
        node_id=task.node_id or "",
        submit_time=timestamp_of_ms(task.submitted_at_ms),
        assign_time=timestamp_of_ms(task.assigned_at_ms),
        finish_time=timestamp_of_ms(task.finished_at_ms),
        inputs=map(_INPUT.encode, task.spec.inputs),
        attempt_timeout=duration_of_ms(task.spec.attempt_timeout_ms),
        priority=task.spec.priority,
        result=None if task.result is None else _RESULT.encode(task.result),
        failure=None if task.failure is None else _FAILURE.encode(task.failure),
    )
    if not with_data:
        if task.result is not None:
            message.result.ClearField("data")
        if task.failure is not None:
            message.failure.ClearField("output_tail")
    if progress is not None and task.state is TaskState.RUNNING:
        message.progress_ratio, message.progress_note = progress
    return message


def task_from_proto(message: pb.Task) -> Task:
    """Decode a task from an answer. Its spec has no payload, its sequence is 0."""
    return Task(
        task_id=TaskId(message.task_id),
        sequence=0,
        spec=TaskSpec(
            task_type=message.task_type,
            namespace=message.namespace,
            inputs=tuple(map(_INPUT.decode, message.inputs)),
            attempt_timeout_ms=message.attempt_timeout.ToMilliseconds(),
            priority=message.priority,
        ),
        submitter=message.submitter,  # type: ignore[arg-type]
        state=_STATE_FROM_PROTO[message.state],
        attempt=message.attempt,
        node_id=message.node_id or None,  # type: ignore[arg-type]
        submitted_at_ms=ms_of_timestamp(message.submit_time),
        assigned_at_ms=ms_of_timestamp(message.assign_time),
        finished_at_ms=ms_of_timestamp(message.finish_time),
        result=_RESULT.decode(message.result) if message.HasField("result") else None,
        failure=_FAILURE.decode(message.failure) if message.HasField("failure") else None,
    )


def states_from_proto(values: Sequence[int]) -> frozenset[TaskState]:
    """Read a filter; raises INVALID_ARGUMENT for an unknown state, and for too many."""
    if len(values) > STATES_MAX:
        raise invalid_field("states", f"at most {STATES_MAX}")
    states = [_STATE_FROM_PROTO.get(value) for value in values]
    if None in states:
        raise invalid_field("states", "each a TaskState other than UNSPECIFIED")
    return frozenset(state for state in states if state is not None)


def states_to_proto(states: Iterable[TaskState]) -> list[pb.TaskState.ValueType]:
    """Encode a filter."""
    return [_STATE_TO_PROTO[state] for state in states]


def attempt_from_proto(message: worker_pb2.AttemptId) -> AttemptId:
    """Decode an attempt's id; an impossible one becomes an attempt of no task."""
    task_id = message.task_id if NAME_PATTERN.fullmatch(message.task_id) else ""
    return AttemptId(TaskId(task_id), message.attempt)


def outcome_to_proto(outcome: AttemptOutcome) -> worker_pb2.AttemptOutcome:
    """Encode an attempt's outcome."""
    message = worker_pb2.AttemptOutcome(id=attempt_to_proto(outcome.id))
    if outcome.result is not None:
        message.result.CopyFrom(_RESULT.encode(outcome.result))
    if outcome.failure is not None:
        message.failure.reason = reason_to_proto(outcome.failure.reason)
        message.failure.message = outcome.failure.message[:MESSAGE_CHARS_MAX]
        message.failure.retryable = outcome.retryable
        message.failure.handed_back = outcome.handed_back
        message.failure.output_tail = end_of_text(
            outcome.failure.output_tail, OUTPUT_TAIL_BYTES_MAX
        )
    return message


def outcome_from_proto(message: worker_pb2.AttemptOutcome) -> AttemptOutcome:
    """Check and decode an attempt's outcome.

    Raises:
        ClusterError: INVALID_ARGUMENT, MALFORMED_CID, PAYLOAD_TOO_LARGE.
    """
    attempt = attempt_from_proto(message.id)
    match message.WhichOneof("outcome"):
        case "result":
            return AttemptOutcome(id=attempt, result=_checked_result(message.result))
        case "failure":
            failure = TaskFailure(
                reason_from_proto(message.failure.reason),
                message.failure.message[:MESSAGE_CHARS_MAX],
                end_of_text(message.failure.output_tail, OUTPUT_TAIL_BYTES_MAX),
            )
            return AttemptOutcome(
                id=attempt,
                failure=failure,
                retryable=message.failure.retryable,
                handed_back=message.failure.handed_back and failure.reason is Reason.WORKER_LOST,
            )
        case _:
            raise invalid_field("outcomes", "each has a result or a failure")


def outcome_or_failure(message: worker_pb2.AttemptOutcome) -> AttemptOutcome:
    """Decode an attempt's outcome; one that can't be accepted becomes a failure.

    So no outcome ends its session, or is sent twice.
    """
    try:
        return outcome_from_proto(message)
    except ClusterError as error:
        # Another worker's release may send outcomes that this one understands.
        unknown = message.WhichOneof("outcome") is None
        return AttemptOutcome(
            id=attempt_from_proto(message.id),
            failure=TaskFailure(
                error.reason, f"the attempt's outcome is refused: {error}"[:MESSAGE_CHARS_MAX]
            ),
            retryable=unknown,
        )


def _checked_result(message: pb.TaskResult) -> TaskResult:
    if len(message.data) > RESULT_INLINE_BYTES_MAX:
        raise ClusterError(
            Reason.PAYLOAD_TOO_LARGE,
            f"an inline result has at most {RESULT_INLINE_BYTES_MAX} bytes; add it as content "
            "and name it by CID",
        )
    if len(message.content_type) > CONTENT_TYPE_CHARS_MAX:
        raise invalid_field("result.content_type", f"at most {CONTENT_TYPE_CHARS_MAX} characters")
    if message.size_bytes < 0:
        raise invalid_field("result.size_bytes", "0 or more")
    return TaskResult(
        data=message.data,
        content_type=message.content_type or DEFAULT_CONTENT_TYPE,
        cid=cid_text(message.cid, "result.cid") if message.cid else "",
        size_bytes=message.size_bytes if message.cid else len(message.data),
    )

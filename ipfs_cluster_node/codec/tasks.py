"""Tasks: requests to core values, core values to answers. Validates callers' input."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.codec.derived import By, codec
from ipfs_cluster_node.codec.enums import FILE_FORMAT, TASK_STATE
from ipfs_cluster_node.codec.errors import on_the_wire
from ipfs_cluster_node.core.errors import ClusterError, FieldViolation, Reason, invalid_field
from ipfs_cluster_node.core.ids import NAME_PATTERN, TaskId, is_namespace
from ipfs_cluster_node.core.model import (
    CONTENT_TYPE_CHARS_MAX,
    DEFAULT_CONTENT_TYPE,
    MESSAGE_CHARS_MAX,
    NAMESPACE_PATTERN_CHARS_MAX,
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
from ipfs_cluster_node.core.ucan.globs import Glob
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2

ATTEMPT_DIGITS_MAX: Final = 9
NAME_RULE: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -, the first a letter or digit"
NAMESPACE_RULE: Final = "names as of tasks, up to 8, separated by slashes; at most 128 characters"

_REASON_PREFIX: Final = "ERROR_REASON_"


def name_of(text: str, field: str) -> str:
    """Check a name; raises INVALID_ARGUMENT."""
    if not NAME_PATTERN.fullmatch(text):
        raise invalid_field(field, NAME_RULE)
    return text


def prefix_of(text: str, field: str) -> str:
    """Check the beginning of an id by which a list is filtered; an empty one filters nothing."""
    return name_of(text, field) if text else ""


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
    """Encode a reason; INTERNAL for one that is not in the API."""
    return errors_pb2.ErrorReason.Value(f"{_REASON_PREFIX}{on_the_wire(reason)}")


def reason_from_proto(value: int) -> Reason:
    """Decode a reason; one of a newer release becomes INTERNAL."""
    name = errors_pb2.ErrorReason.Name(value) if value in errors_pb2.ErrorReason.values() else ""  # type: ignore[arg-type]
    return Reason.__members__.get(name.removeprefix(_REASON_PREFIX), Reason.INTERNAL)


def duration_of_ms(milliseconds: int) -> Any:
    """The fields of a duration."""
    seconds, rest = divmod(milliseconds, 1000)
    return {"seconds": seconds, "nanos": rest * 1_000_000}


def timestamp_of_ms(milliseconds: int) -> Any:
    """The fields of an instant; None for 0, which stands for never.

    A message's constructor takes fields faster than a message, which it copies.
    """
    return duration_of_ms(milliseconds) if milliseconds else None


def _limit_of_ms(milliseconds: int) -> Any:
    """The fields of a time limit; None for 0, which stands for none."""
    return duration_of_ms(milliseconds) if milliseconds else None


def ms_of_timestamp(timestamp: Timestamp) -> int:
    """Read an instant; an unset one is 0."""
    return timestamp.seconds * 1000 + timestamp.nanos // 1_000_000


def ms_of_duration(duration: Duration) -> int:
    """Read a duration."""
    return duration.seconds * 1000 + duration.nanos // 1_000_000


_INPUT: Final = codec(TaskInput, pb.TaskInput, by={"format": FILE_FORMAT.by})
_RESULT: Final = codec(TaskResult, pb.TaskResult)
_FAILURE: Final = codec(
    TaskFailure, pb.TaskFailure, by={"reason": By(reason_to_proto, reason_from_proto)}
)
TIMEOUTS: Final = {"attempt_timeout_ms": "attempt_timeout", "task_timeout_ms": "task_timeout"}
"""A specification's fields that are durations in a message."""
BY_TIMEOUT: Final = {
    "attempt_timeout_ms": By(duration_of_ms, ms_of_duration),
    "task_timeout_ms": By(_limit_of_ms, ms_of_duration),
}
_SPEC: Final = codec(
    TaskSpec,
    pb.TaskSpec,
    codecs={TaskInput: _INPUT},
    renamed=TIMEOUTS,
    by=BY_TIMEOUT,
)
spec_to_proto: Final = _SPEC.encode
"""Encodes a spec for a worker, or to be submitted."""
attempt_to_proto: Final = codec(AttemptId, worker_pb2.AttemptId).encode
"""Encodes an attempt's id."""


def task_to_proto(
    task: Task, *, with_data: bool = True, progress: tuple[float, str] | None = None
) -> pb.Task:
    """Encode a task, without its payload; without inline result and output for a list."""
    # A message takes fields as they are, and copies messages.
    spec: Any = _SPEC.named(task.spec)
    del spec["payload"]
    status: Any = {
        "state": TASK_STATE.numbers[task.state],
        "submitter_did": task.submitter,
        "attempt": task.attempt,
        "node_id": task.node_id,
        "submit_time": timestamp_of_ms(task.submitted_at_ms),
        "assign_time": timestamp_of_ms(task.assigned_at_ms),
        "finish_time": timestamp_of_ms(task.finished_at_ms),
        "failed_attempt_count": task.failed_count,
        "lost_attempt_count": task.lost_count,
    }
    if task.spec.payload or not task.state.is_terminal:
        status["payload_size_bytes"] = len(task.spec.payload)
    if task.result is not None:
        status["result"] = _RESULT.named(task.result)
        if not with_data:
            del status["result"]["data"]
    if task.failure is not None:
        status["failure"] = _FAILURE.named(task.failure)
        if not with_data:
            del status["failure"]["output_tail"]
    if progress is not None and task.state is TaskState.RUNNING:
        status["progress_ratio"], status["progress_note"] = progress
    return pb.Task(task_id=task.task_id, spec=spec, status=status)


def states_from_proto(values: Sequence[int]) -> frozenset[TaskState]:
    """Read a filter; raises INVALID_ARGUMENT for an unknown state, and for too many."""
    if len(values) > STATES_MAX:
        raise invalid_field("states", f"at most {STATES_MAX}")
    states = [TASK_STATE.words.get(value) for value in values]
    if None in states:
        raise invalid_field("states", "each a TaskState other than UNSPECIFIED")
    return frozenset(state for state in states if state is not None)


def namespaces_from_proto(pattern: str) -> Callable[[str], bool] | None:
    """Read a filter of namespaces, None for all; raises INVALID_ARGUMENT for a long one."""
    if len(pattern) > NAMESPACE_PATTERN_CHARS_MAX:
        raise invalid_field(
            "namespace_pattern", f"at most {NAMESPACE_PATTERN_CHARS_MAX} characters"
        )
    return Glob.parse(pattern).matches if pattern else None


def namespace_of(message: Any, field: str) -> str:
    """Read the `namespace` of a message, empty if it names none; raises INVALID_ARGUMENT."""
    namespace: str = message.namespace
    if namespace and not is_namespace(namespace):
        raise invalid_field(field, NAMESPACE_RULE)
    return namespace


def states_to_proto(states: Iterable[TaskState]) -> list[pb.TaskState.ValueType]:
    """Encode a filter."""
    return [TASK_STATE.numbers[state] for state in states]


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

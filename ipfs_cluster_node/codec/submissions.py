"""Submitted tasks, decoded and checked once for all users."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Final, Self

from ipfs_cluster_node.codec.enums import FILE_FORMAT
from ipfs_cluster_node.codec.tasks import NAME_RULE, NAMESPACE_RULE, cid_text, ms_of_duration
from ipfs_cluster_node.core.errors import ClusterError, FieldViolation, Reason, invalid_field
from ipfs_cluster_node.core.ids import NAME_PATTERN, is_namespace
from ipfs_cluster_node.core.model import (
    ATTEMPT_COUNT_DEFAULT,
    ATTEMPT_COUNT_MAX,
    ATTEMPT_TIMEOUT_MS_DEFAULT,
    ATTEMPT_TIMEOUT_MS_MAX,
    ATTEMPT_TIMEOUT_MS_MIN,
    CONTENT_TYPE_CHARS_MAX,
    DEFAULT_CONTENT_TYPE,
    DEFAULT_NAMESPACE,
    PAYLOAD_BYTES_MAX,
    PRIORITY_MAX,
    SUBMISSION_BYTES_MAX,
    SUBMISSION_INPUTS_MAX,
    SUBMISSION_TASKS_MAX,
    TASK_INPUTS_MAX,
    TASK_TIMEOUT_MS_DEFAULT,
    TASK_TIMEOUT_MS_MAX,
    TASK_TIMEOUT_MS_MIN,
    TaskInput,
    TaskSpec,
)
from ipfs_cluster_node.core.multiformats import is_canonical
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb

VIOLATIONS_MAX: Final = 16
"""Most violations named in one refusal, as trailers are bounded."""
INPUT_CID_SEARCH_BYTES: Final = 4096
"""How much of a payload is searched for `input_cid`."""


class Submission:
    """The tasks of one request; can be iterated any number of times.

    Each spec is decoded on first use, and cached: policies are evaluated on the value that goes
    into the log. A caller refused at the first spec costs one decoding; all may take a while, so
    iterating code must yield to the event loop.
    """

    __slots__ = ("_field", "_messages", "_specs", "request_id")

    def __init__(self, messages: Sequence[pb.TaskSpec], field: str, request_id: str) -> None:
        """Decode nothing yet; errors name the tasks `field`."""
        self._messages, self._field = messages, field
        self._specs: list[TaskSpec] = []
        self.request_id = request_id
        """As received, not checked."""

    @classmethod
    def of_one(cls, request: pb.SubmitTaskRequest) -> Self:
        """The task of `SubmitTask`."""
        return cls([request.spec], "spec", request.request_id)

    @classmethod
    def of_many(cls, request: pb.SubmitTasksRequest) -> Self:
        """The tasks of `SubmitTasks`."""
        return cls(request.specs, "specs", request.request_id)

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[TaskSpec]:
        """Iterate over the specs.

        Raises:
            ClusterError: INVALID_ARGUMENT, PAYLOAD_TOO_LARGE, MALFORMED_CID, naming the field.
        """
        many = len(self) > 1
        for position, message in enumerate(self._messages):
            if position == len(self._specs):
                field = f"{self._field}[{position}]" if many else self._field
                self._specs.append(_spec_from_proto(message, field))
            yield self._specs[position]

    @property
    def first(self) -> TaskSpec:
        """The first spec; raises like iterating."""
        return self._specs[0] if self._specs else next(iter(self))

    def check_size(self) -> None:
        """Check the total size before decoding anything.

        Raises:
            ClusterError: INVALID_ARGUMENT, PAYLOAD_TOO_LARGE, naming the field.
        """
        if not 1 <= len(self) <= SUBMISSION_TASKS_MAX:
            raise invalid_field(self._field, f"1 to {SUBMISSION_TASKS_MAX} tasks at once")
        if len(self) == 1:
            return  # A single task's payload and inputs have their own bounds.
        input_count = sum(len(spec.inputs) for spec in self._messages)
        if input_count > SUBMISSION_INPUTS_MAX:
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE,
                f"the tasks name {input_count} inputs, at most {SUBMISSION_INPUTS_MAX} go at once; "
                "submit fewer tasks",
            )
        total_bytes = sum(len(spec.payload) for spec in self._messages)
        if total_bytes > SUBMISSION_BYTES_MAX:
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE,
                f"the payloads have {total_bytes} bytes, at most {SUBMISSION_BYTES_MAX} go at "
                "once; submit fewer, or add the data and name it by CID",
            )

    def has_inputs(self) -> bool:
        """Whether a task reads a file. Decodes nothing else; raises like iterating."""
        if len(self._specs) == len(self):
            return any(spec.inputs for spec in self._specs)
        return any(inputs_from_proto(message, self._field) for message in self._messages)

    def keeps_results(self) -> bool:
        """Whether the result of a task is to be kept; decodes nothing."""
        return any(message.keep_result for message in self._messages)

    def fingerprint(self) -> bytes:
        """SHA-256 of the request."""
        digest = hashlib.sha256()
        for message in self._messages:
            encoded = message.SerializeToString(deterministic=True)
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.digest()


def inputs_from_proto(message: pb.TaskSpec, field: str) -> tuple[TaskInput, ...]:
    """The files that a task reads; raises like `Submission`.

    `inputs` of the message; if it is empty, the payload's `input_cid`, a short form for one input
    (docs/tasks.md). Nothing else derives them: these are the files that the submitter must be
    allowed to read.
    """
    if len(message.inputs) > TASK_INPUTS_MAX:
        raise invalid_field(f"{field}.inputs", f"at most {TASK_INPUTS_MAX}")
    if message.inputs or b'"input_cid"' not in message.payload[:INPUT_CID_SEARCH_BYTES]:
        formats = FILE_FORMAT.by.decode
        return tuple(
            TaskInput(i.name, _input_cid(i.cid, field, n), formats(i.format))
            for n, i in enumerate(message.inputs)
        )
    try:
        decoded = json.loads(message.payload)
    except (ValueError, RecursionError):
        return ()  # Not JSON, so it has no `input_cid`.
    cid = decoded.get("input_cid") if isinstance(decoded, dict) else None
    if cid is None:
        return ()
    if not isinstance(cid, str):
        raise invalid_field(f"{field}.payload", "its `input_cid` is a CID, as text")
    return (TaskInput("input", cid_text(cid, f"{field}.payload.input_cid")),)


def _spec_from_proto(message: pb.TaskSpec, field: str) -> TaskSpec:
    bad: list[FieldViolation] = []

    def check(holds: bool, name: str, rule: str) -> None:  # noqa: FBT001
        if not holds:
            bad.append(FieldViolation(f"{field}.{name}", rule))

    if len(message.payload) > PAYLOAD_BYTES_MAX:
        raise ClusterError(
            Reason.PAYLOAD_TOO_LARGE,
            f"the payload has {len(message.payload)} bytes, at most {PAYLOAD_BYTES_MAX} are "
            "taken; add the data and name it by CID",
            violations=(FieldViolation(f"{field}.payload", f"at most {PAYLOAD_BYTES_MAX} bytes"),),
        )
    timeout_ms = ATTEMPT_TIMEOUT_MS_DEFAULT
    if message.HasField("attempt_timeout"):
        timeout_ms = ms_of_duration(message.attempt_timeout)
    task_timeout_ms = TASK_TIMEOUT_MS_DEFAULT
    if message.HasField("task_timeout"):
        task_timeout_ms = ms_of_duration(message.task_timeout)
    namespace = message.namespace or DEFAULT_NAMESPACE
    attempt_count_max = ATTEMPT_COUNT_DEFAULT
    if message.HasField("attempt_count_max"):
        attempt_count_max = message.attempt_count_max
    check(bool(NAME_PATTERN.fullmatch(message.task_type)), "task_type", NAME_RULE)
    check(
        is_namespace(namespace),
        "namespace",
        NAMESPACE_RULE,
    )
    check(
        len(message.content_type) <= CONTENT_TYPE_CHARS_MAX,
        "content_type",
        f"at most {CONTENT_TYPE_CHARS_MAX} characters",
    )
    check(
        ATTEMPT_TIMEOUT_MS_MIN <= timeout_ms <= ATTEMPT_TIMEOUT_MS_MAX,
        "attempt_timeout",
        "100 ms to 24 hours",
    )
    check(
        TASK_TIMEOUT_MS_MIN <= task_timeout_ms <= TASK_TIMEOUT_MS_MAX,
        "task_timeout",
        "1 second to 30 days",
    )
    check(
        1 <= attempt_count_max <= ATTEMPT_COUNT_MAX,
        "attempt_count_max",
        f"1 to {ATTEMPT_COUNT_MAX}",
    )
    check(0 <= message.priority <= PRIORITY_MAX, "priority", f"0 to {PRIORITY_MAX}")
    check(len(message.inputs) <= TASK_INPUTS_MAX, "inputs", f"at most {TASK_INPUTS_MAX}")
    if len(message.inputs) <= TASK_INPUTS_MAX:
        names = {task_input.name for task_input in message.inputs}
        check(len(names) == len(message.inputs), "inputs", "each name once")
        for position, task_input in enumerate(message.inputs):
            if not NAME_PATTERN.fullmatch(task_input.name):
                check(False, f"inputs[{position}].name", NAME_RULE)
            if task_input.format and task_input.format not in FILE_FORMAT.words:
                check(False, f"inputs[{position}].format", f"{FILE_FORMAT}, or unset")
    if bad:
        raise ClusterError(
            Reason.INVALID_ARGUMENT, "bad request", violations=tuple(bad[:VIOLATIONS_MAX])
        )
    return TaskSpec(
        task_type=message.task_type,
        payload=message.payload,
        content_type=message.content_type or DEFAULT_CONTENT_TYPE,
        inputs=inputs_from_proto(message, field),
        attempt_timeout_ms=timeout_ms,
        attempt_count_max=attempt_count_max,
        priority=message.priority,
        namespace=namespace,
        task_timeout_ms=task_timeout_ms,
        keep_result=message.keep_result,
    )


def _input_cid(text: str, field: str, position: int) -> str:
    """Like `cid_text`, with a fast path for canonical CIDs."""
    return text if is_canonical(text) else cid_text(text, f"{field}.inputs[{position}].cid")

"""The values of the replicated state."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NO_TASK, Did, NodeId, TaskId, node_id_from_did

MIB: Final = 1024 * 1024

PAYLOAD_BYTES_MAX: Final = MIB
PAYLOAD_KEPT_BYTES_MAX: Final = 4096
"""A payload of this size stays with its task after the end, and is shown."""
SUBMISSION_BYTES_MAX: Final = 3 * MIB // 2
"""All payloads of one `SubmitTasks`; leaves room in a log entry of 2 MiB."""
SUBMISSION_TASKS_MAX: Final = 1000
SUBMISSION_INPUTS_MAX: Final = 16_384
"""All inputs of one `SubmitTasks`: as many as a log entry has room for."""
BACKUP_SECONDS_MAX: Final = 3600.0
"""Time limit for reading one backup."""
WATCHED_TASKS_MAX: Final = 20_000
"""Most tasks that one call watches."""
STATES_MAX: Final = 16
"""Most states in a list's filter: there are fewer."""
NAMESPACE_PATTERN_CHARS_MAX: Final = 256
"""Of a list's filter: twice the longest namespace, each character of which may be escaped."""
RESULT_INLINE_BYTES_MAX: Final = 64 * 1024
TASK_INPUTS_MAX: Final = 64
ATTEMPT_COUNT_DEFAULT: Final = 3
ATTEMPT_COUNT_MAX: Final = 20
ATTEMPT_LOST_MAX: Final = 10
"""Lost attempts after which a task fails; it may be the task that kills its workers."""
ATTEMPTS_KEPT_MAX: Final = 10
"""Ended attempts that a task remembers, the latest."""
ATTEMPT_MESSAGE_CHARS_MAX: Final = 200
"""Of the message of such an attempt. Ten weigh as much as a task's inputs may: neither is counted
against `task_bytes_max`."""
ATTEMPT_TIMEOUT_MS_DEFAULT: Final = 10 * 60 * 1000
ATTEMPT_TIMEOUT_MS_MIN: Final = 100
ATTEMPT_TIMEOUT_MS_MAX: Final = 24 * 60 * 60 * 1000
TASK_TIMEOUT_MS_DEFAULT: Final = 7 * 24 * 60 * 60 * 1000
"""A week: nothing waits for ever, but a weekend without workers fails no task, and neither do three
attempts, the default, of 24 hours, the most. Ended tasks are kept as long."""
TASK_TIMEOUT_MS_MIN: Final = 1000
TASK_TIMEOUT_MS_MAX: Final = 30 * 24 * 60 * 60 * 1000
PRIORITY_MAX: Final = 9
DEFAULT_NAMESPACE: Final = "default"
DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
INPUT_FORMATS: Final = ("", "csv", "parquet", "arrow")
TOKEN_FAILURES_MAX: Final = 10
"""Wrong secrets after which a join token is locked."""
TOKEN_USES_MAX: Final = 50
ENDPOINTS_MAX: Final = 8
TASK_TYPES_MAX: Final = 256
SLOTS_MAX: Final = 1024
MESSAGE_CHARS_MAX: Final = 1024
"""Longest stored failure message."""
NOTE_CHARS_MAX: Final = 256
"""Longest note on the progress of an attempt."""
CONTENT_TYPE_CHARS_MAX: Final = 128
OUTPUT_TAIL_BYTES_MAX: Final = 64 * 1024
"""Stored end of a failed attempt's output: on every master, in the log, and counted against
`task_bytes_max` like a result, which may be as large."""


class Role(StrEnum):
    """The role of a principal."""

    MASTER = "master"
    WORKER = "worker"
    LEECHER = "leecher"
    CLIENT = "client"


class Liveness(StrEnum):
    """Whether a node's lease is current."""

    ENROLLED = "enrolled"
    ALIVE = "alive"
    DEAD = "dead"


class TaskState(StrEnum):
    """The state of a task."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self not in (TaskState.PENDING, TaskState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A node or client known to the cluster. Times are milliseconds since 1970 (UTC)."""

    did: Did
    name: str
    role: Role
    endpoints: tuple[str, ...] = ()
    incarnation: int = 0
    enrolled_at_ms: int
    removed: bool = False
    liveness: Liveness = Liveness.ENROLLED
    liveness_at_ms: int
    task_types: tuple[str, ...] = ()
    slot_count: int = 0
    version: str = ""
    grant: str = ""
    """A client's preset when it joined: a key of `GRANTS`."""
    namespace: str = ""
    """What the preset is limited to, such as `team-a/*`; empty: not limited."""
    ended_commands: tuple[str, ...] = ()
    """Commands of the preset that were revoked: not delegated again."""
    seal_key: bytes = b""
    """A master's X25519 public key, to which the cluster's keys are sealed."""
    enrolment_endpoints: tuple[str, ...] = ()
    """A master's enrolment endpoints."""

    @property
    def is_node(self) -> bool:
        """Whether it is a node rather than a client."""
        return self.role is not Role.CLIENT

    @property
    def node_id(self) -> NodeId:
        """Its PeerID."""
        return node_id_from_did(self.did)


@dataclass(frozen=True, slots=True)
class Joiner:
    """A joiner with a token that needs approval."""

    did: Did
    name: str
    endpoints: tuple[str, ...]
    asked_at_ms: int
    approved: bool | None = None
    """None while there is no decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A join token, without its secret."""

    token_id: str
    secret_hash: bytes
    role: Role
    expires_at_ms: int
    uses_max: int
    addresses: tuple[str, ...] = ()
    grant: str = ""
    namespace: str = ""
    """What the preset is limited to; empty: not limited."""
    failure_count: int = 0
    dids: tuple[Did, ...] = ()
    """The joiners that used it, one entry per use."""
    needs_approval: bool = False
    """Whether its joiners need approval."""
    joiners: tuple[Joiner, ...] = ()
    """Joiners that wait, or were decided on and are not members yet."""
    creator: str = ""
    """The DID of its creator: it ends with that member."""


@dataclass(frozen=True, slots=True)
class TaskInput:
    """A file for a task."""

    name: str
    cid: str
    format: str = ""
    """One of `INPUT_FORMATS`; empty means detected from the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """The specification of a task."""

    task_type: str
    payload: bytes = b""
    content_type: str = DEFAULT_CONTENT_TYPE
    inputs: tuple[TaskInput, ...] = ()
    attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS_DEFAULT
    attempt_count_max: int = ATTEMPT_COUNT_DEFAULT
    priority: int = 0
    namespace: str = DEFAULT_NAMESPACE
    task_timeout_ms: int = 0
    """From its submission to its end; 0, as in older logs: no limit. A submission gets
    `TASK_TIMEOUT_MS_DEFAULT`."""
    keep_result: bool = False
    """Whether its result's file stays until it is removed, not as long as the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The result of a task."""

    data: bytes = b""
    content_type: str = DEFAULT_CONTENT_TYPE
    cid: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Why a task, or an attempt, failed."""

    reason: Reason
    message: str
    output_tail: str = ""
    """The end of its handler's output, including tracebacks."""


@dataclass(frozen=True, slots=True)
class AttemptId:
    """One attempt of one task; `attempt` is the fencing epoch."""

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """How an attempt ended: exactly one of `result` and `failure` is set."""

    id: AttemptId
    result: TaskResult | None = None
    failure: TaskFailure | None = None
    retryable: bool = False
    handed_back: bool = False
    """Whether its worker handed it back: neither a failure nor a loss, but WORKER_LOST."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """An attempt that ended without ending its task."""

    attempt: int
    node_id: NodeId
    assigned_at_ms: int
    ended_at_ms: int
    reason: Reason
    message: str
    """The start of the failure's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task and its outcome. Times are milliseconds since 1970 (UTC), 0 for never."""

    task_id: TaskId
    sequence: int
    """Counts submissions; lists are paged by it."""
    spec: TaskSpec
    """Without the payload once the task has ended, unless it is small."""
    submitter: Did
    state: TaskState = TaskState.PENDING
    attempt: int = 0
    failed_count: int = 0
    lost_count: int = 0
    node_id: NodeId | None = None
    submitted_at_ms: int
    assigned_at_ms: int = 0
    finished_at_ms: int = 0
    result: TaskResult | None = None
    failure: TaskFailure | None = None
    request_id: str = ""
    """Of the submission; empty for a task without history, as in older logs."""
    ended_attempts: tuple[EndedAttempt, ...] = ()
    """The latest that ended without ending the task, at most `ATTEMPTS_KEPT_MAX`, oldest first."""

    @property
    def has_history(self) -> bool:
        """Whether it keeps a small payload after its end, and how its attempts ended."""
        return bool(self.request_id)

    @property
    def kept_payload(self) -> bytes | None:
        """The payload, if the task has it and it is small enough to be shown."""
        payload = self.spec.payload
        is_known = payload or not self.state.is_terminal
        return payload if is_known and len(payload) <= PAYLOAD_KEPT_BYTES_MAX else None

    @property
    def deadline_ms(self) -> int:
        """When its time is over; 0 if it has no timeout."""
        timeout_ms = self.spec.task_timeout_ms
        return self.submitted_at_ms + timeout_ms if timeout_ms else 0

    @property
    def final_failure(self) -> TaskFailure | None:
        """Why it failed; None while it may be retried, even if an attempt failed."""
        return self.failure if self.state is TaskState.FAILED else None

    @property
    def stored_bytes(self) -> int:
        """Its size, counted against `task_bytes_max`."""
        data = len(self.result.data) if self.result else 0
        printed = len(self.failure.output_tail) if self.failure else 0
        return len(self.spec.payload) + data + printed


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentMaker:
    """The last task of a namespace that a file came from as a result."""

    namespace: str
    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file, and the nodes that the log names as its holders.

    Masters store all of it. A worker that made it as a result is named too, but does not keep it.
    """

    cid: str
    size_bytes: int
    holders: tuple[NodeId, ...]
    name: str = ""
    added_at_ms: int
    goes_with: TaskId = NO_TASK
    """The task whose result it last was: kept nowhere, the file is deleted after that task."""
    namespaces: tuple[str, ...] = ()
    """Those it is kept in until it is removed, sorted: where people added or kept it."""
    makers: tuple[ContentMaker, ...] = ()
    """One for each namespace that it is in as a result, in their order. In an older log a file has
    neither: see `core/file_namespaces.py`."""

"""One error type and one list of reasons, the same from the core to every client.

A caller branches on `reason`; the message is one sentence for people and names the way out.
`protos/ipfs_cluster_node/v1/errors.proto` says what each reason means, and `LOCAL_REASONS` what
those mean that no call carries; a test keeps the lists equal. The tables of docs/errors.md are made
from both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Flag, IntEnum, StrEnum, auto
from types import MappingProxyType
from typing import Final, Self


class Exit(IntEnum):
    """Exit statuses of the command line. Promised: docs/errors.md lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_LEADER = 3
    DENIED = 4
    NOT_FOUND = 5
    TASK_FAILED = 6
    TIME_OVER = 7
    REMOVED = 8
    INTERRUPTED = 130
    """A shell's exit status for a command ended by SIGINT."""


class Trait(Flag):
    """Properties of a reason for the code that handles it."""

    RETRYABLE = auto()
    """A repeat may succeed, and is safe: mutations carry a request id."""
    MASTER_LOCAL = auto()
    """About one master (its clock, disk, software, keys), not a decision of the cluster: another
    master may succeed, so callers try the next."""
    NO_ANSWER = auto()
    """The caller's own error for a master that did not answer."""
    DENIED = auto()
    """The caller may not do this: recorded in the audit log as a denial."""
    NOT_AUDITED = auto()
    """Left out of the audit log: nothing was done, and the caller tries again or elsewhere, as a
    joiner that waits for approval does every two seconds."""
    FINAL = auto()
    """Another attempt of the same task would fail in the same way."""


NO_TRAIT: Final = Trait(0)


class Reason(StrEnum):
    """Why a call, a task or a command failed: its name, gRPC status, traits and exit status."""

    _value_: str
    status: str
    """The name of the gRPC status code."""
    traits: Trait
    exit_status: Exit

    def __new__(
        cls,
        name: str,
        status: str = "FAILED_PRECONDITION",
        traits: Trait = NO_TRAIT,
        exit_status: Exit = Exit.FAILED,
    ) -> Self:
        """Make one; `Reason(name)` finds it."""
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.status, reason.traits, reason.exit_status = status, traits, exit_status
        return reason

    def has(self, trait: Trait) -> bool:
        """Whether it has one of these traits."""
        return bool(self.traits & trait)

    INTERNAL = "INTERNAL", "INTERNAL", Trait.MASTER_LOCAL
    INVALID_ARGUMENT = "INVALID_ARGUMENT", "INVALID_ARGUMENT", Trait.FINAL, Exit.USAGE
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE", "INVALID_ARGUMENT", Trait.FINAL, Exit.USAGE
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED", "ALREADY_EXISTS"
    DEADLINE_EXCEEDED = (
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED",
        Trait.RETRYABLE | Trait.NO_ANSWER,
        Exit.TIME_OVER,
    )
    OVERLOADED = "OVERLOADED", "RESOURCE_EXHAUSTED", Trait.RETRYABLE | Trait.NOT_AUDITED
    SHUTTING_DOWN = (
        "SHUTTING_DOWN",
        "UNAVAILABLE",
        Trait.RETRYABLE | Trait.MASTER_LOCAL | Trait.NOT_AUDITED,
    )
    PROTOCOL_UNSUPPORTED = "PROTOCOL_UNSUPPORTED"

    CALLER_UNKNOWN = "CALLER_UNKNOWN", "UNAUTHENTICATED", Trait.DENIED, Exit.DENIED
    CALLER_NOT_ALLOWED = "CALLER_NOT_ALLOWED", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED
    DELEGATION_INVALID = "DELEGATION_INVALID", "UNAUTHENTICATED", Trait.DENIED, Exit.DENIED
    NOT_DELEGATED = "NOT_DELEGATED", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED
    DELEGATION_NOT_FOUND = "DELEGATION_NOT_FOUND", "NOT_FOUND", NO_TRAIT, Exit.NOT_FOUND
    TOO_MANY_DELEGATIONS = "TOO_MANY_DELEGATIONS", "RESOURCE_EXHAUSTED"
    CERTIFICATE_INVALID = (
        "CERTIFICATE_INVALID",
        "UNAUTHENTICATED",
        Trait.MASTER_LOCAL | Trait.DENIED,
        Exit.DENIED,
    )

    NOT_LEADER = "NOT_LEADER", "UNAVAILABLE", Trait.RETRYABLE | Trait.NOT_AUDITED, Exit.NO_LEADER
    NO_LEADER = "NO_LEADER", "UNAVAILABLE", Trait.RETRYABLE | Trait.NOT_AUDITED, Exit.NO_LEADER
    UNKNOWN_OUTCOME = "UNKNOWN_OUTCOME", "UNAVAILABLE", Trait.RETRYABLE
    LOG_STORAGE_FAILED = "LOG_STORAGE_FAILED", "UNAVAILABLE", Trait.RETRYABLE | Trait.MASTER_LOCAL
    UNREACHABLE = "UNREACHABLE", "UNAVAILABLE", Trait.RETRYABLE | Trait.NO_ANSWER, Exit.NO_LEADER

    MEMBER_NOT_FOUND = "MEMBER_NOT_FOUND", "NOT_FOUND", NO_TRAIT, Exit.NOT_FOUND
    MEMBERSHIP_CHANGE_IN_PROGRESS = "MEMBERSHIP_CHANGE_IN_PROGRESS", "UNAVAILABLE", Trait.RETRYABLE
    PEER_UNREACHABLE = "PEER_UNREACHABLE"
    QUORUM_AT_RISK = "QUORUM_AT_RISK"
    FILES_AT_RISK = "FILES_AT_RISK"

    TOKEN_INVALID = "TOKEN_INVALID", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED
    TOKEN_EXPIRED = "TOKEN_EXPIRED", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED
    TOKEN_USED = "TOKEN_USED", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED
    APPROVAL_PENDING = "APPROVAL_PENDING", "FAILED_PRECONDITION", Trait.NOT_AUDITED
    JOIN_REJECTED = "JOIN_REJECTED", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED
    PROOF_INVALID = "PROOF_INVALID", "PERMISSION_DENIED", Trait.DENIED, Exit.DENIED

    TASK_NOT_FOUND = "TASK_NOT_FOUND", "NOT_FOUND", NO_TRAIT, Exit.NOT_FOUND
    TOO_MANY_TASKS = "TOO_MANY_TASKS", "RESOURCE_EXHAUSTED"
    TASK_FINISHED = "TASK_FINISHED"
    STALE_ATTEMPT = "STALE_ATTEMPT"
    TASK_TYPE_UNKNOWN = "TASK_TYPE_UNKNOWN", "INVALID_ARGUMENT", NO_TRAIT, Exit.USAGE
    HANDLER_FAILED = "HANDLER_FAILED", "UNKNOWN"
    ATTEMPT_TIMED_OUT = "ATTEMPT_TIMED_OUT", "DEADLINE_EXCEEDED"
    WORKER_LOST = "WORKER_LOST", "ABORTED"
    TASK_TIMED_OUT = "TASK_TIMED_OUT", "DEADLINE_EXCEEDED"
    TASK_CANCELLED = "TASK_CANCELLED", "CANCELLED"
    TASK_INPUT_INVALID = "TASK_INPUT_INVALID", "INVALID_ARGUMENT", Trait.FINAL
    SQL_FAILED = "SQL_FAILED", "INVALID_ARGUMENT"
    TASK_RESULT_INVALID = "TASK_RESULT_INVALID", "UNKNOWN"
    TASK_MEMORY_EXCEEDED = "TASK_MEMORY_EXCEEDED", "RESOURCE_EXHAUSTED"

    MALFORMED_CID = "MALFORMED_CID", "INVALID_ARGUMENT", Trait.FINAL, Exit.USAGE
    CONTENT_NOT_FOUND = "CONTENT_NOT_FOUND", "NOT_FOUND", Trait.FINAL, Exit.NOT_FOUND
    BLOCK_MISMATCH = "BLOCK_MISMATCH", "DATA_LOSS", Trait.FINAL
    STORAGE_FULL = "STORAGE_FULL", "RESOURCE_EXHAUSTED", Trait.MASTER_LOCAL
    HOLDERS_MISSING = "HOLDERS_MISSING", "UNAVAILABLE", Trait.RETRYABLE
    CONTENT_NEEDED = "CONTENT_NEEDED"

    SETTING_NOT_FOUND = "SETTING_NOT_FOUND", "NOT_FOUND", NO_TRAIT, Exit.NOT_FOUND
    CONFIG_CHANGED = "CONFIG_CHANGED"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND", "NOT_FOUND", NO_TRAIT, Exit.NOT_FOUND
    CONFIG_INVALID = "CONFIG_INVALID", "FAILED_PRECONDITION", NO_TRAIT, Exit.USAGE
    HOME_MISSING = "HOME_MISSING"
    HOME_IN_USE = "HOME_IN_USE"
    HOME_EXISTS = "HOME_EXISTS"
    HOME_DAMAGED = "HOME_DAMAGED"
    LOG_ROLLED_BACK = "LOG_ROLLED_BACK"
    MEMBER_RUNS_TWICE = "MEMBER_RUNS_TWICE"
    RELEASE_TOO_OLD = "RELEASE_TOO_OLD"
    FEATURE_NOT_READY = "FEATURE_NOT_READY"
    NODE_REMOVED = "NODE_REMOVED", "FAILED_PRECONDITION", Trait.MASTER_LOCAL
    PORT_IN_USE = "PORT_IN_USE"
    CONFINEMENT_MISSING = "CONFINEMENT_MISSING"
    REMOVED_FROM_CLUSTER = "REMOVED_FROM_CLUSTER", "FAILED_PRECONDITION", NO_TRAIT, Exit.REMOVED

    AUTHORITY_SEALED = "AUTHORITY_SEALED", "FAILED_PRECONDITION", Trait.MASTER_LOCAL
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED", "UNAUTHENTICATED", Trait.DENIED, Exit.DENIED
    CERTIFICATE_NOT_FOUND = "CERTIFICATE_NOT_FOUND", "NOT_FOUND", NO_TRAIT, Exit.NOT_FOUND
    ROTATION_IN_PROGRESS = "ROTATION_IN_PROGRESS"
    CLOCK_OFF = "CLOCK_OFF", "UNAVAILABLE", Trait.RETRYABLE | Trait.MASTER_LOCAL


LOCAL_REASONS: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.SETTING_NOT_FOUND: "No setting of this name that you may see.",
        Reason.CONFIG_INVALID: "A configuration file, variable or flag is wrong.",
        Reason.HOME_MISSING: "There is no node in this home directory.",
        Reason.HOME_IN_USE: "Another process is using this home directory.",
        Reason.HOME_EXISTS: "This home directory already holds a node or something else.",
        Reason.HOME_DAMAGED: (
            "A file of the home directory is damaged, missing, readable by others or owned by "
            "another user."
        ),
        Reason.PORT_IN_USE: "Another process listens on the port.",
        Reason.CONFINEMENT_MISSING: (
            "Handlers must be confined (`--require-confinement`), but this machine does not permit "
            "it."
        ),
        Reason.REMOVED_FROM_CLUSTER: (
            "This node left its cluster, or was removed from it, for good: don't start it again."
        ),
    }
)
"""Reasons of commands and of a node's start, with their meaning. They are not in the API: a call
that meets one answers INTERNAL, with its message."""

_POINTS_ELSEWHERE: Final = frozenset({Reason.NOT_LEADER, Reason.NO_LEADER})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request."""

    field: str
    """Path in the request, for example `spec.task_type`."""
    description: str


@dataclass(frozen=True, slots=True)
class Leader:
    """The leader, as another node names it."""

    node_id: str
    endpoints: tuple[str, ...] = ()
    """Its addresses, `host:port`; empty if they are not known."""


_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})


class ClusterError(Exception):
    """A failure with a reason that programs can branch on."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] = _NO_METADATA,
        retry_after: timedelta | None = None,
        violations: tuple[FieldViolation, ...] = (),
        leader: Leader | None = None,
    ) -> None:
        """Make an error.

        Args:
            reason: Programs branch on it.
            message: At most one sentence plus the way out, lower case, without a final stop.
            metadata: String facts for programs, for example `ucan_error`.
            retry_after: Set if a retry helps.
            violations: The bad fields, for `INVALID_ARGUMENT` and its like.
            leader: Whom to ask instead, for `NOT_LEADER`.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata
        self.retry_after = retry_after
        self.violations = violations
        self.leader = leader

    def __str__(self) -> str:
        """The message, with each bad field named."""
        fields = "; ".join(f"{v.field}: {v.description}" for v in self.violations)
        # The message of an error from the wire already names them.
        return self.message if fields in self.message else f"{self.message}: {fields}"


def invalid_field(field: str, description: str) -> ClusterError:
    """An `INVALID_ARGUMENT` about one field."""
    return ClusterError(
        Reason.INVALID_ARGUMENT, "bad request", violations=(FieldViolation(field, description),)
    )


def most_useful(errors: Iterable[ClusterError]) -> ClusterError | None:
    """The error of several masters that the caller should see; None if there is none.

    A decision of the cluster precedes one master's error about itself, that precedes the name of a
    leader, and that precedes silence. Of two that are equally useful the later one is taken.
    """
    found: ClusterError | None = None
    for error in errors:
        if found is None or _weight(error) >= _weight(found):
            found = error
    return found


def _weight(error: ClusterError) -> int:
    if error.reason.has(Trait.NO_ANSWER):
        return 0
    if error.reason in _POINTS_ELSEWHERE:
        return 1
    return 2 if error.reason.has(Trait.MASTER_LOCAL) else 3

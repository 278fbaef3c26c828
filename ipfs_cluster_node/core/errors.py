"""One error type and one list of reasons, the same from the core to every client.

A caller branches on `reason`; the message is one sentence for people and names the way out.
`protos/ipfs_cluster_node/v1/errors.proto` holds the same list; a test keeps them equal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Reason(StrEnum):
    """Why a call, a task or a command failed."""

    INTERNAL = "INTERNAL"
    """A defect of ours; the node's log has the rest."""
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    """The same request id came earlier with other content."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    """A bounded queue is full; retry after the given delay."""
    SHUTTING_DOWN = "SHUTTING_DOWN"

    CALLER_UNKNOWN = "CALLER_UNKNOWN"
    """No certificate, or one whose principal the cluster does not know."""
    CALLER_NOT_ALLOWED = "CALLER_NOT_ALLOWED"
    """The caller's class may not call this method."""
    DELEGATION_INVALID = "DELEGATION_INVALID"
    """A UCAN token of the call is none, has ended, or is not signed; `ucan_error` says."""
    NOT_DELEGATED = "NOT_DELEGATED"
    """No chain of delegations from the cluster lets the caller do this; `ucan_error` says why."""
    DELEGATION_NOT_FOUND = "DELEGATION_NOT_FOUND"
    TOO_MANY_DELEGATIONS = "TOO_MANY_DELEGATIONS"
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    """Expired, of another cluster, or not bound to its identity key."""

    NOT_LEADER = "NOT_LEADER"
    """Ask the leader; `leader_node_id` and `leader_endpoints` are in the metadata."""
    NO_LEADER = "NO_LEADER"
    """No election has ended, most masters are away, or this node has not heard who is a member."""
    UNKNOWN_OUTCOME = "UNKNOWN_OUTCOME"
    """The write may or may not commit; repeat it with the same request id."""
    LOG_STORAGE_FAILED = "LOG_STORAGE_FAILED"
    """The Raft log can't be written: this node neither votes nor serves until it can."""
    UNREACHABLE = "UNREACHABLE"
    """Nobody answers at the address."""

    MEMBER_NOT_FOUND = "MEMBER_NOT_FOUND"
    MEMBERSHIP_CHANGE_IN_PROGRESS = "MEMBERSHIP_CHANGE_IN_PROGRESS"
    PEER_UNREACHABLE = "PEER_UNREACHABLE"
    """A master can't be dialled at its advertised address."""
    QUORUM_AT_RISK = "QUORUM_AT_RISK"
    """The change would leave the masters without a majority."""

    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_USED = "TOKEN_USED"
    APPROVAL_PENDING = "APPROVAL_PENDING"
    """Somebody has to let this joiner in; try again later with the same request."""
    JOIN_REJECTED = "JOIN_REJECTED"
    """Somebody decided that this joiner is not let in."""
    PROOF_INVALID = "PROOF_INVALID"
    """The signature that proves possession of the identity key does not verify."""

    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    TOO_MANY_TASKS = "TOO_MANY_TASKS"
    TASK_FINISHED = "TASK_FINISHED"
    """The task has ended already and can't be changed."""
    STALE_ATTEMPT = "STALE_ATTEMPT"
    """The attempt has been superseded; its result is refused."""
    TASK_TYPE_UNKNOWN = "TASK_TYPE_UNKNOWN"
    """No worker of the cluster has a handler for this type."""
    HANDLER_FAILED = "HANDLER_FAILED"
    """The handler raised, or its process died."""
    ATTEMPT_TIMED_OUT = "ATTEMPT_TIMED_OUT"
    WORKER_LOST = "WORKER_LOST"
    """Every allowed attempt was lost together with its worker."""
    TASK_CANCELLED = "TASK_CANCELLED"
    TASK_INPUT_INVALID = "TASK_INPUT_INVALID"
    """The payload or an input is not what the handler takes."""
    SQL_FAILED = "SQL_FAILED"
    TASK_RESULT_INVALID = "TASK_RESULT_INVALID"
    """The handler returned what is no result."""
    TASK_MEMORY_EXCEEDED = "TASK_MEMORY_EXCEEDED"
    """The attempt used more memory, or more processes, than it may."""

    MALFORMED_CID = "MALFORMED_CID"
    CONTENT_NOT_FOUND = "CONTENT_NOT_FOUND"
    """No reachable holder has the block; the message names who was asked."""
    BLOCK_MISMATCH = "BLOCK_MISMATCH"
    """Bytes that do not hash to their CID."""
    STORAGE_FULL = "STORAGE_FULL"
    HOLDERS_MISSING = "HOLDERS_MISSING"
    """Too few masters could be reached to hold the bytes safely."""

    CONFIG_CHANGED = "CONFIG_CHANGED"
    CONFIG_INVALID = "CONFIG_INVALID"
    HOME_MISSING = "HOME_MISSING"
    HOME_IN_USE = "HOME_IN_USE"
    """Another process works on this home directory."""
    HOME_EXISTS = "HOME_EXISTS"
    """`init` or `join` found a node already there."""
    HOME_DAMAGED = "HOME_DAMAGED"
    LOG_ROLLED_BACK = "LOG_ROLLED_BACK"
    """A voter's log holds less than it is known to have held."""
    MEMBER_RUNS_TWICE = "MEMBER_RUNS_TWICE"
    """Another process runs under the same identity."""
    RELEASE_TOO_OLD = "RELEASE_TOO_OLD"
    """What is stored was written by a newer release."""
    FEATURE_NOT_READY = "FEATURE_NOT_READY"
    """A voter runs a release that does not know what was asked for."""
    PORT_IN_USE = "PORT_IN_USE"
    CONFINEMENT_MISSING = "CONFINEMENT_MISSING"
    """Handlers were to be confined, and this machine can't."""

    AUTHORITY_SEALED = "AUTHORITY_SEALED"
    """The leader can't open the cluster's sealed keys, or they changed meanwhile."""
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    CERTIFICATE_NOT_FOUND = "CERTIFICATE_NOT_FOUND"
    ROTATION_IN_PROGRESS = "ROTATION_IN_PROGRESS"
    CLOCK_OFF = "CLOCK_OFF"
    """This master's clock differs from those of the others, or is not compared yet: it signs
    nothing."""


OF_ONE_MASTER: Final = frozenset(
    {
        Reason.INTERNAL,
        Reason.SHUTTING_DOWN,
        Reason.CERTIFICATE_INVALID,
        Reason.LOG_STORAGE_FAILED,
        Reason.STORAGE_FULL,
        Reason.AUTHORITY_SEALED,
        Reason.CLOCK_OFF,
    }
)
"""Refusals that say how one master is (its clock, its disk, its software, its keys), not what the
cluster decided: another master may well do what this one can't, so callers go on to the next."""

SILENT: Final = frozenset({Reason.UNREACHABLE, Reason.DEADLINE_EXCEEDED})
"""What is told of a master that said nothing."""

_POINTS_ELSEWHERE: Final = frozenset({Reason.NOT_LEADER, Reason.NO_LEADER})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request."""

    field: str
    """Path in the request, for example `spec.task_type`."""
    description: str


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
    ) -> None:
        """Make an error.

        Args:
            reason: What programs branch on.
            message: At most one sentence plus the way out, lower case, without a final stop.
            metadata: String facts for programs, for example `leader_node_id`.
            retry_after: Set where a retry helps.
            violations: The bad fields, for `INVALID_ARGUMENT` and its like.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata
        self.retry_after = retry_after
        self.violations = violations

    def __str__(self) -> str:
        """The message, with each bad field named."""
        fields = "; ".join(f"{v.field}: {v.description}" for v in self.violations)
        # One that came over the wire names them in its message already.
        return self.message if fields in self.message else f"{self.message}: {fields}"


def invalid_field(field: str, description: str) -> ClusterError:
    """An `INVALID_ARGUMENT` about one field."""
    return ClusterError(
        Reason.INVALID_ARGUMENT, "bad request", violations=(FieldViolation(field, description),)
    )


def most_useful(errors: Iterable[ClusterError]) -> ClusterError | None:
    """Of what several masters answered, what the caller should hear; None if there is nothing.

    What the cluster decided comes before what one master says of itself, that before the name of a
    leader, and that before silence. Of two alike the later one is told.
    """
    found: ClusterError | None = None
    for error in errors:
        if found is None or _weight(error) >= _weight(found):
            found = error
    return found


def _weight(error: ClusterError) -> int:
    if error.reason in SILENT:
        return 0
    if error.reason in _POINTS_ELSEWHERE:
        return 1
    return 2 if error.reason in OF_ONE_MASTER else 3

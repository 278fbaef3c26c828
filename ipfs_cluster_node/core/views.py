"""Values returned to clients that are not records of the state.

Times are milliseconds since 1970 (UTC), 0 for never; an empty text stands for none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ipfs_cluster_node.core.certificates import RotationPhase
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, node_id_from_did
from ipfs_cluster_node.core.model import Liveness, Role, TaskInput, TaskState
from ipfs_cluster_node.core.settings import SettingKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterEndpoint:
    """A master's addresses."""

    node_id: str = ""
    endpoints: tuple[str, ...] = ()
    tls_name: str = ""
    """In its certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """A summary of the cluster, as one node sees it."""

    cluster_id: str = ""
    cluster_name: str = ""
    node_id: str = ""
    """The node that answered."""
    leader_node_id: str = ""
    leader_endpoints: tuple[str, ...] = ()
    term: int = 0
    applied_index: int = 0
    alive_node_count: int = 0
    node_count: int = 0
    task_counts: Mapping[TaskState, int] = field(default_factory=dict)
    content_count: int = 0
    certificate_epoch: int = 0
    """The epoch that certificates must have."""
    content_bytes: int | None = None
    """Bytes of the blocks that `content_node_count` nodes store, each copy counted; None if the
    node that answered does not lead."""
    content_node_count: int = 0
    content_age_ms: int = 0
    """Of the oldest of these figures."""
    masters: tuple[MasterEndpoint, ...] = ()
    """Every master, the leader first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedNode:
    """A node."""

    node_id: str = ""
    name: str = ""
    role: Role | None = None
    """None: one that this release does not know."""
    liveness: Liveness | None = None
    """None: one that this release does not know."""
    endpoints: tuple[str, ...] = ()
    voter: bool = False
    leader: bool = False
    task_types: tuple[str, ...] = ()
    slot_count: int = 0
    running_attempt_count: int = 0
    version: str = ""
    enrolled_at_ms: int = 0
    liveness_at_ms: int = 0
    did: str = ""
    tls_name: str = ""
    """In its certificate."""
    content_bytes: int | None = None
    """Bytes of the blocks that it stores, as it told the leader `content_age_ms` ago; None if that
    is not known."""
    content_age_ms: int = 0


def only_connects_out(node: ListedNode, nodes: Iterable[ListedNode]) -> bool:
    """Whether others can't call a node: it says no address, or one that only its machine reaches.

    Where all `nodes` are on loopback they share a machine, and reach one another.
    """
    if any(not parse_endpoint(each).is_loopback for each in node.endpoints):
        return False
    return not node.endpoints or any(
        not parse_endpoint(each).is_loopback for other in nodes for each in other.endpoints
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJoinToken:
    """A join token with its secret."""

    token: str = ""
    expires_at_ms: int = 0
    enrolment_endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJoinToken:
    """A join token without its secret."""

    token_id: str = ""
    role: Role | None = None
    grant: str = ""
    namespace: str = ""
    expires_at_ms: int = 0
    uses_max: int = 0
    use_count: int = 0
    failure_count: int = 0
    needs_approval: bool = False
    creator_did: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJoiner:
    """A node or client that waits for approval."""

    did: str = ""
    token_id: str = ""
    role: Role | None = None
    grant: str = ""
    namespace: str = ""
    name: str = ""
    endpoints: tuple[str, ...] = ()
    asked_at_ms: int = 0
    expires_at_ms: int = 0
    approved: bool | None = None
    """None while there is no decision."""

    @property
    def node_id(self) -> str:
        """Its PeerID, which `join` shows on its machine; of a client too."""
        return node_id_from_did(Did(self.did))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSetting:
    """A setting of the cluster."""

    key: str = ""
    value: str = ""
    description: str = ""
    kind: SettingKind | None = None
    default_value: str = ""
    minimum_value: str = ""
    maximum_value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSetting:
    """What a proposal would do to one setting."""

    key: str = ""
    value: str = ""
    """Today's; empty for a key of a user that is not set."""
    new_value: str = ""
    """Empty: a user's key would be removed, one of the cluster's have its default."""
    default_value: str = ""
    changes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """A setting that a proposal changed; an empty value: none was set, the default in effect."""

    key: str = ""
    old_value: str = ""
    new_value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedConfigVersion:
    """What one proposal changed in the settings, who made it, and when."""

    version: int = 0
    proposed_at_ms: int = 0
    proposer_did: str = ""
    proposer_name: str = ""
    """Empty if the cluster does not know it."""
    changes: tuple[ConfigChange, ...] = ()
    """By key; only those that the caller may read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """One check of a node's health."""

    name: str = ""
    ok: bool = False
    detail: str = ""
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftHealth:
    """A master's place in consensus."""

    is_leader: bool = False
    leader_node_id: str = ""
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    voters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """One node's health, by its own view."""

    node_id: str = ""
    name: str = ""
    role: Role | None = None
    """None: one that this release does not know."""
    version: str = ""
    checks: tuple[HealthCheck, ...] = ()
    raft: RaftHealth = RaftHealth()
    """Empty on a node without a log."""
    resident_bytes: int = 0
    uptime_seconds: float = 0.0
    content_bytes: int = 0
    running_attempt_count: int = 0
    loop_gap_seconds: float = 0.0
    at_ms: int = 0
    """The node's wall clock."""
    boot: int | None = None
    """Identifies the process; None while its log is being replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentHolder:
    """A node that the log names as holder of a file; a worker that made it does not keep it."""

    node_id: str = ""
    endpoints: tuple[str, ...] = ()
    tls_name: str = ""
    """In its certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedContent:
    """A file, with its holders' addresses."""

    cid: str = ""
    size_bytes: int = 0
    holders: tuple[ContentHolder, ...] = ()
    name: str = ""
    added_at_ms: int = 0
    goes_with: str = ""
    """Where it is not kept: the last task whose result it is, if the caller may read that."""
    needed_by: str = ""
    """A task that has not ended and needs it, so that it can't be removed."""
    namespaces: tuple[str, ...] = ()
    """Those it is in, of those in which the caller may read files."""
    kept_namespaces: tuple[str, ...] = ()
    """Those of them in which it is kept until it is removed."""
    needed_by_others: bool = False
    """Whether a task needs it that the caller may not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedContent:
    """What the removal of a file frees."""

    size_bytes: int = 0
    """The file's size; blocks that other files have too are not deleted."""
    freed_bytes: int | None = None
    """What the answering node has deleted; None if it deletes later."""
    soon_node_ids: tuple[str, ...] = ()
    """The file's other holders, which delete its blocks by themselves."""
    later_node_ids: tuple[str, ...] = ()
    """Those of them that are away, and delete its blocks after their return."""
    left_namespaces: tuple[str, ...] = ()
    """Those that it is still in, of those in which the caller may read files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedCertificate:
    """A certificate that was issued."""

    serial: str = ""
    """In lower-case hexadecimal."""
    did: str = ""
    name: str = ""
    spki_sha256: str = ""
    """In lower-case hexadecimal."""
    issued_at_ms: int = 0
    expires_at_ms: int = 0
    revoked: bool = False
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationStatus:
    """The progress of a root rotation."""

    phase: RotationPhase | None = None
    epoch: int = 0
    phase_at_ms: int = 0
    root_pins: tuple[str, ...] = ()
    confirmed_count: int = 0
    waiting_dids: tuple[str, ...] = ()
    """The first 100 of those that wait."""
    waiting_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDelegation:
    """A stored delegation."""

    cid: str = ""
    issuer: str = ""
    audience: str = ""
    command: str = ""
    policy_json: str = ""
    expires_at_ms: int = 0
    not_before_ms: int = 0
    revoker_dids: tuple[str, ...] = ()
    token: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerStatus:
    """A caller's identity in the cluster, and the delegations to it."""

    did: str = ""
    caller_class: str = ""
    name: str = ""
    cluster_did: str = ""
    delegations: tuple[ListedDelegation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkExplanation:
    """A link of a chain of delegations."""

    delegation: ListedDelegation = ListedDelegation()
    holds: bool | None = None
    """None: it was not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementExplanation:
    """Whether one requirement of a call is met, and by which chain."""

    command: str = ""
    args_json: str = ""
    allowed: bool = False
    ucan_error: str = ""
    detail: str = ""
    chain: tuple[LinkExplanation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessExplanation:
    """Whether a call would be allowed."""

    allowed: bool = False
    requirements: tuple[RequirementExplanation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSpec:
    """What was submitted."""

    task_type: str = ""
    payload: bytes | None = None
    """None in most answers: only that to `get_task` has it, if it is small and still there."""
    content_type: str = ""
    """Of the payload."""
    inputs: tuple[TaskInput, ...] = ()
    attempt_timeout_ms: int = 0
    attempt_count_max: int | None = None
    priority: int = 0
    namespace: str = ""
    task_timeout_ms: int = 0
    """From its submission to its end; 0: no limit."""
    keep_result: bool = False
    """Whether its result's file stays until it is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedResult:
    """A task's result."""

    data: bytes | None = None
    """None in a list, which leaves it out; empty if all of it is the file at `cid`."""
    content_type: str = ""
    cid: str = ""
    size_bytes: int = 0
    """Of the file at `cid`; without one, of `data`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFailure:
    """Why a task, or its last attempt, failed."""

    reason: Reason = Reason.INTERNAL
    message: str = ""
    output_tail: str | None = None
    """The end of the handler's output. None in a list, which leaves it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAttempt:
    """An attempt of a task."""

    attempt: int = 0
    node_id: str = ""
    node_name: str = ""
    assigned_at_ms: int = 0
    ended_at_ms: int = 0
    """0 while it runs."""
    reason: Reason | None = None
    """Why it ended without a result; None while it runs, and if it succeeded."""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWaiting:
    """What a pending task waits for: a live worker, or its turn."""

    worker_count: int = 0
    """Live workers with slots and a handler for its type; 0: it waits until there is one."""
    slot_count: int = 0
    assigned_count: int = 0
    """Attempts assigned to these workers."""
    position: int | None = None
    """Among the tasks that wait for these workers, 1 is next; None: behind more than 10,000."""
    pending_count: int = 0
    """These tasks, this one included."""
    live_task_types: tuple[str, ...] = ()
    """What live workers handle instead; without such a worker only."""
    has_unlisted_workers: bool = False
    """Whether others are alive that the caller may not list; without such a worker only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """What became of a task."""

    state: TaskState | None = None
    """None: one that this release does not know."""
    submitter_did: str = ""
    attempt: int = 0
    """The number of its current or last attempt; 0 before the first."""
    node_id: str = ""
    """Where its current or last attempt runs or ran."""
    submitted_at_ms: int = 0
    assigned_at_ms: int = 0
    """When its current or last attempt was assigned."""
    finished_at_ms: int = 0
    result: ListedResult | None = None
    failure: ListedFailure | None = None
    """Why its last attempt failed; it may still be retried, as `state` says."""
    failed_attempt_count: int = 0
    lost_attempt_count: int = 0
    progress_ratio: float | None = None
    """0 to 1; None if none was reported."""
    progress_note: str = ""
    payload_size_bytes: int | None = None
    """None if it has ended and the payload was large, which the cluster then drops, or empty."""
    submitter_name: str = ""
    """As the submitter joined. In the answers to `get_task` and `list_tasks`, as `node_name`."""
    node_name: str = ""
    request_id: str = ""
    """Of the submission, as in audit records. In the answer to `get_task`, as what follows."""
    attempts: tuple[ListedAttempt, ...] = ()
    """The oldest first; the last is the current one."""
    waiting: TaskWaiting | None = None
    """What it waits for, while it is pending."""

    @property
    def has_ended(self) -> bool:
        """Whether the task has ended."""
        return self.state is not None and self.state.is_terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTask:
    """A task: what was submitted, and what became of it."""

    task_id: str = ""
    spec: ListedSpec = ListedSpec()
    status: TaskStatus = TaskStatus()

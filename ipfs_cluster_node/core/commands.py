"""The commands of the log.

Ids and times are chosen before a command is proposed; `ClusterState.apply` uses them as they are,
so every replica reaches the same state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import assert_never

from ipfs_cluster_node.core.certificates import (
    Authority,
    CertificateRecord,
    CertificateRevocation,
)
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.ids import NO_TASK, Did, NodeId, TaskId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, Principal, Role, TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapCluster:
    """The first entry of a cluster's log."""

    cluster_id: str
    cluster_name: str
    cluster_did: Did
    principals: tuple[Principal, ...]
    delegations: tuple[StoredDelegation, ...] = ()
    authority: Authority = field(default_factory=Authority)
    certificates: tuple[CertificateRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateJoinToken:
    """Creates a join token; its secret never enters the log."""

    token_id: str
    secret_hash: bytes
    role: Role
    expires_at_ms: int
    uses_max: int
    addresses: tuple[str, ...]
    grant: str = ""
    """A client's preset, a key of `GRANTS`; empty for a node."""
    namespace: str = ""
    """What the preset is limited to, such as `team-a/*`; empty: not limited."""
    needs_approval: bool = False
    """Whether a joiner waits for `DecideJoiner`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeJoinToken:
    """Revokes a join token."""

    token_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideJoiner:
    """Approves or rejects a waiting joiner."""

    token_id: str
    """The token determines the joiner's role, so the decision covers this token only."""
    did: Did
    approved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemJoinToken:
    """A joiner, whose possession of the key of `did` was verified, presents a token."""

    token_id: str
    secret_hash: bytes
    did: Did
    name: str
    endpoints: tuple[str, ...]
    seal_key: bytes = b""
    """Of a future master."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterNode:
    """Registers a node that started."""

    node_id: NodeId
    endpoints: tuple[str, ...]
    task_types: tuple[str, ...]
    slot_count: int
    version: str
    seal_key: bytes = b""
    enrolment_endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLiveness:
    """Marks nodes alive or dead; the attempts of the latter are lost."""

    alive: tuple[NodeId, ...] = ()
    dead: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode:
    """Removes a node for good."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceLog:
    """Gives a master whose log is damaged or lost a new incarnation."""

    node_id: NodeId
    incarnation: int
    """The master's present incarnation; if it has another by now, nothing changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeConfig:
    """Changes settings, all or none."""

    values: Mapping[str, str]
    """By key; an empty one removes a user's key."""
    if_values: Mapping[str, str] = field(default_factory=dict)
    """The required current values."""
    with_version: bool = False
    """Whether the change is kept as a `ConfigVersion`, and an empty value returns a setting of the
    cluster to its default. False in older logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTasks:
    """Submits tasks, all or none."""

    task_ids: tuple[TaskId, ...]
    specs: tuple[TaskSpec, ...]
    fingerprint: bytes
    """SHA-256 of the request, to tell a repeat from another request with the same id."""
    with_history: bool = False
    """Whether the tasks have a history: see `Task`. False in older logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignTasks:
    """Assigns tasks to workers."""

    assignments: tuple[tuple[TaskId, NodeId], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishAttempts:
    """Records the outcomes of attempts on a node."""

    node_id: NodeId
    outcomes: tuple[AttemptOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueAttempts:
    """Requeues attempts that were lost although their node is alive."""

    ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask:
    """Cancels a task."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOutTasks:
    """Fails tasks whose time from submission is over at the command's time."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireRecords:
    """Deletes records older than their retention."""

    count_max: int = 0
    """The most of each kind; the next command deletes more. 0, as older releases wrote: 10,000
    tasks and answers, and all others."""
    goes_on: bool = False
    """Whether it continues the command before, which left some records: it uses that one's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddContent:
    """Adds a file, or holders of one."""

    cid: str
    size_bytes: int
    holders: tuple[NodeId, ...]
    name: str
    goes_with: TaskId = NO_TASK
    """The task whose result it is; empty if it is kept until removed."""
    namespace: str = ""
    """Where it is added. Empty in an older log, in which a file has no namespaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveContent:
    """Removes a file: nodes then delete the blocks that no other file has."""

    cid: str
    namespace: str = ""
    """The one that the caller named."""
    among: tuple[str, ...] = ()
    """If it named none: those in which it may. Both empty: all, and the file is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepContent:
    """Keeps a task's result until it is removed."""

    cid: str
    namespace: str = ""
    """The one that the caller named."""
    among: tuple[str, ...] = ()
    """If it named none: those in which it may. Both empty in an older log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDelegation:
    """Stores delegations, whose form and signatures were checked."""

    delegations: tuple[StoredDelegation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeDelegation:
    """Revokes a delegation; the revoker's right was checked."""

    revocation: StoredRevocation
    copies: tuple[StoredRevocation, ...] = ()
    """Equal delegations, re-issued with each renewal of a client's certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueCertificate:
    """Records a certificate about to be issued."""

    record: CertificateRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeCertificate:
    """Revokes one certificate, or every certificate of a member."""

    revocation: CertificateRevocation


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAuthority:
    """Changes the sealed keys, the roots, or the phase of their rotation."""

    authority: Authority
    asked: str = ""
    """The request; empty if the leader acts on its own."""


CommandBody = (
    BootstrapCluster
    | CreateJoinToken
    | RevokeJoinToken
    | RedeemJoinToken
    | DecideJoiner
    | RegisterNode
    | SetLiveness
    | RemoveNode
    | ReplaceLog
    | ProposeConfig
    | SubmitTasks
    | AssignTasks
    | FinishAttempts
    | RequeueAttempts
    | CancelTask
    | TimeOutTasks
    | ExpireRecords
    | AddContent
    | RemoveContent
    | KeepContent
    | PutDelegation
    | RevokeDelegation
    | IssueCertificate
    | RevokeCertificate
    | SetAuthority
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCommand:
    """A command with its caller and time."""

    at_ms: int
    """When the proposer made it, in milliseconds since 1970 (UTC)."""
    body: CommandBody
    caller: str = ""
    """A DID; empty for the cluster itself."""
    request_id: str = ""
    """Makes a repeat get the first answer; empty for commands that need none."""


def fingerprint_of(body: CommandBody) -> bytes:  # noqa: C901
    """Tell a repeat of a request from another one under the same id; at most 32 bytes.

    Values that the node chooses for each call, such as task ids or a token's secret, are left out.
    """
    match body:
        case SubmitTasks():
            return body.fingerprint
        case CreateJoinToken():
            asked: tuple[object, ...] = (
                body.role.value,
                body.uses_max,
                body.addresses,
                body.grant,
                body.needs_approval,
                # Of an older release, too, a repeat is known again.
                *([body.namespace] if body.namespace else []),
            )
        case RedeemJoinToken():
            asked = (body.token_id, body.secret_hash, body.did, body.name, body.endpoints)
        case DecideJoiner():
            asked = (body.token_id, body.did, body.approved)
        case RemoveNode() | ReplaceLog():
            asked = (body.node_id,)
        case ProposeConfig():
            asked = (*_sorted(body.values), *_sorted(body.if_values))
        case CancelTask():
            asked = (body.task_id,)
        case RevokeJoinToken():
            asked = (body.token_id,)
        case RemoveContent() | KeepContent():
            asked = (body.cid, *([body.namespace] if body.namespace else []))
        case PutDelegation():
            asked = tuple(sorted(d.cid.digest for d in body.delegations))
        case RevokeDelegation():
            asked = (body.revocation.cid.digest, body.revocation.revoker)
        case RevokeCertificate():
            asked = (body.revocation.serial, body.revocation.did)
        case SetAuthority():
            asked = (body.asked,)
        case (
            BootstrapCluster()
            | RegisterNode()
            | SetLiveness()
            | AssignTasks()
            | FinishAttempts()
            | RequeueAttempts()
            | TimeOutTasks()
            | ExpireRecords()
            | AddContent()
            | IssueCertificate()
        ):
            asked = ()  # Proposed without a request id.
        case _:
            assert_never(body)
    return sha256(repr((type(body).__name__, asked)).encode()).digest()


def _sorted(values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Sorted keys, and their values: faster to encode than pairs, and there may be many."""
    if len(values) < 2:
        return [*values], [*values.values()]
    keys = sorted(values)
    return keys, [values[key] for key in keys]

"""What may enter the log.

Ids and times were decided before a command is proposed; `ClusterState.apply` takes them as they
are, so every replica comes to the same state.
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
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
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
    """A join token was made; its secret never enters the log."""

    token_id: str
    secret_hash: bytes
    role: Role
    expires_at_ms: int
    uses_max: int
    addresses: tuple[str, ...]
    grant: str = ""
    """What a client may do: a key of `GRANTS`; empty for a node."""
    needs_approval: bool = False
    """Whether a joiner waits for `DecideJoiner`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeJoinToken:
    """A join token lets nobody in any more."""

    token_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideJoiner:
    """Somebody lets a waiting joiner in, or does not."""

    token_id: str
    """Named, since it says what the joiner will be: the decision is for that alone."""
    did: Did
    approved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeemJoinToken:
    """A joiner, whose possession of `did` was checked, shows a token."""

    token_id: str
    secret_hash: bytes
    did: Did
    name: str
    endpoints: tuple[str, ...]
    seal_key: bytes = b""
    """Of a joiner that is to be a master."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterNode:
    """A node came up."""

    node_id: NodeId
    endpoints: tuple[str, ...]
    task_types: tuple[str, ...]
    slot_count: int
    version: str
    seal_key: bytes = b""
    enrolment_endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLiveness:
    """Nodes were heard again, or no longer; the attempts of the latter are lost."""

    alive: tuple[NodeId, ...] = ()
    dead: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveNode:
    """A node leaves for good."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceLog:
    """A master's log is damaged or lost: it gets a new incarnation."""

    node_id: NodeId
    incarnation: int
    """The one that the master has so far; if it has another by now, nothing changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeConfig:
    """Settings change, all or none."""

    values: Mapping[str, str]
    """By key; an empty one removes a user's key."""
    if_values: Mapping[str, str] = field(default_factory=dict)
    """Only if these are the present values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTasks:
    """Tasks come in, all or none."""

    task_ids: tuple[TaskId, ...]
    specs: tuple[TaskSpec, ...]
    fingerprint: bytes
    """SHA-256 of what was asked, to tell a repeat from another request under the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignTasks:
    """Tasks get workers."""

    assignments: tuple[tuple[TaskId, NodeId], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishAttempts:
    """Attempts ended on a node."""

    node_id: NodeId
    outcomes: tuple[AttemptOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueAttempts:
    """Attempts were lost without their node being dead."""

    ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask:
    """A task is cancelled."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireRecords:
    """Records older than their retention go."""

    count_max: int = 0
    """Of each kind; more go with the next command. 0, as older releases wrote: 10,000 tasks and
    answers, and all of the rest."""
    goes_on: bool = False
    """Whether it follows one that left some: it judges by the same time as that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddContent:
    """A file has holders."""

    cid: str
    size_bytes: int
    holders: tuple[NodeId, ...]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDelegation:
    """Delegations are kept; their form and signatures were checked."""

    delegations: tuple[StoredDelegation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeDelegation:
    """A delegation holds no more, by one who may say so."""

    revocation: StoredRevocation
    copies: tuple[StoredRevocation, ...] = ()
    """The same, given with each renewal of a client's certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueCertificate:
    """A certificate is about to be handed out."""

    record: CertificateRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeCertificate:
    """A certificate, or all of a member, counts no more."""

    revocation: CertificateRevocation


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAuthority:
    """The sealed keys, the roots, or the phase of their rotation change."""

    authority: Authority
    asked: str = ""
    """What somebody asked for; empty where the leader does it by itself."""


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
    | ExpireRecords
    | AddContent
    | PutDelegation
    | RevokeDelegation
    | IssueCertificate
    | RevokeCertificate
    | SetAuthority
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCommand:
    """A command and who asked for it when."""

    at_ms: int
    """When the proposer made it, in milliseconds since 1970 (UTC)."""
    body: CommandBody
    caller: str = ""
    """A DID; empty for the cluster itself."""
    request_id: str = ""
    """Makes a repeat get the first answer; empty for commands that need none."""


def fingerprint_of(body: CommandBody) -> bytes:
    """Tell a repeat of a request from another one under the same id; at most 32 bytes.

    What the node chose anew for the repeat, such as task ids or a token's secret, is no part of it.
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
            | ExpireRecords()
            | AddContent()
            | IssueCertificate()
        ):
            asked = ()  # Proposed without a request id.
        case _:
            assert_never(body)
    return sha256(repr((type(body).__name__, asked)).encode()).digest()


def _sorted(values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Keys in order, and their values: quicker to spell than pairs, and there may be many."""
    keys = sorted(values)
    return keys, [values[key] for key in keys]

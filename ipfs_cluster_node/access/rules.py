"""Which callers may call which method, and what a client must have been delegated for it.

What is not here is refused, and a server with a method that is not here does not start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.access import requirements
from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.requirements import AsksOf
from ipfs_cluster_node.access.shares import (
    DOWNLOADS,
    SEARCHES,
    SUBMISSIONS,
    TABLES,
    UPLOADS,
    WATCHES,
    Share,
)
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.model import BACKUP_SECONDS_MAX
from ipfs_cluster_node.core.ucan.commands import Command

_JOINERS: Final = frozenset({CallerClass.JOINER})
_CLIENTS: Final = frozenset({CallerClass.CLIENT})
_NODES: Final = frozenset({CallerClass.NODE, CallerClass.MASTER})
_MASTERS: Final = frozenset({CallerClass.MASTER})
_MEMBERS: Final = _CLIENTS | _NODES

_V1: Final = "/ipfs_cluster_node.v1."


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may call a method."""

    callers: frozenset[CallerClass]
    judged: frozenset[CallerClass] = _CLIENTS
    """Which of them need delegations. Of the others their class is enough."""
    command: Command | None = None
    """What who is judged must have been delegated. None: the method decides, or nobody is."""
    asks: AsksOf | None = None
    """The arguments that policies judge. None: the method shows each item that may be read."""
    changes: bool = False
    """Whether it changes anything, or hands out all there is: such calls are in the audit log."""
    signable: bool = True
    """Whether a signed invocation will do: not where it would leave open what is carried."""
    seconds_max: float | None = None
    """For how long a stream may run: one that is not read to its end keeps what it needs."""
    share: Share | None = None
    """What bounds how many of them run at once."""
    without_log: bool = False
    """Whether a node without a log, which knows of no delegations, answers any member."""

    def __post_init__(self) -> None:
        """Refuse what no policy could bound."""
        if self.changes and self.command is not None and self.asks is None:
            raise ValueError(f"{self.command} changes something, so its arguments are judged")


def _nodes(*, changes: bool = False, callers: frozenset[CallerClass] = _NODES) -> Rule:
    """A method between nodes: what a node may, its place in the cluster says."""
    return Rule(callers=callers, changes=changes)


def _members(command: Command, asks_of: AsksOf | None, *, share: Share | None = None) -> Rule:
    return Rule(callers=_MEMBERS, command=command, asks=asks_of, share=share)


def _clients(
    command: Command,
    asks_of: AsksOf | None,
    *,
    changes: bool = False,
    share: Share | None = None,
) -> Rule:
    return Rule(callers=_CLIENTS, command=command, asks=asks_of, changes=changes, share=share)


RULES_BY_METHOD: Final[Mapping[str, Rule]] = {
    f"{_V1}AuditService/ListAuditRecords": _clients(
        auth.AUDIT_READ, requirements.read_audit, share=SEARCHES
    ),
    f"{_V1}AuthorizationService/ExplainAccess": Rule(callers=_CLIENTS, share=SEARCHES),
    f"{_V1}AuthorizationService/GetCaller": Rule(callers=_MEMBERS),
    f"{_V1}AuthorizationService/ListDelegations": Rule(callers=_CLIENTS, share=SEARCHES),
    f"{_V1}AuthorizationService/PutDelegation": Rule(callers=_CLIENTS | _MASTERS, changes=True),
    f"{_V1}AuthorizationService/RevokeDelegation": Rule(callers=_CLIENTS, changes=True),
    f"{_V1}CertificateService/GetRotation": _clients(
        auth.CERTIFICATE_LIST, requirements.get_rotation
    ),
    f"{_V1}CertificateService/ListCertificates": _clients(
        auth.CERTIFICATE_LIST, None, share=SEARCHES
    ),
    f"{_V1}CertificateService/RenewCertificate": Rule(callers=_MEMBERS, changes=True),
    f"{_V1}CertificateService/RenewForMember": _nodes(changes=True, callers=_MASTERS),
    f"{_V1}CertificateService/RevokeCertificate": _clients(
        auth.CERTIFICATE_REVOKE, requirements.revoke_certificate, changes=True
    ),
    f"{_V1}CertificateService/RotateCertificates": _clients(
        auth.CA_ROTATE, requirements.rotate_certificates, changes=True
    ),
    f"{_V1}ContentService/AddContent": Rule(
        callers=_MEMBERS,
        command=auth.CONTENT_ADD,
        asks=requirements.add_content,
        changes=True,
        signable=False,
        share=UPLOADS,
    ),
    f"{_V1}ContentService/GetBlocks": _members(
        auth.CONTENT_READ, requirements.get_blocks, share=DOWNLOADS
    ),
    f"{_V1}ContentService/GetContent": _members(
        auth.CONTENT_READ, requirements.read_content, share=DOWNLOADS
    ),
    f"{_V1}ContentService/ListContent": _members(auth.CONTENT_READ, None, share=SEARCHES),
    f"{_V1}ContentService/PutBlocks": _nodes(callers=_MASTERS),
    f"{_V1}ContentService/StatContent": _members(auth.CONTENT_READ, requirements.read_content),
    f"{_V1}EnrolmentService/Enrol": Rule(callers=_JOINERS, changes=True),
    f"{_V1}EnrolmentService/RenewExpired": Rule(callers=_JOINERS, changes=True),
    f"{_V1}HealthService/GetHealth": Rule(
        callers=_MEMBERS, command=auth.HEALTH_READ, asks=requirements.get_health, without_log=True
    ),
    f"{_V1}MembershipService/CreateBackup": Rule(
        callers=_CLIENTS,
        command=auth.BACKUP_CREATE,
        asks=requirements.create_backup,
        changes=True,
        seconds_max=BACKUP_SECONDS_MAX,
    ),
    # A master makes one only with a delegation by the cluster's own key: `recover operator`.
    f"{_V1}MembershipService/CreateJoinToken": Rule(
        callers=_CLIENTS | _MASTERS,
        judged=_CLIENTS | _MASTERS,
        command=auth.TOKEN_MINT,
        asks=requirements.create_join_token,
        changes=True,
    ),
    f"{_V1}MembershipService/DecideJoiner": _clients(
        auth.JOINER_DECIDE, requirements.decide_joiner, changes=True
    ),
    f"{_V1}MembershipService/ListJoiners": _clients(auth.JOINER_LIST, None, share=SEARCHES),
    f"{_V1}MembershipService/ListJoinTokens": _clients(auth.TOKEN_LIST, None, share=SEARCHES),
    f"{_V1}MembershipService/RevokeJoinToken": _clients(
        auth.TOKEN_REVOKE, requirements.revoke_join_token, changes=True
    ),
    # Who leads is what every member must know to call at all.
    f"{_V1}MembershipService/GetClusterStatus": Rule(callers=_MEMBERS),
    f"{_V1}MembershipService/GetConfig": _members(auth.CONFIG_READ, requirements.get_config),
    f"{_V1}MembershipService/Heartbeat": _nodes(),
    f"{_V1}MembershipService/ListNodes": _members(auth.MEMBER_LIST, None),
    f"{_V1}MembershipService/ProposeConfig": _clients(
        auth.CONFIG_PROPOSE, requirements.propose_config, changes=True
    ),
    f"{_V1}MembershipService/RedeemJoinToken": _nodes(changes=True, callers=_MASTERS),
    f"{_V1}MembershipService/RegisterNode": _nodes(changes=True),
    f"{_V1}MembershipService/RemoveNode": _clients(
        auth.MEMBER_REMOVE, requirements.remove_node, changes=True
    ),
    f"{_V1}MembershipService/ReplaceLog": _nodes(changes=True, callers=_MASTERS),
    f"{_V1}MembershipService/TransferLeadership": _clients(
        auth.LEADERSHIP_TRANSFER, requirements.transfer_leadership, changes=True
    ),
    f"{_V1}RaftService/Exchange": _nodes(callers=_MASTERS),
    f"{_V1}StateDeltaService/GetSnapshot": Rule(
        callers=_CLIENTS | _MASTERS, command=auth.STATE_READ, share=TABLES
    ),
    f"{_V1}TaskDispatchService/CancelTask": _clients(
        auth.TASK_CANCEL, requirements.cancel_task, changes=True
    ),
    f"{_V1}TaskDispatchService/GetTask": _clients(auth.TASK_READ, requirements.get_task),
    f"{_V1}TaskDispatchService/ListTasks": _clients(auth.TASK_READ, None, share=SEARCHES),
    f"{_V1}TaskDispatchService/SubmitTask": _clients(
        auth.TASK_SUBMIT, requirements.submit_task, changes=True
    ),
    f"{_V1}TaskDispatchService/SubmitTasks": _clients(
        auth.TASK_SUBMIT, requirements.submit_tasks, changes=True, share=SUBMISSIONS
    ),
    f"{_V1}TaskDispatchService/WatchTasks": _clients(
        auth.TASK_READ, requirements.watch_tasks, share=WATCHES
    ),
    f"{_V1}TaskDispatchService/WorkerSession": _nodes(),
    "/grpc.health.v1.Health/Check": Rule(callers=_MEMBERS | _JOINERS),
    "/grpc.health.v1.Health/List": Rule(callers=_MEMBERS),
    "/grpc.health.v1.Health/Watch": Rule(callers=_MEMBERS),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(callers=_MEMBERS),
}

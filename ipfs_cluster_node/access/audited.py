"""What the audit log says of a request: what it is about, and what was asked.

A denied request was not checked, and may be denied for what it holds: nothing here fails, what
can't be read is left out. Secrets of tokens and payloads are never said.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Final

from ipfs_cluster_node.codec.enums import GRANT, ROLE
from ipfs_cluster_node.codec.proposals import ConfigProposal
from ipfs_cluster_node.codec.submissions import Submission
from ipfs_cluster_node.codec.ucan import TokenReader, open_envelope
from ipfs_cluster_node.core.audit import (
    ARGUMENTS_MAX,
    FIELD_CHARS_MAX,
    UNNAMED,
    Audited,
    AuditObjectKind,
)
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import Did, node_id_from_did
from ipfs_cluster_node.core.multiformats import parse_cid_binary
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.v1 import authorization_pb2, content_pb2, membership_pb2

SAID_MAX: Final = 1024
"""Arguments of submissions that are cached: those of one caller are mostly alike."""

_TASK: Final = AuditObjectKind.TASK
_FILE: Final = AuditObjectKind.FILE
_NODE: Final = AuditObjectKind.NODE
_NAMESPACE: Final = AuditObjectKind.NAMESPACE

AuditedOf = Callable[[Any, Any], Audited]
"""What is said of a request, decoded as for its servicer, and its answer; None without one."""


def audited(describe: AuditedOf | None, request: Any, answer: Any) -> Audited:
    """What a call was about, as far as its request can be read."""
    if describe is None or request is None:
        return UNNAMED
    try:
        about = describe(request, answer)
    except (ClusterError, UcanError, ValueError, LookupError, StopIteration):
        return UNNAMED
    arguments = about.arguments
    if len(about.name) + sum(map(len, chain.from_iterable(arguments))) <= FIELD_CHARS_MAX:
        return about
    # Whoever is refused may have sent megabytes, and its record waits and is cached.
    short = ((key[:FIELD_CHARS_MAX], text[:FIELD_CHARS_MAX]) for key, text in arguments)
    return Audited(about.kind, about.name[:FIELD_CHARS_MAX], tuple(islice(short, ARGUMENTS_MAX)))


def _submission(submission: Submission, answer: Any) -> Audited:
    """The task; without an answer, the namespace it would have been in."""
    spec = submission.first
    said = _said_of(spec.namespace, spec.task_type, spec.priority, len(submission))
    if answer is None:
        return Audited(_NAMESPACE, spec.namespace, said)
    return Audited(_TASK, answer.task_id, said)


def _submissions(submission: Submission, answer: Any) -> Audited:
    """The first of the tasks; without an answer, its namespace."""
    spec = submission.first
    said = _said_of(spec.namespace, spec.task_type, spec.priority, len(submission))
    if answer is None:
        return Audited(_NAMESPACE, spec.namespace, said)
    return Audited(_TASK, answer.task_ids[0], said)


@lru_cache(maxsize=SAID_MAX)
def _said_of(
    namespace: str, task_type: str, priority: int, count: int
) -> tuple[tuple[str, str], ...]:
    said = [("namespace", namespace), ("task_type", task_type)]
    if priority:
        said.append(("priority", str(priority)))
    if count > 1:
        said.append(("tasks", str(count)))
    return tuple(said)


def _tasks(request: Any, _answer: Any) -> Audited:
    first, *others = request.task_ids
    return _about(AuditObjectKind.TASK, first, tasks=1 + len(others) if others else None)


def _added(request: content_pb2.AddContentRequest, answer: Any) -> Audited:
    header = request.header
    size = header.size_bytes if header.HasField("size_bytes") else None
    cid = "" if answer is None else answer.cid
    return _about(
        AuditObjectKind.FILE, cid, name=header.name, size_bytes=size, namespace=header.namespace
    )


def _blocks(request: content_pb2.GetBlocksRequest, _answer: Any) -> Audited:
    first = request.root or request.cids[0]
    return _about(AuditObjectKind.FILE, str(parse_cid_binary(first)))


def _join_token(request: membership_pb2.CreateJoinTokenRequest, answer: Any) -> Audited:
    # `cj1.<CA hash>.<id>.<secret>`: of the token only its id.
    token_id = "" if answer is None else answer.token.split(".")[2]
    return _about(
        AuditObjectKind.JOIN_TOKEN,
        token_id,
        role=ROLE.by.decode(request.role) or "",
        grant=GRANT.by.decode(request.grant),
        namespace=request.namespace,
        uses=request.uses_max,
    )


def _settings(proposal: ConfigProposal, _answer: Any) -> Audited:
    values = proposal.values
    if len(values) == 1:
        said = tuple(values.items())
        return Audited(AuditObjectKind.SETTING, said[0][0], said)
    keys = sorted(islice(values, ARGUMENTS_MAX))
    if len(values) > ARGUMENTS_MAX:  # The record of hundreds would take as long as the call.
        return Audited(AuditObjectKind.SETTING, " ".join(keys), (("settings", str(len(values))),))
    said = tuple((key, values[key]) for key in keys)
    return Audited(AuditObjectKind.SETTING, " ".join(keys), said)


def _delegations(request: authorization_pb2.PutDelegationRequest, _answer: Any) -> Audited:
    first = TokenReader(PRODUCT).delegation(open_envelope(request.tokens[0], profile=PRODUCT))
    return _about(
        AuditObjectKind.DELEGATION,
        str(first.cid),
        audience=first.audience,
        command=first.command,
        delegations=len(request.tokens) if len(request.tokens) > 1 else None,
    )


def _certificates(request: Any, _answer: Any) -> Audited:
    if request.did:
        return _member(request.did)
    return _about(AuditObjectKind.CERTIFICATE, request.serial)


def _member(did: str, **arguments: Any) -> Audited:
    return _about(AuditObjectKind.NODE, node_id_from_did(Did(did)), **arguments)


def _about(kind: AuditObjectKind, name: str, /, **arguments: Any) -> Audited:
    """About one object; arguments that are unset or empty are left out."""
    said = tuple((key, _text(value)) for key, value in arguments.items() if value not in (None, ""))
    return Audited(kind if name else None, name, said)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(kind: AuditObjectKind, field: str, *arguments: str) -> AuditedOf:
    """About what a field of the request names; with its other fields of these names."""

    def describe(request: Any, _answer: Any) -> Audited:
        said = {name: getattr(request, name) for name in arguments}
        return _about(kind, getattr(request, field), **said)

    return describe


def _said(*arguments: str) -> AuditedOf:
    """About nothing in particular; with fields of the request."""

    def describe(request: Any, _answer: Any) -> Audited:
        return Audited(None, "", tuple((name, _text(getattr(request, name))) for name in arguments))

    return describe


AUDITED: Final[Mapping[str, AuditedOf]] = {
    "AuthorizationService/PutDelegation": _delegations,
    "AuthorizationService/RevokeDelegation": _named(AuditObjectKind.DELEGATION, "cid"),
    "CertificateService/RevokeCertificate": _certificates,
    "CertificateService/RotateCertificates": _said("new_root", "proceed"),
    "ContentService/AddContent": _added,
    "ContentService/GetBlocks": _blocks,
    "ContentService/GetContent": _named(_FILE, "cid"),
    "ContentService/KeepContent": _named(_FILE, "cid", "namespace"),
    "ContentService/RemoveContent": _named(_FILE, "cid", "namespace"),
    "ContentService/StatContent": _named(_FILE, "cid"),
    "EnrolmentService/Enrol": _named(AuditObjectKind.JOIN_TOKEN, "token_id", "name", "did"),
    "MasterService/RedeemJoinToken": _named(AuditObjectKind.JOIN_TOKEN, "token_id", "name", "did"),
    "MasterService/ReplaceLog": _said("incarnation"),
    "MembershipService/CreateJoinToken": _join_token,
    "MembershipService/DecideJoiner": lambda request, _: _member(
        request.did, approved=request.approved, token_id=request.token_id
    ),
    "MembershipService/GetConfig": _named(AuditObjectKind.SETTING, "key"),
    "MembershipService/ProposeConfig": _settings,
    "MembershipService/RemoveNode": _named(_NODE, "node_id", "lose_files"),
    "MembershipService/RevokeJoinToken": _named(AuditObjectKind.JOIN_TOKEN, "token_id"),
    "MembershipService/TransferLeadership": _named(_NODE, "node_id"),
    "NodeService/LeaveCluster": _said("lose_files", "check_only"),
    "NodeService/RegisterNode": _said("version"),
    "TaskDispatchService/CancelTask": _named(_TASK, "task_id"),
    "TaskDispatchService/GetTask": _named(_TASK, "task_id"),
    "TaskDispatchService/SubmitTask": _submission,
    "TaskDispatchService/SubmitTasks": _submissions,
    "TaskDispatchService/WatchTasks": _tasks,
}
"""By method. Of others only the call itself is recorded."""

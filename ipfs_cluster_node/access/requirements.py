"""What each request requires, in terms of `core.authorization`.

Names are validated here as by the method: no policy is evaluated on a malformed one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ipfs_cluster_node.codec.members import (
    did_of,
    grant_namespace_of,
    grant_of,
    node_id_of,
    role_of,
    serial_of,
    ttl_of,
)
from ipfs_cluster_node.codec.proposals import ConfigPlan, ConfigProposal
from ipfs_cluster_node.codec.submissions import Submission
from ipfs_cluster_node.codec.tasks import cid_text, namespace_of, task_id_of
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core.authorization import Requirement
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId, did_from_node_id
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE, WATCHED_TASKS_MAX, Task
from ipfs_cluster_node.core.multiformats import parse_cid_binary
from ipfs_cluster_node.core.settings import KEY_CHARS_MAX
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.v1 import (
    certificate_pb2,
    content_pb2,
    membership_pb2,
    task_dispatch_pb2,
)

GET_BLOCKS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The caller, and what the called node knows."""

    caller: Did
    node_id: NodeId
    state: ClusterState | None
    """None on a node without a log."""

    def task(self, task_id: TaskId) -> Task | None:
        """The task, if it is known and not deleted yet."""
        return self.state.tasks.get(task_id) if self.state else None

    def content_args(self, cid: str, namespace: str = "") -> auth.ItemArgs:
        """The arguments of a file in each of its namespaces, or in the one that is named."""
        content = self.state.contents.get(cid) if self.state else None
        if namespace:
            return auth.content_args_in(namespace, cid, content, self.task)
        return auth.content_args(cid, content, self.task)


Requirements = Iterable[Requirement]
RequirementsOf = Callable[[Any, RequestContext], Requirements]
"""What a request, decoded by `DECODERS`, requires; of a stream of requests, its first."""


def submit(submission: Submission, context: RequestContext) -> Requirements:
    """Submit all of the tasks, read their inputs, and keep results that are to be kept."""
    submission.check_size()
    yield Requirement(auth.TASK_SUBMIT, auth.submission_args(submission, len(submission)))
    if submission.has_inputs():
        files = context.state.contents if context.state else {}
        args = auth.inputs_args(submission, files, context.task)
        yield Requirement(auth.CONTENT_READ, args)
    if submission.keeps_results():
        yield Requirement(auth.CONTENT_KEEP, auth.kept_results_args(submission))


def get_task(request: task_dispatch_pb2.GetTaskRequest, context: RequestContext) -> Requirements:
    """Read the task."""
    return [Requirement(auth.TASK_READ, _tasks([request.task_id], "task_id", context))]


def watch_tasks(
    request: task_dispatch_pb2.WatchTasksRequest, context: RequestContext
) -> Requirements:
    """Read each of the tasks."""
    if len(request.task_ids) > WATCHED_TASKS_MAX:
        raise invalid_field("task_ids", f"at most {WATCHED_TASKS_MAX}")
    return [Requirement(auth.TASK_READ, _tasks(request.task_ids, "task_ids", context))]


def cancel_task(
    request: task_dispatch_pb2.CancelTaskRequest, context: RequestContext
) -> Requirements:
    """Cancel the task."""
    return [Requirement(auth.TASK_CANCEL, _tasks([request.task_id], "task_id", context))]


def add_content(request: content_pb2.AddContentRequest, _context: RequestContext) -> Requirements:
    """Add a file of this size."""
    header = request.header
    known = header.HasField("size_bytes") and header.size_bytes >= 0
    size = header.size_bytes if known else None
    namespace = namespace_of(header, "header.namespace") or DEFAULT_NAMESPACE
    return [Requirement(auth.CONTENT_ADD, [auth.new_content_args(size, namespace)])]


def read_content(
    request: content_pb2.GetContentRequest | content_pb2.StatContentRequest, context: RequestContext
) -> Requirements:
    """Read a file, or what is known of it."""
    return [Requirement(auth.CONTENT_READ, [_file(request.cid, context)])]


def get_blocks(request: content_pb2.GetBlocksRequest, context: RequestContext) -> Requirements:
    """Read the file that the blocks are of, else each block."""
    if not request.root:
        return [Requirement(auth.CONTENT_READ, _blocks(request.cids))]
    cid = _block(request.root, "root")
    return [Requirement(auth.CONTENT_READ, [_file(cid, context)])]


def create_join_token(
    request: membership_pb2.CreateJoinTokenRequest, _context: RequestContext
) -> Requirements:
    """Admit a new member."""
    ttl_s = auth.TOKEN_TTL_S_DEFAULT
    if request.HasField("ttl"):
        ttl_of(request.ttl)  # Raises if no duration can have it.
        ttl_s = request.ttl.seconds + (1 if request.ttl.nanos > 0 else 0)
    role = role_of(request.role)
    grant = grant_of(request.grant, role)
    args: auth.Args = {
        "role": role.value,
        "ttl_s": ttl_s,
        "uses": request.uses_max if request.HasField("uses_max") else 1,
        "grant": grant,
        "namespace": grant_namespace_of(request.namespace, grant) or auth.ANY,
        "needs_approval": request.needs_approval,
    }
    return [Requirement(auth.TOKEN_MINT, [args])]


def revoke_join_token(
    request: membership_pb2.RevokeJoinTokenRequest, context: RequestContext
) -> Requirements:
    """Revoke a join token."""
    token = context.state.members.token(request.token_id) if context.state else None
    return [Requirement(auth.TOKEN_REVOKE, [auth.join_token_args(token)])]


def decide_joiner(
    request: membership_pb2.DecideJoinerRequest, context: RequestContext
) -> Requirements:
    """Approve or reject a joiner."""
    did = did_of(request.did)
    token = context.state.members.token(request.token_id) if context.state else None
    return [Requirement(auth.JOINER_DECIDE, [auth.join_token_args(token, did)])]


def remove_node(request: membership_pb2.RemoveNodeRequest, context: RequestContext) -> Requirements:
    """Remove a member."""
    did = did_from_node_id(node_id_of(request.node_id))
    principal = context.state.members.get(did) if context.state else None
    return [Requirement(auth.MEMBER_REMOVE, [auth.removal_args(principal, did)])]


def transfer_leadership(
    request: membership_pb2.TransferLeadershipRequest, _context: RequestContext
) -> Requirements:
    """Transfer leadership to another master."""
    target = did_from_node_id(node_id_of(request.node_id)) if request.node_id else auth.ANY
    return [Requirement(auth.LEADERSHIP_TRANSFER, [{"did": target}])]


def get_config(request: membership_pb2.GetConfigRequest, _context: RequestContext) -> Requirements:
    """Read a setting; of a request for all, those that may be read are shown."""
    if not request.key:
        return []
    if len(request.key) > KEY_CHARS_MAX:  # A policy may examine each character.
        raise invalid_field("key", f"a key has at most {KEY_CHARS_MAX} characters")
    return [Requirement(auth.CONFIG_READ, [auth.setting_args(request.key)])]


def propose_config(proposal: ConfigProposal, _context: RequestContext) -> Requirements:
    """Change each of the settings, and read those that it expects."""
    requirements = [Requirement(auth.CONFIG_PROPOSE, map(auth.setting_args, proposal.values))]
    if proposal.if_values:
        requirements.append(
            Requirement(auth.CONFIG_READ, map(auth.setting_args, proposal.if_values))
        )
    return requirements


def plan_config(plan: ConfigPlan, context: RequestContext) -> Requirements:
    """Change each of the settings, as `propose_config`, and read it too.

    Of a version, those that would change; the servicer checks that each of them may be read.
    """
    keys: Iterable[str] = plan.values
    if plan.revert_to is not None and context.state is not None:
        history, settings = context.state.config_history, context.state.settings
        keys = history.way_back(plan.revert_to, settings) if plan.revert_to in history.kept else ()
    read = dict.fromkeys((*plan.values, *plan.if_values))
    return [
        Requirement(auth.CONFIG_READ, map(auth.setting_args, read)),
        Requirement(auth.CONFIG_PROPOSE, map(auth.setting_args, keys)),
    ]


def revoke_certificate(
    request: certificate_pb2.RevokeCertificateRequest, context: RequestContext
) -> Requirements:
    """Revoke a certificate, or all of a member."""
    did: Did | None = did_of(request.did) if request.did else None
    if request.serial and context.state is not None:
        record = context.state.certificates.get(serial_of(request.serial))
        did = None if record is None else record.did
    return [Requirement(auth.CERTIFICATE_REVOKE, [auth.certificate_args(did)])]


def _tasks(texts: Iterable[str], field: str, context: RequestContext) -> Iterator[auth.Args]:
    for text in texts:
        yield auth.task_args(context.task(task_id_of(text, field)), context.caller)


def _file(text: str, context: RequestContext, namespace: str = "") -> auth.ItemArgs:
    return context.content_args(cid_text(text, "cid"), namespace)


def _file_in(
    request: content_pb2.KeepContentRequest | content_pb2.RemoveContentRequest,
    context: RequestContext,
) -> auth.ItemArgs:
    """A file in the namespace that the request names; if it names none, in one that is allowed."""
    return _file(request.cid, context, namespace_of(request, "namespace"))


def _blocks(cids: Sequence[bytes]) -> Iterator[auth.ItemArgs]:
    for binary in dict.fromkeys(cids[:GET_BLOCKS_MAX]):
        yield auth.content_args(_block(binary, "cids"), None)


def _block(binary: bytes, field: str) -> str:
    try:
        return str(parse_cid_binary(binary))
    except ValueError as error:
        raise invalid_field(field, str(error)) from error


def _single(
    command: Command, args_of: Callable[[Any, RequestContext], auth.ItemArgs]
) -> RequirementsOf:
    """Requires one command, with these arguments."""
    return lambda request, context: [Requirement(command, [args_of(request, context)])]


REQUIREMENTS: Final[Mapping[str, RequirementsOf]] = {
    "AuditService/ListAuditRecords": _single(
        auth.AUDIT_READ, lambda _, context: {"node": context.node_id}
    ),
    "CertificateService/GetRotation": _single(
        auth.CERTIFICATE_LIST, lambda *_: auth.certificate_args(None)
    ),
    "CertificateService/RevokeCertificate": revoke_certificate,
    "CertificateService/RotateCertificates": _single(
        auth.CA_ROTATE, lambda request, _: {"new_root": request.new_root}
    ),
    "ContentService/AddContent": add_content,
    "ContentService/GetBlocks": get_blocks,
    "ContentService/GetContent": read_content,
    "ContentService/KeepContent": _single(auth.CONTENT_KEEP, _file_in),
    "ContentService/RemoveContent": _single(auth.CONTENT_REMOVE, _file_in),
    "ContentService/StatContent": read_content,
    "HealthService/GetHealth": _single(
        auth.HEALTH_READ, lambda _, context: {"source": context.node_id}
    ),
    "MembershipService/CreateBackup": _single(
        auth.BACKUP_CREATE,
        # It has no parts that could be left out.
        lambda _, context: {"cluster": context.state.cluster_id if context.state else auth.ANY},
    ),
    "MembershipService/CreateJoinToken": create_join_token,
    "MembershipService/DecideJoiner": decide_joiner,
    "MembershipService/GetConfig": get_config,
    "MembershipService/PlanConfig": plan_config,
    "MembershipService/ProposeConfig": propose_config,
    "MembershipService/RemoveNode": remove_node,
    "MembershipService/RevokeJoinToken": revoke_join_token,
    "MembershipService/TransferLeadership": transfer_leadership,
    "TaskDispatchService/CancelTask": cancel_task,
    "TaskDispatchService/GetTask": get_task,
    "TaskDispatchService/SubmitTask": submit,
    "TaskDispatchService/SubmitTasks": submit,
    "TaskDispatchService/WatchTasks": watch_tasks,
}
"""By method: those whose request is judged by policies, under the command in the proto."""

DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "MembershipService/PlanConfig": ConfigPlan.of,
    "MembershipService/ProposeConfig": ConfigProposal.of,
    "TaskDispatchService/SubmitTask": Submission.of_one,
    "TaskDispatchService/SubmitTasks": Submission.of_many,
}
"""By method: decodes a request once, to the value that is judged and that the servicer gets. Other
requests reach both as messages."""

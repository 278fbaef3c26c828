"""What calls require: commands, and the arguments on which policies are evaluated.

The server derives every argument itself, from the request and the state, and every argument of a
command is present in every call: a statement about a missing one would not mean what it says.
Names are checked before, so that `team-a/*` can't match `team-a/../x`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from ipfs_cluster_node.core.columns import Schema
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.file_namespaces import TaskOf, namespaces_of
from ipfs_cluster_node.core.ids import Did, is_namespace
from ipfs_cluster_node.core.model import (
    DEFAULT_NAMESPACE,
    Content,
    JoinToken,
    Principal,
    Task,
    TaskSpec,
)
from ipfs_cluster_node.core.schemas import CONTENT, NODES, TASKS
from ipfs_cluster_node.core.settings import SETTINGS
from ipfs_cluster_node.core.ucan.commands import TOP, Command, covers

AUDIT_READ: Final = Command("/admin/audit/read")
BACKUP_CREATE: Final = Command("/admin/backup")
CA_ROTATE: Final = Command("/admin/ca/rotate")
CERTIFICATE_LIST: Final = Command("/admin/cert/list")
CERTIFICATE_REVOKE: Final = Command("/admin/cert/revoke")
CONFIG_PROPOSE: Final = Command("/config/propose")
CONFIG_READ: Final = Command("/config/read")
CONTENT_ADD: Final = Command("/content/add")
CONTENT_KEEP: Final = Command("/content/keep")
CONTENT_READ: Final = Command("/content/read")
CONTENT_REMOVE: Final = Command("/content/remove")
DELEGATION_LIST: Final = Command("/ucan/list")
DELEGATION_REVOKE: Final = Command("/ucan/revoke")
HEALTH_READ: Final = Command("/health/read")
JOINER_DECIDE: Final = Command("/admin/enrol/decide")
JOINER_LIST: Final = Command("/admin/enrol/list")
LEADERSHIP_TRANSFER: Final = Command("/cluster/leadership/transfer")
MEMBER_LIST: Final = Command("/cluster/member/list")
MEMBER_REMOVE: Final = Command("/cluster/member/remove")
STATE_READ: Final = Command("/state/read")
TASK_CANCEL: Final = Command("/task/cancel")
TASK_READ: Final = Command("/task/read")
TASK_SUBMIT: Final = Command("/task/submit")
TOKEN_MINT: Final = Command("/admin/enrol/mint")
TOKEN_REVOKE: Final = Command("/admin/enrol/revoke")

BELOW: Final = "/*"
"""Ends a pattern of all namespaces below one."""
ANY: Final = "*"
"""Stands for all values, or an unknown one: a policy that names some does not match it."""
UNKNOWN_SIZE: Final = 2**53 - 1
"""An unknown size counts as more than any limit."""

Args = dict[str, Value]
ItemArgs = Args | tuple[Args, ...]
"""What is judged: its arguments; of a file in several namespaces those in each, of which one is
enough."""

ROW_UNKNOWN: Final[Mapping[str, Value]] = {
    "role": ANY,
    "namespace": ANY,
    "task_type": ANY,
    "owner": ANY,
    "self": False,
    "cid": ANY,
    "size": UNKNOWN_SIZE,
}
"""Every argument of a row of the state: its value in a table whose rows do not have it. A column of
`core/schemas.py` is judged as one of these."""


class Requirement(NamedTuple):
    """What a call needs to be allowed under one command."""

    command: Command
    each: Iterable[ItemArgs]
    """The arguments of each item; some may repeat. Not iterated if no policy reads them."""


def distinct(each: Iterable[ItemArgs]) -> Iterator[ItemArgs]:
    """Each item with other arguments once."""
    seen: set[tuple[Value, ...]] = set()
    for item in each:
        values = tuple(value for args in alternatives(item) for value in args.values())
        if values not in seen:
            seen.add(values)
            yield item


def alternatives(item: ItemArgs) -> tuple[Args, ...]:
    """The arguments of an item, one of which must be allowed."""
    return item if isinstance(item, tuple) else (item,)


GRANTS: Final[Mapping[str, tuple[Command, ...]]] = {
    "operator": (TOP,),
    "user": (
        Command("/task"),
        Command("/content"),
        MEMBER_LIST,
        CONFIG_READ,
        HEALTH_READ,
        STATE_READ,
    ),
    "reader": (TASK_READ, CONTENT_READ, MEMBER_LIST, CONFIG_READ, HEALTH_READ, STATE_READ),
    "none": (),
}
"""A client's presets at joining; finer permissions are delegated afterwards."""
WITHIN_NAMESPACE: Final[Mapping[str, tuple[Command, ...]]] = {
    "user": (Command("/task"), Command("/content"), STATE_READ),
    "reader": (TASK_READ, CONTENT_READ, STATE_READ),
}
"""The presets that can be limited to a namespace, and the commands that are limited by it."""
BESIDE_NAMESPACE: Final = (MEMBER_LIST, HEALTH_READ)
"""What such a client may do besides: see why a task waits, or a node does not answer."""
GRANT_DEFAULT: Final = "user"
TOKEN_TTL_S_DEFAULT: Final = 3600


def check_grant_namespace(grant: str, namespace: str) -> None:
    """Check what a preset is limited to: a namespace, or a pattern as `namespace_policy` takes it.

    Raises:
        ValueError: The preset has no such limit, or no namespace could match.
    """
    if grant not in WITHIN_NAMESPACE:
        limited = " or ".join(WITHIN_NAMESPACE)
        raise ValueError(f"for the grant {limited} only; {grant or 'a node'} has no such limit")
    name = namespace.removesuffix(BELOW)
    if not is_namespace(name):
        raise ValueError("a namespace such as team-a, or team-a/* for all below team-a")


def namespace_policy(namespace: str) -> list[Value]:
    """The policy of a delegation within a namespace, or within all below one: `team-a/*`.

    `team-a/*` includes `team-a/nightly`, not `team-a` itself.
    """
    return [["like" if namespace.endswith(BELOW) else "==", ".namespace", namespace]]


def grant_text(grant: str, namespace: str) -> str:
    """A preset and what limits it, for people."""
    return f"{grant} in {namespace}" if namespace else grant


def preset(
    grant: str, namespace: str = "", ended: Iterable[str] = ()
) -> list[tuple[Command, list[Value]]]:
    """What a client's certificate brings: each command with its policy.

    Args:
        grant: A key of `GRANTS`.
        namespace: What it is limited to; empty: not limited.
        ended: Commands that were revoked. What is below one, or above it, ended too: a release may
            have given less at once.
    """
    commands: list[tuple[Command, list[Value]]]
    if namespace:
        limit = namespace_policy(namespace)
        commands = [(command, limit) for command in WITHIN_NAMESPACE[grant]]
        commands += [(command, []) for command in BESIDE_NAMESPACE]
    else:
        commands = [(command, []) for command in GRANTS[grant]]
    return [
        (command, policy)
        for command, policy in commands
        if not any(covers(command, Command(e)) or covers(Command(e), command) for e in ended)
    ]


def submission_args(specs: Iterable[TaskSpec], count: int) -> Iterator[Args]:
    """Of tasks to be submitted, each with the number of all."""
    for spec in specs:
        yield {
            "namespace": spec.namespace,
            "task_type": spec.task_type,
            "priority": spec.priority,
            "max_runtime_s": -(-spec.attempt_timeout_ms // 1000),
            "max_retries": spec.attempt_count_max - 1,
            "count": count,
        }


def inputs_args(
    specs: Iterable[TaskSpec], contents: Mapping[str, Content], task_of: TaskOf
) -> Iterator[ItemArgs]:
    """Of the inputs of tasks: an attempt may read what its submitter may."""
    for spec in specs:
        for task_input in spec.inputs:
            yield content_args(task_input.cid, contents.get(task_input.cid), task_of)


def kept_results_args(specs: Iterable[TaskSpec]) -> Iterator[Args]:
    """Of the results of tasks that are to be kept: files that are not there yet."""
    for spec in specs:
        if spec.keep_result:
            yield {**UNKNOWN_CONTENT, "namespace": spec.namespace}


def _unknown(schema: Schema) -> Args:
    """The arguments of an item of this table of which nothing is known."""
    return {name: value for name, value in ROW_UNKNOWN.items() if name in schema.arguments}


UNKNOWN_TASK: Final = _unknown(TASKS)
UNKNOWN_CONTENT: Final = _unknown(CONTENT)

_args_of_task: Final = TASKS.arguments_function(UNKNOWN_TASK)
_args_of_content: Final = CONTENT.arguments_function(UNKNOWN_CONTENT)
member_args: Final = NODES.arguments_function(_unknown(NODES))
"""Of a member to be listed, a `Principal`."""


def task_args(task: Task | None, caller: Did) -> Args:
    """Of one task; an unknown one is nobody's, and in no namespace."""
    return dict(UNKNOWN_TASK) if task is None else _args_of_task(task, caller)


def content_args(cid: str, content: Content | None, task_of: TaskOf = lambda _id: None) -> ItemArgs:
    """Of a file or a block to be read; what the log does not name is in no known namespace.

    Its CID does not say of which result it is a part.
    """
    if content is None:
        return {**UNKNOWN_CONTENT, "cid": cid}
    return in_its_namespaces(_args_of_content(content), content, task_of)


def content_args_in(namespace: str, cid: str, content: Content | None, task_of: TaskOf) -> Args:
    """Of a file in one namespace, which the caller names; where it is not, only that is known."""
    if content is None or namespace not in namespaces_of(content, task_of):
        return {**UNKNOWN_CONTENT, "cid": cid, "namespace": namespace}
    return {**_args_of_content(content), "namespace": namespace}


def in_its_namespaces(args: Args, content: Content, task_of: TaskOf) -> ItemArgs:
    """The arguments of a file in each of its namespaces; `*` if it stays for others only."""
    inside = namespaces_of(content, task_of) or (ANY,)
    if len(inside) == 1:
        return args if args["namespace"] == inside[0] else {**args, "namespace": inside[0]}
    return tuple({**args, "namespace": each} for each in inside)


def new_content_args(size_bytes: int | None, namespace: str = DEFAULT_NAMESPACE) -> Args:
    """Of a file to be added."""
    size = UNKNOWN_SIZE if size_bytes is None else size_bytes
    return {"namespace": namespace, "size": size}


def removal_args(principal: Principal | None, did: Did) -> Args:
    """Of a member to be removed."""
    return {"did": did, "role": principal.role.value if principal else ANY}


def setting_args(key: str) -> Args:
    """Of a setting."""
    kind = "cluster" if key in SETTINGS else "user"
    return {"path": key.replace(".", "/"), "kind": ANY if key == ANY else kind}


def join_token_args(token: JoinToken | None, did: str = ANY) -> Args:
    """Of a join token to be listed or revoked, or of its joiner; an unknown one is of any kind.

    A joiner's token says what it will be, and who let it.
    """
    return {
        "did": did,
        "role": token.role.value if token else ANY,
        "grant": token.grant if token else ANY,
        "namespace": (token.namespace or ANY) if token else ANY,
        "creator": (token.creator or ANY) if token else ANY,
    }


def row_args_function(schema: Schema) -> Callable[..., Args]:
    """Of a row of a table of the state: the function from its parts to all of `ROW_UNKNOWN`."""
    return schema.arguments_function({"table": schema.name, **ROW_UNKNOWN})


def delegation_args(issuer: str, audience: Did) -> Args:
    """Of a delegation to be listed or revoked."""
    return {"issuer": issuer, "audience": audience}


def certificate_args(did: Did | None) -> Args:
    """Of a member's certificates; None for those of all, or of one who is not known."""
    return {"did": did or ANY}

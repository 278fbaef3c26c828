"""A cluster with one of everything; a request of each method, and what it requires."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from ipfs_cluster_node.access.requirements import RequestContext
from ipfs_cluster_node.core import authorization as auth
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.certificates import CertificateRecord
from ipfs_cluster_node.core.ids import TaskId, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import Principal, Role, TaskSpec
from ipfs_cluster_node.core.multiformats import RAW, cid_of, parse_cid
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import (
    audit_pb2,
    certificate_pb2,
    content_pb2,
    health_pb2,
    membership_pb2,
    roles_pb2,
)
from ipfs_cluster_node.v1 import task_dispatch_pb2 as tasks

ALICE, BOB, MASTER, WORKER, STRANGER, CLUSTER = (
    did_from_public_key(bytes([n]) * 32) for n in range(1, 7)
)
NODE: Final = node_id_from_did(MASTER)
RESULT: Final = str(cid_of(RAW, b"result"))
SHARED: Final = str(cid_of(RAW, b"shared"))
"""In `team-a` and in `team-b`."""
FILE: Final = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
UNKNOWN_FILE: Final = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
SERIAL: Final = 0xABC
UNKNOWN_SIZE: Final = 2**53 - 1
NOBODYS_TASK: Final = {"namespace": "*", "task_type": "*", "owner": "*", "self": False}
MINE: Final = {"namespace": "team-a/nightly", "task_type": "echo", "owner": ALICE, "self": True}
BOBS: Final = {"namespace": "default", "task_type": "sql", "owner": BOB, "self": False}


def principal(did: Any, role: Role) -> Principal:
    return Principal(did=did, name=role.value, role=role, enrolled_at_ms=0, liveness_at_ms=0)


def make_state() -> ClusterState:
    """A cluster with one of everything that a request may name."""
    state = ClusterState()

    def do(body: c.CommandBody, caller: Any = ALICE) -> None:
        applied = state.apply(c.LogCommand(at_ms=1, body=body, caller=caller, request_id=""))
        assert type(applied.outcome).__name__ != "Rejected", applied

    members = ((ALICE, Role.CLIENT), (BOB, Role.CLIENT), (MASTER, Role.MASTER))
    do(
        c.BootstrapCluster(
            cluster_id="id",
            cluster_name="name",
            cluster_did=CLUSTER,
            principals=(*(principal(*each) for each in members), principal(WORKER, Role.WORKER)),
            certificates=(
                CertificateRecord(
                    serial=SERIAL,
                    did=BOB,
                    spki_hash=bytes(32),
                    not_after_s=9,
                    issued_at_ms=0,
                    epoch=0,
                ),
            ),
        )
    )
    do(
        c.RegisterNode(
            node_id=node_id_from_did(WORKER),
            endpoints=(),
            task_types=("echo", "sql"),
            slot_count=1,
            version="1",
        )
    )
    for task_id, owner, spec in (
        ("mine", ALICE, TaskSpec(task_type="echo", namespace="team-a/nightly")),
        ("bobs", BOB, TaskSpec(task_type="sql")),
    ):
        do(c.SubmitTasks(task_ids=(TaskId(task_id),), specs=(spec,), fingerprint=b""), owner)
    do(c.AddContent(cid=FILE, size_bytes=1234, holders=(NODE,), name="f"))
    do(c.AddContent(cid=RESULT, size_bytes=9, holders=(NODE,), name="", goes_with=TaskId("mine")))
    shared = c.AddContent(cid=SHARED, size_bytes=5, holders=(NODE,), name="", namespace="team-a")
    do(shared)
    do(replace(shared, namespace="team-b"))
    do(
        c.CreateJoinToken(
            token_id="tok",
            secret_hash=b"s",
            role=Role.CLIENT,
            expires_at_ms=9_000,
            uses_max=1,
            addresses=(),
            grant="reader",
            namespace="team-a/*",
            needs_approval=True,
        ),
        BOB,
    )
    return state


STATE: Final = make_state()
ASKING: Final = RequestContext(ALICE, NODE, STATE)

OF_TOKEN: Final = {"role": "client", "grant": "reader", "namespace": "team-a/*", "creator": BOB}
OF_UNKNOWN_TOKEN: Final = {"role": "*", "grant": "*", "namespace": "*", "creator": "*"}

Expected = list[tuple[str, list[Any]]]
"""Commands, each with the arguments of every one of its questions."""


def content(cid: str, size: int = UNKNOWN_SIZE) -> dict[str, Any]:
    return {"namespace": "default", "cid": cid, "size": size}


def unknown_content(cid: str) -> dict[str, Any]:
    return content(cid) | {"namespace": "*"}


SHARED_IN: Final = tuple({**content(SHARED, 5), "namespace": each} for each in ("team-a", "team-b"))


def submission(count: int, **changed: Any) -> dict[str, Any]:
    default = {
        "namespace": "default",
        "task_type": "echo",
        "priority": 0,
        "max_runtime_s": 600,
        "max_retries": 2,
        "count": count,
    }
    return default | changed


SPEC: Final = tasks.TaskSpec(
    task_type="echo",
    namespace="team-a/x",
    priority=7,
    attempt_timeout=Duration(seconds=1, nanos=500_000_000),
    attempt_count_max=5,
    inputs=[tasks.TaskInput(name="a", cid=FILE), tasks.TaskInput(name="b", cid=UNKNOWN_FILE)],
)
OF_SPEC: Final[dict[str, Any]] = {
    "namespace": "team-a/x",
    "priority": 7,
    "max_runtime_s": 2,
    "max_retries": 4,
}
OF_INPUTS: Final = ("/content/read", [content(FILE, 1234), unknown_content(UNKNOWN_FILE)])
PLAIN: Final = tasks.TaskSpec(task_type="echo")
KEEPING: Final = tasks.TaskSpec(task_type="echo", namespace="team-a", keep_result=True)
OF_KEEPING: Final = ("/content/keep", [unknown_content("*") | {"namespace": "team-a"}])


def stranger() -> str:
    return node_id_from_did(STRANGER)


def token_ask(**changed: Any) -> Expected:
    default = {
        "role": "client",
        "ttl_s": 3600,
        "uses": 1,
        "grant": "user",
        "namespace": "*",
        "needs_approval": False,
    }
    return [("/admin/enrol/mint", [default | changed])]


CASES: Final[Mapping[str, list[tuple[Any, Expected]]]] = {
    "SubmitTask": [
        (tasks.SubmitTaskRequest(spec=PLAIN), [("/task/submit", [submission(1)])]),
        (
            tasks.SubmitTaskRequest(spec=SPEC),
            [("/task/submit", [submission(1, **OF_SPEC)]), OF_INPUTS],
        ),
        (
            tasks.SubmitTaskRequest(spec=KEEPING),
            [("/task/submit", [submission(1, namespace="team-a")]), OF_KEEPING],
        ),
    ],
    "SubmitTasks": [
        # Each kind once, with the number of all.
        (
            tasks.SubmitTasksRequest(specs=[PLAIN, SPEC, PLAIN]),
            [("/task/submit", [submission(3), submission(3, **OF_SPEC)]), OF_INPUTS],
        ),
        (
            tasks.SubmitTasksRequest(specs=[PLAIN, KEEPING]),
            [
                ("/task/submit", [submission(2), submission(2, namespace="team-a")]),
                OF_KEEPING,
            ],
        ),
    ],
    "GetTask": [
        (tasks.GetTaskRequest(task_id="mine"), [("/task/read", [MINE])]),
        (tasks.GetTaskRequest(task_id="bobs"), [("/task/read", [BOBS])]),
        (tasks.GetTaskRequest(task_id="none"), [("/task/read", [NOBODYS_TASK])]),
    ],
    "WatchTasks": [
        (
            tasks.WatchTasksRequest(task_ids=["mine", "bobs", "mine", "none"]),
            [("/task/read", [MINE, BOBS, NOBODYS_TASK])],
        ),
    ],
    "CancelTask": [
        (tasks.CancelTaskRequest(task_id="mine"), [("/task/cancel", [MINE])]),
        (tasks.CancelTaskRequest(task_id="none"), [("/task/cancel", [NOBODYS_TASK])]),
    ],
    "AddContent": [
        (
            content_pb2.AddContentRequest(header=content_pb2.AddContentHeader(size_bytes=7)),
            [("/content/add", [{"namespace": "default", "size": 7}])],
        ),
        (
            content_pb2.AddContentRequest(header=content_pb2.AddContentHeader(size_bytes=-1)),
            [("/content/add", [{"namespace": "default", "size": UNKNOWN_SIZE}])],
        ),
        (
            content_pb2.AddContentRequest(header=content_pb2.AddContentHeader()),
            [("/content/add", [{"namespace": "default", "size": UNKNOWN_SIZE}])],
        ),
        (
            content_pb2.AddContentRequest(header=content_pb2.AddContentHeader(size_bytes=0)),
            [("/content/add", [{"namespace": "default", "size": 0}])],
        ),
        (
            content_pb2.AddContentRequest(
                header=content_pb2.AddContentHeader(size_bytes=7, namespace="team-a")
            ),
            [("/content/add", [{"namespace": "team-a", "size": 7}])],
        ),
    ],
    "RemoveContent": [
        (
            content_pb2.RemoveContentRequest(cid=FILE),
            [("/content/remove", [content(FILE, 1234)])],
        ),
        (
            content_pb2.RemoveContentRequest(cid=UNKNOWN_FILE),
            [("/content/remove", [unknown_content(UNKNOWN_FILE)])],
        ),
        # In the one that is named: what is known of others is not told.
        (
            content_pb2.RemoveContentRequest(cid=FILE, namespace="team-a"),
            [("/content/remove", [{**unknown_content(FILE), "namespace": "team-a"}])],
        ),
        (
            content_pb2.RemoveContentRequest(cid=SHARED, namespace="team-b"),
            [("/content/remove", [{**content(SHARED, 5), "namespace": "team-b"}])],
        ),
        # In any in which it is allowed.
        (
            content_pb2.RemoveContentRequest(cid=SHARED),
            [("/content/remove", [SHARED_IN])],
        ),
    ],
    "KeepContent": [
        (
            content_pb2.KeepContentRequest(cid=FILE),
            [("/content/keep", [content(FILE, 1234)])],
        ),
        (
            content_pb2.KeepContentRequest(cid=UNKNOWN_FILE),
            [("/content/keep", [unknown_content(UNKNOWN_FILE)])],
        ),
        (
            content_pb2.KeepContentRequest(cid=SHARED, namespace="team-a"),
            [("/content/keep", [{**content(SHARED, 5), "namespace": "team-a"}])],
        ),
    ],
    "GetContent": [
        # However it is spelled.
        (
            content_pb2.GetContentRequest(cid=FILE.upper()),
            [("/content/read", [content(FILE, 1234)])],
        ),
        (content_pb2.GetContentRequest(cid=FILE), [("/content/read", [content(FILE, 1234)])]),
        # The result of a task is in its namespace.
        (
            content_pb2.GetContentRequest(cid=RESULT),
            [("/content/read", [content(RESULT, 9) | {"namespace": "team-a/nightly"}])],
        ),
        (
            content_pb2.GetContentRequest(cid=UNKNOWN_FILE),
            [("/content/read", [unknown_content(UNKNOWN_FILE)])],
        ),
    ],
    "StatContent": [
        (content_pb2.StatContentRequest(cid=FILE), [("/content/read", [content(FILE, 1234)])]),
    ],
    "GetBlocks": [
        # A block may be any part of any file: its namespace and size are not known, even where the
        # CID is.
        (
            content_pb2.GetBlocksRequest(
                cids=[
                    parse_cid(FILE).binary,
                    parse_cid(UNKNOWN_FILE).binary,
                    parse_cid(FILE).binary,
                ]
            ),
            [("/content/read", [unknown_content(FILE), unknown_content(UNKNOWN_FILE)])],
        ),
        # Unless it is said of which.
        (
            content_pb2.GetBlocksRequest(
                cids=[parse_cid(UNKNOWN_FILE).binary], root=parse_cid(FILE).binary
            ),
            [("/content/read", [content(FILE, 1234)])],
        ),
    ],
    "GetHealth": [(health_pb2.GetHealthRequest(), [("/health/read", [{"source": NODE}])])],
    "ListAuditRecords": [
        (audit_pb2.ListAuditRecordsRequest(), [("/admin/audit/read", [{"node": NODE}])])
    ],
    "CreateBackup": [(None, [("/admin/backup", [{"cluster": "id"}])])],
    "CreateJoinToken": [
        (membership_pb2.CreateJoinTokenRequest(role=roles_pb2.ROLE_CLIENT), token_ask()),
        (
            membership_pb2.CreateJoinTokenRequest(
                role=roles_pb2.ROLE_CLIENT,
                # What is begun counts.
                ttl=Duration(seconds=59, nanos=1),
                uses_max=9,
                grant=roles_pb2.GRANT_OPERATOR,
                needs_approval=True,
            ),
            token_ask(ttl_s=60, uses=9, grant="operator", needs_approval=True),
        ),
        (
            membership_pb2.CreateJoinTokenRequest(
                role=roles_pb2.ROLE_CLIENT, grant=roles_pb2.GRANT_READER, namespace="team-a/*"
            ),
            token_ask(grant="reader", namespace="team-a/*"),
        ),
        (
            membership_pb2.CreateJoinTokenRequest(
                role=roles_pb2.ROLE_MASTER, ttl=Duration(seconds=60)
            ),
            token_ask(role="master", ttl_s=60, grant=""),
        ),
    ],
    "DecideJoiner": [
        (
            membership_pb2.DecideJoinerRequest(did=STRANGER, token_id="tok", approved=True),
            [("/admin/enrol/decide", [{"did": STRANGER} | OF_TOKEN])],
        ),
        (
            membership_pb2.DecideJoinerRequest(did=STRANGER, token_id="none"),
            [("/admin/enrol/decide", [{"did": STRANGER} | OF_UNKNOWN_TOKEN])],
        ),
    ],
    "RevokeJoinToken": [
        (
            membership_pb2.RevokeJoinTokenRequest(token_id="tok"),
            [("/admin/enrol/revoke", [{"did": "*"} | OF_TOKEN])],
        ),
        (
            membership_pb2.RevokeJoinTokenRequest(token_id="none"),
            [("/admin/enrol/revoke", [{"did": "*"} | OF_UNKNOWN_TOKEN])],
        ),
    ],
    "RemoveNode": [
        (
            membership_pb2.RemoveNodeRequest(node_id=node_id_from_did(WORKER)),
            [("/cluster/member/remove", [{"did": WORKER, "role": "worker"}])],
        ),
        (
            membership_pb2.RemoveNodeRequest(node_id=stranger()),
            [("/cluster/member/remove", [{"did": STRANGER, "role": "*"}])],
        ),
    ],
    "TransferLeadership": [
        (
            membership_pb2.TransferLeadershipRequest(node_id=NODE, from_node_id=stranger()),
            [("/cluster/leadership/transfer", [{"did": MASTER}])],
        ),
        (None, [("/cluster/leadership/transfer", [{"did": "*"}])]),
    ],
    "GetConfig": [
        (
            membership_pb2.GetConfigRequest(key="task_retention"),
            [("/config/read", [{"path": "task_retention", "kind": "cluster"}])],
        ),
        (
            membership_pb2.GetConfigRequest(key="user.team.x"),
            [("/config/read", [{"path": "user/team/x", "kind": "user"}])],
        ),
        (None, []),
    ],
    "PlanConfig": [
        (
            membership_pb2.PlanConfigRequest(
                values={"user.a.b": "1"}, if_values={"node_lease": "5s"}
            ),
            [
                (
                    "/config/read",
                    [
                        {"path": "user/a/b", "kind": "user"},
                        {"path": "node_lease", "kind": "cluster"},
                    ],
                ),
                ("/config/propose", [{"path": "user/a/b", "kind": "user"}]),
            ],
        ),
        (
            membership_pb2.PlanConfigRequest(revert_to=0),
            [("/config/read", []), ("/config/propose", [])],
        ),
    ],
    "ProposeConfig": [
        (
            membership_pb2.ProposeConfigRequest(values={"user.a.b": "1"}),
            [("/config/propose", [{"path": "user/a/b", "kind": "user"}])],
        ),
        (
            membership_pb2.ProposeConfigRequest(
                values={"node_lease": "1s"}, if_values={"user.a": "1"}
            ),
            [
                ("/config/propose", [{"path": "node_lease", "kind": "cluster"}]),
                ("/config/read", [{"path": "user/a", "kind": "user"}]),
            ],
        ),
    ],
    "GetRotation": [(None, [("/admin/cert/list", [{"did": "*"}])])],
    "RevokeCertificate": [
        (
            certificate_pb2.RevokeCertificateRequest(did=ALICE),
            [("/admin/cert/revoke", [{"did": ALICE}])],
        ),
        (
            certificate_pb2.RevokeCertificateRequest(serial=f"{SERIAL:x}"),
            [("/admin/cert/revoke", [{"did": BOB}])],
        ),
        (
            certificate_pb2.RevokeCertificateRequest(serial="123"),
            [("/admin/cert/revoke", [{"did": "*"}])],
        ),
        # One of them: a message can't hold both, so nothing is judged that is not done.
        (
            certificate_pb2.RevokeCertificateRequest(did=ALICE, serial=f"{SERIAL:x}"),
            [("/admin/cert/revoke", [{"did": BOB}])],
        ),
    ],
    "RotateCertificates": [
        (None, [("/admin/ca/rotate", [{"new_root": False}])]),
        (
            certificate_pb2.RotateCertificatesRequest(new_root=True),
            [("/admin/ca/rotate", [{"new_root": True}])],
        ),
    ],
}
"""By the method's name; None stands for an empty request."""

ITEMS: Final[Mapping[str, auth.Args]] = {
    "ListCertificates": auth.certificate_args(ALICE),
    "ListConfigVersions": auth.setting_args("user.a"),
    "ListContent": auth.alternatives(auth.content_args(FILE, STATE.contents[FILE]))[0],
    "ListJoinTokens": auth.join_token_args(STATE.members.token("tok")),
    "ListJoiners": auth.join_token_args(STATE.members.token("tok"), STRANGER),
    "ListNodes": auth.member_args(principal(WORKER, Role.WORKER)),
    "ListTasks": auth.task_args(STATE.tasks.get(TaskId("mine")), ALICE),
    "GetSnapshot": {"table": "tasks", **auth.ROW_UNKNOWN},
    "Watch": {"table": "tasks", **auth.ROW_UNKNOWN},
}
"""An item of each method that asks for nothing itself: it shows what may be read."""

"""What the audit log records about requests."""

from typing import Any

import pytest

from ipfs_cluster_node.access.audited import AUDITED, audited
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.codec.submissions import Submission
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.core.audit import (
    ARGUMENTS_MAX,
    FIELD_CHARS_MAX,
    UNNAMED,
    Audited,
    AuditObjectKind,
)
from ipfs_cluster_node.core.ids import node_id_from_did
from ipfs_cluster_node.core.multiformats import RAW, cid_of
from ipfs_cluster_node.v1 import (
    authorization_pb2,
    certificate_pb2,
    content_pb2,
    enrolment_pb2,
    membership_pb2,
    roles_pb2,
)
from ipfs_cluster_node.v1 import task_dispatch_pb2 as tasks
from tests.support.ucan import ALICE, CLUSTER

FILE = cid_of(RAW, b"file")
SPEC = tasks.TaskSpec(task_type="echo", namespace="team-a/x", payload=b"secret", priority=3)
OF_SPEC = {"namespace": "team-a/x", "task_type": "echo", "priority": "3"}
TOKEN = CLUSTER.delegates(ALICE, "/task")
MEMBER = node_id_from_did(ALICE.did)

CASES: list[tuple[str, Any, Any, str, str, dict[str, str]]] = [
    (
        "TaskDispatchService/SubmitTask",
        Submission.of_one(tasks.SubmitTaskRequest(spec=SPEC)),
        tasks.SubmitTaskResponse(task_id="t1"),
        *("task", "t1", OF_SPEC),
    ),
    (
        "TaskDispatchService/SubmitTask",
        Submission.of_one(tasks.SubmitTaskRequest(spec=SPEC)),
        None,
        *("namespace", "team-a/x", OF_SPEC),
    ),
    (
        "TaskDispatchService/SubmitTasks",
        Submission.of_many(tasks.SubmitTasksRequest(specs=[SPEC, SPEC])),
        tasks.SubmitTasksResponse(task_ids=["t1", "t2"]),
        *("task", "t1", OF_SPEC | {"tasks": "2"}),
    ),
    (
        "TaskDispatchService/CancelTask",
        tasks.CancelTaskRequest(task_id="t1"),
        None,
        *("task", "t1", {}),
    ),
    (
        "TaskDispatchService/WatchTasks",
        tasks.WatchTasksRequest(task_ids=["t1", "t2"]),
        None,
        *("task", "t1", {"tasks": "2"}),
    ),
    (
        "ContentService/AddContent",
        content_pb2.AddContentRequest(
            header=content_pb2.AddContentHeader(name="a.csv", size_bytes=0)
        ),
        content_pb2.AddContentResponse(cid=str(FILE)),
        *("file", str(FILE), {"name": "a.csv", "size_bytes": "0"}),
    ),
    (
        "ContentService/GetContent",
        content_pb2.GetContentRequest(cid=str(FILE)),
        None,
        *("file", str(FILE), {}),
    ),
    (
        "ContentService/GetBlocks",
        content_pb2.GetBlocksRequest(cids=[FILE.binary]),
        None,
        *("file", str(FILE), {}),
    ),
    (
        "MembershipService/CreateJoinToken",
        membership_pb2.CreateJoinTokenRequest(
            role=roles_pb2.ROLE_CLIENT,
            grant=roles_pb2.GRANT_READER,
            namespace="team-a/*",
            uses_max=2,
        ),
        membership_pb2.CreateJoinTokenResponse(token="cj1.pin.id.secret"),
        "join_token",
        "id",
        {"role": "client", "grant": "reader", "namespace": "team-a/*", "uses": "2"},
    ),
    (
        "MembershipService/DecideJoiner",
        membership_pb2.DecideJoinerRequest(did=ALICE.did, token_id="id", approved=False),
        None,
        *("node", MEMBER, {"approved": "false", "token_id": "id"}),
    ),
    (
        "MembershipService/RemoveNode",
        membership_pb2.RemoveNodeRequest(node_id=MEMBER, lose_files=True),
        None,
        *("node", MEMBER, {"lose_files": "true"}),
    ),
    (
        "MembershipService/ProposeConfig",
        membership_pb2.ProposeConfigRequest(values={"user.b": "2", "user.a": "1"}),
        None,
        *("setting", "user.a user.b", {"user.a": "1", "user.b": "2"}),
    ),
    (
        "AuthorizationService/PutDelegation",
        authorization_pb2.PutDelegationRequest(tokens=[TOKEN]),
        None,
        *("delegation", str(cid_of_token(TOKEN)), {"audience": ALICE.did, "command": "/task"}),
    ),
    (
        "AuthorizationService/RevokeDelegation",
        authorization_pb2.RevokeDelegationRequest(cid="bafy"),
        None,
        *("delegation", "bafy", {}),
    ),
    (
        "CertificateService/RevokeCertificate",
        certificate_pb2.RevokeCertificateRequest(serial="1f"),
        None,
        *("certificate", "1f", {}),
    ),
    (
        "CertificateService/RevokeCertificate",
        certificate_pb2.RevokeCertificateRequest(did=ALICE.did),
        None,
        *("node", MEMBER, {}),
    ),
    (
        "EnrolmentService/Enrol",
        enrolment_pb2.EnrolRequest(token_id="id", token_secret="s", name="n", did=ALICE.did),
        None,
        *("join_token", "id", {"name": "n", "did": ALICE.did}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "request_", "answer", "kind", "name", "arguments"),
    CASES,
    ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)],
)
def test_a_record_names_the_object_and_what_was_asked(
    method: str, request_: Any, answer: Any, kind: str, name: str, arguments: dict[str, str]
) -> None:
    said = audited(AUDITED[method], request_, answer)
    assert (said.kind, said.name, dict(said.arguments)) == (AuditObjectKind(kind), name, arguments)
    assert "secret" not in repr(said)


ALONE = {
    "CertificateService/RenewCertificate",
    "EnrolmentService/RenewExpiredCertificate",
    "MasterService/RenewForMember",
    "MembershipService/CreateBackup",
}
"""There is nothing to record but the caller and the method."""


def test_every_call_that_changes_something_says_what() -> None:
    rules = {method.rsplit(".", 1)[-1]: rule for method, rule in RULES_BY_METHOD.items()}
    changing = {method for method, rule in rules.items() if rule.changes}
    assert changing - AUDITED.keys() == ALONE
    assert AUDITED.keys() <= rules.keys()
    assert {method for method, rule in rules.items() if rule.audited} == AUDITED.keys()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (
            "TaskDispatchService/SubmitTask",
            Submission.of_one(tasks.SubmitTaskRequest(spec=tasks.TaskSpec(namespace="../x"))),
        ),
        (
            "TaskDispatchService/SubmitTasks",
            Submission.of_many(tasks.SubmitTasksRequest()),
        ),
        ("TaskDispatchService/WatchTasks", tasks.WatchTasksRequest()),
        ("ContentService/GetBlocks", content_pb2.GetBlocksRequest()),
        ("ContentService/GetBlocks", content_pb2.GetBlocksRequest(cids=[b"x"])),
        ("AuthorizationService/PutDelegation", authorization_pb2.PutDelegationRequest()),
        (
            "AuthorizationService/PutDelegation",
            authorization_pb2.PutDelegationRequest(tokens=[b"x"]),
        ),
        ("MembershipService/DecideJoiner", membership_pb2.DecideJoinerRequest(did="nobody")),
    ],
)
def test_what_can_not_be_read_is_left_out(method: str, request_: Any) -> None:
    assert audited(AUDITED[method], request_, None) == UNNAMED


def test_a_call_that_was_denied_before_its_request_was_read_says_nothing() -> None:
    assert audited(AUDITED["TaskDispatchService/CancelTask"], None, None) == UNNAMED


def test_of_a_batch_of_settings_a_few_keys_and_their_number_are_recorded() -> None:
    values = {f"user.{n}": "v" for n in range(100)}
    said = audited(
        AUDITED["MembershipService/ProposeConfig"],
        membership_pb2.ProposeConfigRequest(values=values),
        None,
    )
    assert said.arguments == (("settings", "100"),)
    keys = said.name.split()
    assert len(keys) == ARGUMENTS_MAX
    assert set(keys) < set(values)


TEXT = "x" * 1_000_000


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (
            "ContentService/AddContent",
            content_pb2.AddContentRequest(header=content_pb2.AddContentHeader(name=TEXT)),
        ),
        (
            "MembershipService/ProposeConfig",
            membership_pb2.ProposeConfigRequest(
                values={f"user.{n}{TEXT}": TEXT for n in range(ARGUMENTS_MAX)}
            ),
        ),
        (
            "MembershipService/CreateJoinToken",
            membership_pb2.CreateJoinTokenRequest(namespace=TEXT),
        ),
    ],
    ids=["upload", "settings", "token"],
)
def test_megabytes_of_a_refused_call_do_not_wait_in_its_record(method: str, request_: Any) -> None:
    """A client without any right filled a node's memory with what it was refused."""
    said = audited(AUDITED[method], request_, None)
    assert said.arguments
    assert len(said.name) <= FIELD_CHARS_MAX
    assert all(len(part) <= FIELD_CHARS_MAX for pair in said.arguments for part in pair)


def test_no_described_text_is_longer_than_a_record_may_have() -> None:
    long = Audited(None, "n" * 1000, tuple(("k" * 1000, "v" * 1000) for _ in range(20)))
    said = audited(lambda _request, _answer: long, object(), None)
    assert len(said.name) == FIELD_CHARS_MAX
    assert len(said.arguments) == ARGUMENTS_MAX

"""Views lose nothing of what a client prints as JSON: it is that of the message they came in."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.cli.output import exact_time_text
from ipfs_cluster_node.codec import views
from ipfs_cluster_node.codec.derived import Codec
from ipfs_cluster_node.codec.enums import OUTCOME
from ipfs_cluster_node.codec.tasks import task_to_proto
from ipfs_cluster_node.core.audit import AuditRecord, Outcome
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import (
    Task,
    TaskFailure,
    TaskInput,
    TaskResult,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.views import (
    ListedFailure,
    ListedResult,
    ListedSpec,
    ListedTask,
    TaskStatus,
)
from ipfs_cluster_node.v1 import (
    audit_pb2,
    authorization_pb2,
    errors_pb2,
    membership_pb2,
    task_dispatch_pb2,
)
from tests.fuzz.messages import TEXTS, messages
from tests.support.ucan import actor

YEAR_9999_MS = 253_402_300_799_999
times = st.integers(1, YEAR_9999_MS)


def as_json(message: Any) -> Any:
    document = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    document.pop("next_page_token", None)
    return document


def made_plain(message: Any, draw: Any) -> None:
    """Times of whole milliseconds, and numbers that this release knows."""
    for field, value in message.ListFields():
        if isinstance(value, Timestamp | Duration):
            value.FromMilliseconds(draw(times))
        elif field.type == field.TYPE_ENUM:
            setattr(
                message,
                field.name,
                draw(st.sampled_from(list(field.enum_type.values)).map(lambda v: v.number)),
            )
        elif field.name == "raft":
            value.voters.append("12D3")
        elif field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                made_plain(each, draw)
    if isinstance(message, authorization_pb2.LinkExplanation):
        message.delegation.SetInParent()  # As every master does.
    if isinstance(message, membership_pb2.GetClusterStatusResponse):
        del message.task_counts[:]  # A state is in it once.
        for state in draw(st.sets(st.sampled_from(task_dispatch_pb2.TaskState.values()[1:]))):
            message.task_counts.add(state=state, count=draw(st.integers(0, 9)))
    if isinstance(message, task_dispatch_pb2.Task):
        message.status.SetInParent()
        message.spec.attempt_timeout.SetInParent()
    if isinstance(message, task_dispatch_pb2.TaskSpec):
        message.attempt_timeout.SetInParent()
        message.ClearField("payload")  # As in every answer.
    if isinstance(message, task_dispatch_pb2.TaskResult):
        message.ClearField("data")  # Shown in another way: see below.
    if isinstance(message, task_dispatch_pb2.TaskFailure):
        message.reason = errors_pb2.ERROR_REASON_SQL_FAILED


@pytest.mark.parametrize(
    "kind",
    sorted(views._CODECS.keys() - {AuditRecord, TaskInput}, key=str),
    ids=lambda kind: kind.__name__,
)
@given(data=st.data())
def test_the_json_of_a_view_is_that_of_its_message(kind: type, data: Any) -> None:
    codec: Codec[Any, Any] = views._CODECS[kind]
    message = data.draw(messages(type(codec.encode(kind())), TEXTS))
    made_plain(message, data.draw)
    assert views.json_document(codec.decode(message)) == as_json(message)


@given(st.data(), st.sampled_from(Outcome))
def test_the_json_of_an_audit_record_is_that_of_its_message(data: Any, outcome: Outcome) -> None:
    message = data.draw(messages(audit_pb2.AuditRecord, TEXTS))
    made_plain(message, data.draw)
    message.outcome = OUTCOME.numbers[outcome]
    assert views.json_document(views.AUDIT_RECORD.decode(message)) == as_json(message)


@given(st.integers(0, YEAR_9999_MS))
def test_a_time_is_spelled_as_in_json(at_ms: int) -> None:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(at_ms)
    assert exact_time_text(at_ms) == timestamp.ToJsonString()


def test_a_role_of_a_newer_release_is_none() -> None:
    node = views.NODE.decode(membership_pb2.Node(node_id="n", role=99))  # type: ignore[arg-type]
    assert (node.node_id, node.role) == ("n", None)


SPEC = TaskSpec(
    task_type="echo",
    payload=b"four",
    content_type="text/plain",
    inputs=(TaskInput("a", "bafy", "csv"),),
    attempt_timeout_ms=1500,
    attempt_count_max=7,
    priority=9,
    namespace="team",
)
LISTED_SPEC = ListedSpec(
    task_type="echo",
    content_type="text/plain",
    inputs=(TaskInput("a", "bafy", "csv"),),
    attempt_timeout_ms=1500,
    attempt_count_max=7,
    priority=9,
    namespace="team",
)
TASK = Task(
    task_id=TaskId("t"),
    sequence=5,
    spec=SPEC,
    submitter=actor(1).did,
    state=TaskState.RUNNING,
    attempt=3,
    failed_count=1,
    lost_count=1,
    node_id=NodeId("n"),
    submitted_at_ms=1,
    assigned_at_ms=2,
    failure=TaskFailure(Reason.SQL_FAILED, "no", "printed"),
)


def listed(task: Task, **how: Any) -> ListedTask:
    message = task_to_proto(task, **how)
    return views.TASK.decode(task_dispatch_pb2.Task.FromString(message.SerializeToString()))


def test_a_listed_task_has_what_was_submitted_and_what_became_of_it() -> None:
    """Its payload, attempts and type once had made-up values, which no answer had carried."""
    assert listed(TASK, progress=(0.5, "half")) == ListedTask(
        task_id="t",
        spec=LISTED_SPEC,
        status=TaskStatus(
            state=TaskState.RUNNING,
            submitter_did=actor(1).did,
            attempt=3,
            node_id="n",
            submitted_at_ms=1,
            assigned_at_ms=2,
            failure=ListedFailure(reason=Reason.SQL_FAILED, message="no", output_tail="printed"),
            failed_attempt_count=1,
            lost_attempt_count=1,
            progress_ratio=0.5,
            progress_note="half",
            payload_size_bytes=4,
        ),
    )


def test_what_a_list_leaves_out_is_none_rather_than_empty() -> None:
    result = TaskResult(data=b"", cid="bafy", size_bytes=7)
    spec = replace(TASK.spec, payload=b"")
    ended = replace(TASK, state=TaskState.SUCCEEDED, result=result, spec=spec)
    shown, short = listed(ended).status, listed(ended, with_data=False).status
    assert shown.result == ListedResult(
        data=b"", content_type="application/octet-stream", cid="bafy", size_bytes=7
    )
    assert short.result is not None
    assert short.failure is not None
    assert (short.result.data, short.failure.output_tail) == (None, None)
    assert shown.payload_size_bytes is None  # Dropped by the cluster.
    assert listed(replace(ended, spec=TASK.spec)).status.payload_size_bytes == 4
    assert shown.progress_ratio is None


@pytest.mark.parametrize(
    ("content_type", "data", "shown"),
    [
        ("application/json", b'{"a": 1}', {"json": {"a": 1}}),
        ("application/json", b"NaN", {"text": "NaN"}),
        ("application/json", b"[9007199254740993, 1e999]", {"json": [str(2**53 + 1), "Infinity"]}),
        ("text/plain", b"{}", {"text": "{}"}),
        ("application/json", b"\xff", {"data": "/w=="}),
        ("text/plain", b"", {"data": ""}),
    ],
)
def test_an_inline_result_is_shown_decoded(content_type: str, data: bytes, shown: Any) -> None:
    result = ListedResult(data=data, content_type=content_type, size_bytes=1)
    document = views.json_document(ListedTask(status=TaskStatus(result=result)))
    others = {"content_type": content_type, "cid": "", "size_bytes": "1"}
    assert document["status"]["result"] == others | shown


def test_a_payload_is_shown_decoded() -> None:
    for content_type, data, shown in (
        ("application/json", b'{"sql": "SELECT 1"}', {"payload_json": {"sql": "SELECT 1"}}),
        ("application/json", b"{", {"payload_text": "{"}),
        ("text/plain", b"x", {"payload_text": "x"}),
        ("text/plain", b"\xff", {"payload": "/w=="}),
    ):
        spec = ListedSpec(payload=data, content_type=content_type)
        document = views.json_document(ListedTask(spec=spec))["spec"]
        assert {k: v for k, v in document.items() if k.startswith("payload")} == shown

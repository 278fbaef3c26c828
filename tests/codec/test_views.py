"""Views lose nothing of what a client prints as JSON: it is that of the message they came in."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.cli.output import exact_time_text
from ipfs_cluster_node.codec import views
from ipfs_cluster_node.codec.derived import Codec
from ipfs_cluster_node.codec.members import LIVENESS_TO_PROTO, ROLE_TO_PROTO
from ipfs_cluster_node.core.audit import AuditRecord, Outcome
from ipfs_cluster_node.v1 import audit_pb2, authorization_pb2, membership_pb2, task_dispatch_pb2
from tests.fuzz.messages import TEXTS, messages

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
        if isinstance(value, Timestamp):
            value.FromMilliseconds(draw(times))
        elif field.name == "raft":
            value.voters.append("12D3")
        elif field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                made_plain(each, draw)
    if isinstance(message, authorization_pb2.LinkExplanation):
        message.delegation.SetInParent()  # As every master does.
    if isinstance(message, membership_pb2.Node):
        message.role = draw(st.sampled_from([0, *ROLE_TO_PROTO.values()]))
        message.liveness = draw(st.sampled_from([0, *LIVENESS_TO_PROTO.values()]))


@pytest.mark.parametrize(
    "kind", sorted(views._CODECS.keys() - {AuditRecord}, key=str), ids=lambda kind: kind.__name__
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
    message.outcome = outcome
    assert views.json_document(views.AUDIT_RECORD.decode(message)) == as_json(message)


@given(st.integers(0, YEAR_9999_MS))
def test_a_time_is_spelled_as_in_json(at_ms: int) -> None:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(at_ms)
    assert exact_time_text(at_ms) == timestamp.ToJsonString()


def test_a_role_of_a_newer_release_is_none() -> None:
    node = views.NODE.decode(membership_pb2.Node(node_id="n", role=99))  # type: ignore[arg-type]
    assert (node.node_id, node.role) == ("n", None)


def test_a_watched_task_has_the_news_of_its_attempt() -> None:
    message = task_dispatch_pb2.Task(
        state=task_dispatch_pb2.TASK_STATE_RUNNING, progress_ratio=0.5, progress_note="half"
    )
    watched = views.watched_task_from_proto(message)
    assert (watched.progress_ratio, watched.progress_note) == (0.5, "half")
    assert not watched.task.state.is_terminal

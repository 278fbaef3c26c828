"""A field is declared in its dataclass and its message; a mismatch is an error."""

from dataclasses import dataclass, field, make_dataclass
from enum import StrEnum

import pytest

from ipfs_cluster_node.codec.derived import By, codec
from ipfs_cluster_node.codec.records import RECORDS
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, TaskFailure, TaskResult
from ipfs_cluster_node.log.v1 import command_pb2 as pb
from ipfs_cluster_node.log.v1 import snapshot_pb2


def test_a_field_without_a_partner_is_an_error_at_import() -> None:
    more = make_dataclass("More", [("task_id", str), ("attempt", int), ("colour", str)])
    with pytest.raises(TypeError, match=r"AttemptId has no colour for More\.colour"):
        codec(more, pb.AttemptId)
    less = make_dataclass("Less", [("task_id", str)])
    with pytest.raises(TypeError, match="Less has no attempt of AttemptId"):
        codec(less, pb.AttemptId)


def test_a_type_without_a_codec_is_an_error_at_import() -> None:
    for hint in (float, list[str], tuple[str, bytes], str | int | None, TaskFailure):
        kind = make_dataclass("Kind", [("task_id", hint), ("attempt", int)])
        with pytest.raises(TypeError, match="which has no codec"):
            codec(kind, pb.AttemptId)


def test_records_within_records_come_back_and_what_is_absent_stays_absent() -> None:
    its = codec(AttemptOutcome, pb.AttemptOutcome, codecs=RECORDS)
    for outcome in (
        AttemptOutcome(id=AttemptId(NodeId("t"), 3), result=TaskResult()),  # type: ignore[arg-type]
        AttemptOutcome(id=AttemptId(NodeId("t"), 3), retryable=True),  # type: ignore[arg-type]
    ):
        message = its.encode(outcome)
        assert its.decode(pb.AttemptOutcome.FromString(message.SerializeToString())) == outcome
        assert pb.AttemptOutcome(**its.named(outcome)) == message
        assert message.HasField("result") == (outcome.result is not None)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Painted:
    did: Colour
    name: Colour = Colour.BLUE
    endpoints: tuple[Colour, ...] = ()
    asked_at_ms: int = 0
    approved: bool | None = field(default=None)


def test_enumerations_go_by_value_and_an_unset_one_is_its_default() -> None:
    its = codec(Painted, snapshot_pb2.JoinerRecord)
    red = Painted(Colour.RED, Colour.RED, (Colour.BLUE,), 1, approved=False)
    assert its.decode(its.encode(red)) == red
    assert its.decode(snapshot_pb2.JoinerRecord(did="red")) == Painted(Colour.RED)
    with pytest.raises(ValueError, match="'green' is not a valid Colour"):
        its.decode(snapshot_pb2.JoinerRecord(did="green"))
    with pytest.raises(ValueError, match="'' is not a valid Colour"):
        its.decode(snapshot_pb2.JoinerRecord())


def test_a_field_may_have_another_name_and_a_codec_of_its_own() -> None:
    @dataclass(frozen=True)
    class Attempt:
        task: str
        attempt: str

    its = codec(
        Attempt,
        pb.AttemptId,
        renamed={"task": "task_id"},
        by={"attempt": By(encode=int, decode=str)},
    )
    assert its.encode(Attempt("t", "7")) == pb.AttemptId(task_id="t", attempt=7)
    assert its.decode(pb.AttemptId(task_id="t", attempt=7)) == Attempt("t", "7")

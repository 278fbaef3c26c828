"""Errors on the wire: with and without google.rpc, and those that gRPC itself makes."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ipfs_cluster_node.codec.errors import (
    LEADER_ENDPOINT_KEY,
    REASON_KEY,
    STATUS_DETAILS_KEY,
    error_from_rpc,
    trailers_of,
)
from ipfs_cluster_node.codec.tasks import reason_from_proto, reason_to_proto
from ipfs_cluster_node.core.errors import (
    LOCAL_REASONS,
    ClusterError,
    FieldViolation,
    Leader,
    Reason,
    Trait,
)
from ipfs_cluster_node.v1.errors_pb2 import ErrorReason, NotLeader


def failed(code: grpc.StatusCode, words: str, trailers: Any = ()) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*trailers)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details=words)


def told(error: ClusterError) -> ClusterError:
    return error_from_rpc(failed(grpc.StatusCode.UNKNOWN, "", trailers_of(error)))


def test_an_error_comes_back_as_it_was() -> None:
    error = ClusterError(
        Reason.NOT_LEADER,
        "ask another",
        metadata={"a": "b"},
        retry_after=timedelta(seconds=1),
        violations=(FieldViolation("f", "is bad"),),
        leader=Leader("12D3KooOne", ("h:1", "[::1]:2")),
    )
    back = told(error)
    assert (back.reason, str(back), back.metadata) == (error.reason, str(error), error.metadata)
    assert (back.retry_after, back.violations) == (error.retry_after, error.violations)
    assert back.leader == error.leader
    assert told(ClusterError(Reason.NO_LEADER, "none")).leader is None


def test_the_leader_is_a_typed_detail_and_its_address_is_plain_text() -> None:
    """Its endpoints were one text with commas, which grpc-js, tonic and C++ could not read."""
    leader = Leader("12D3KooOne", ("h:1", "[::1]:2"))
    trailers = dict(trailers_of(ClusterError(Reason.NOT_LEADER, "ask it", leader=leader)))
    assert trailers[REASON_KEY] == "NOT_LEADER"
    assert trailers[LEADER_ENDPOINT_KEY] == "h:1"
    status = Status.FromString(trailers[STATUS_DETAILS_KEY])
    found = NotLeader()
    assert [detail.Unpack(found) for detail in status.details].count(True) == 1
    assert (found.node_id, list(found.endpoints)) == ("12D3KooOne", ["h:1", "[::1]:2"])
    unknown = ClusterError(Reason.NOT_LEADER, "ask it", leader=Leader("12D3KooOne"))
    assert LEADER_ENDPOINT_KEY not in dict(trailers_of(unknown))


def test_a_calls_reason_with_the_prefix_is_the_name_of_a_tasks_reason() -> None:
    for reason in set(Reason) - LOCAL_REASONS.keys():
        status = Status.FromString(dict(trailers_of(ClusterError(reason, "")))[STATUS_DETAILS_KEY])
        info = ErrorInfo()
        assert status.details[0].Unpack(info)
        value = ErrorReason.Value(f"ERROR_REASON_{info.reason}")
        assert value == reason_to_proto(reason)
        assert reason_from_proto(value) is reason


@pytest.mark.parametrize("reason", list(LOCAL_REASONS))
def test_a_reason_of_commands_alone_is_not_told_to_callers(reason: Reason) -> None:
    error = told(ClusterError(reason, "the log is damaged"))
    assert (error.reason, error.message) == (Reason.INTERNAL, "the log is damaged")
    assert reason_from_proto(reason_to_proto(reason)) is Reason.INTERNAL


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("SERVER: Sent message larger than max (4332875 vs. 4194304)", Reason.PAYLOAD_TOO_LARGE),
        ("CLIENT: Received message larger than max (9 vs. 4)", Reason.PAYLOAD_TOO_LARGE),
        ("received initial metadata size exceeds soft limit", Reason.PAYLOAD_TOO_LARGE),
        ("Bandwidth exhausted or memory limit exceeded", Reason.INTERNAL),
    ],
)
def test_what_the_grpc_library_refuses_is_not_repeated_as_an_overload(
    words: str, reason: Reason
) -> None:
    error = error_from_rpc(failed(grpc.StatusCode.RESOURCE_EXHAUSTED, words))
    assert error.reason is reason
    assert not error.reason.has(Trait.RETRYABLE)


def test_what_is_repeated_follows_from_the_status_and_two_reasons() -> None:
    # So docs/other-languages.md says it to clients without the list.
    unavailable = {reason for reason in Reason if reason.status == "UNAVAILABLE"}
    repeated = {reason for reason in Reason if reason.has(Trait.RETRYABLE)}
    assert repeated == unavailable | {Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED}

"""Operations take names and beginnings of ids; whole ids cost no further call."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import pytest
from google.protobuf.message import Message

from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.lookups import ASKED_MAX, LOOKUPS_MAX
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import node_id_from_did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, DAG_PB, RAW, cid_of
from ipfs_cluster_node.v1 import authorization_pb2, certificate_pb2, content_pb2, membership_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as tasks
from tests.support.ucan import actor

TASK_ID = "3fa9c0ffee0123456789"
SERIAL = "7fab" * 10
WORKER, TWIN, ALICE = (actor(n) for n in (1, 2, 3))
W1 = node_id_from_did(WORKER.did)
DIRECTORY, FILE = (str(cid_of(codec, b"x")) for codec in (DAG_PB, RAW))
TOKEN = str(cid_of(DAG_CBOR, b"x"))
HOUR = timedelta(hours=1)


class Answering(Connection):
    """A cluster of a few rows, in which every other operation succeeds."""

    def __init__(self, *, denied: str = "") -> None:
        """Deny lists whose request's name begins with this."""
        super().__init__([("127.0.0.1:1", None)], None)
        self.asked: list[Message] = []
        self.denied = denied

    async def unary(self, request: Any, **_: Any) -> Any:
        """Answer a list by its prefix."""
        self.asked.append(request)
        if self.denied and type(request).__name__.startswith(self.denied):
            raise ClusterError(Reason.NOT_DELEGATED, "nothing covers it")
        match request:
            case tasks.ListTasksRequest():
                found = [TASK_ID, *(f"abcd{n:016x}" for n in range(50))]
                kept = [each for each in found if each.startswith(request.task_id_prefix)]
                return tasks.ListTasksResponse(
                    tasks=[tasks.Task(task_id=each) for each in kept[: request.page_size]]
                )
            case content_pb2.ListContentRequest():
                kept = [each for each in (DIRECTORY, FILE) if each.startswith(request.cid_prefix)]
                listed = [content_pb2.Content(cid=each) for each in kept]
                return content_pb2.ListContentResponse(contents=listed)
            case authorization_pb2.ListDelegationsRequest():
                delegation = authorization_pb2.Delegation(cid=TOKEN)
                return authorization_pb2.ListDelegationsResponse(delegations=[delegation])
            case certificate_pb2.ListCertificatesRequest():
                return certificate_pb2.ListCertificatesResponse(
                    certificates=[
                        certificate_pb2.Certificate(did=who.did, name=name, serial=serial)
                        for who, name, serial in (
                            (WORKER, "w1", "a" * 40),
                            (ALICE, "alice", SERIAL),
                            (ALICE, "alice", "b" * 40),
                        )
                    ]
                    # Of a member that was removed, and whose name was given again.
                    + [certificate_pb2.Certificate(did=TWIN.did, name="alice", revoked=True)]
                )
            case membership_pb2.ListJoinTokensRequest():
                found_token = membership_pb2.JoinToken(token_id="0123456789abcdef")
                return membership_pb2.ListJoinTokensResponse(tokens=[found_token])
            case membership_pb2.ListNodesRequest():
                rows = ((WORKER, "w1"), (TWIN, "twin"), (actor(4), "twin"))
                return membership_pb2.ListNodesResponse(
                    nodes=[
                        membership_pb2.Node(node_id=node_id_from_did(who.did), name=name)
                        for who, name in rows
                    ]
                )
        return cast("Mapping[type, Callable[[], Any]]", ANSWERS)[type(request)]()


ANSWERS = {
    tasks.GetTaskRequest: lambda: tasks.GetTaskResponse(task=tasks.Task(task_id=TASK_ID)),
    tasks.CancelTaskRequest: tasks.CancelTaskResponse,
    tasks.SubmitTaskRequest: lambda: tasks.SubmitTaskResponse(task_id=TASK_ID),
    content_pb2.StatContentRequest: content_pb2.StatContentResponse,
    content_pb2.RemoveContentRequest: content_pb2.RemoveContentResponse,
    content_pb2.KeepContentRequest: content_pb2.KeepContentResponse,
    authorization_pb2.RevokeDelegationRequest: authorization_pb2.RevokeDelegationResponse,
    certificate_pb2.RevokeCertificateRequest: certificate_pb2.RevokeCertificateResponse,
    membership_pb2.RemoveNodeRequest: membership_pb2.RemoveNodeResponse,
    membership_pb2.RevokeJoinTokenRequest: membership_pb2.RevokeJoinTokenResponse,
    membership_pb2.TransferLeadershipRequest: membership_pb2.TransferLeadershipResponse,
}

CASES: list[tuple[Callable[[Client, str], Any], str, str, str, int]] = [
    # The operation, what a person types, the field of the request, its value, lookups.
    (lambda c, i: c.get_task(i), TASK_ID[:6], "task_id", TASK_ID, 1),
    (lambda c, i: c.cancel_task(i), TASK_ID[:4], "task_id", TASK_ID, 1),
    (lambda c, i: c.stat_content(i), FILE[:12], "cid", FILE, 1),
    (lambda c, i: c.remove_content(i), FILE[:12], "cid", FILE, 1),
    (lambda c, i: c.keep_content(i), FILE[:12], "cid", FILE, 1),
    (lambda c, i: c.revoke_delegation(i), TOKEN[:15], "cid", TOKEN, 1),
    (lambda c, i: c.revoke_certificate(serial=i), SERIAL[:8], "serial", SERIAL, 1),
    (lambda c, i: c.revoke_certificate(did=i), "alice", "did", ALICE.did, 2),
    (lambda c, i: c.revoke_join_token(i), "012345", "token_id", "0123456789abcdef", 1),
    (lambda c, i: c.remove_node(i), "alice", "node_id", node_id_from_did(ALICE.did), 2),
    (lambda c, i: c.remove_node(i), "w1", "node_id", W1, 2),
    (lambda c, i: c.remove_node(i), W1[8:16], "node_id", W1, 2),
    (lambda c, i: c.transfer_leadership(i), "w1", "node_id", W1, 1),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("operation", "typed", "field", "whole", "lookups"), CASES)
async def test_a_name_or_a_beginning_is_looked_up_and_a_whole_id_is_not(
    operation: Callable[[Client, str], Any], typed: str, field: str, whole: str, lookups: int
) -> None:
    for text, calls in ((typed, lookups + 1), (whole, 1)):
        connection = Answering()
        client = _client(connection)
        await operation(client, text)
        assert getattr(connection.asked[-1], field) == whole
        assert len(connection.asked) == calls


@pytest.mark.asyncio
async def test_without_its_constant_start_a_cid_is_looked_up_under_each() -> None:
    """`x` as raw bytes and as dag-pb have the same hash: both CIDs go on alike."""
    client = _client(Answering())
    with pytest.raises(ClusterError, match="ambiguous") as refused:
        await client.stat_content(FILE[7:15])
    assert FILE in refused.value.message
    assert DIRECTORY in refused.value.message


@pytest.mark.asyncio
@pytest.mark.parametrize(("text", "needed"), [("3bd", 4), ("bafkreid5", 11)])
async def test_what_is_too_short_is_refused_without_a_call(text: str, needed: int) -> None:
    connection = Answering()
    client = _client(connection)
    operation = client.get_task if needed == 4 else client.stat_content
    with pytest.raises(ClusterError, match=f"give at least {needed} characters") as refused:
        await operation(text)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    assert not connection.asked


@pytest.mark.asyncio
async def test_an_input_is_looked_up_too() -> None:
    connection = Answering()
    client = _client(connection)
    await client.submit_task("echo", inputs=[("t", DIRECTORY[:15])])
    request = cast("tasks.SubmitTaskRequest", connection.asked[-1])
    assert request.spec.inputs[0].cid == DIRECTORY


@pytest.mark.asyncio
async def test_many_candidates_are_neither_fetched_nor_named() -> None:
    connection = Answering()
    client = _client(connection)
    with pytest.raises(ClusterError, match=r"ambiguous.*and more") as refused:
        await client.get_task("abcd")
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    [asked] = cast("list[tasks.ListTasksRequest]", connection.asked)
    assert asked.page_size == ASKED_MAX


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "reason"),
    [("twin", Reason.INVALID_ARGUMENT), ("w9", Reason.MEMBER_NOT_FOUND)],
)
async def test_nothing_is_removed_for_an_ambiguous_or_unknown_name(
    text: str, reason: Reason
) -> None:
    connection = Answering()
    with pytest.raises(ClusterError) as refused:
        await _client(connection).remove_node(text)
    assert refused.value.reason is reason
    assert not any(isinstance(each, membership_pb2.RemoveNodeRequest) for each in connection.asked)


@pytest.mark.asyncio
@pytest.mark.parametrize("operation", [case[0] for case in CASES])
async def test_a_lookup_that_is_denied_says_to_give_the_whole_id(
    operation: Callable[[Client, str], Any],
) -> None:
    with pytest.raises(ClusterError, match="give the whole id") as refused:
        await operation(_client(Answering(denied="List")), "aaaaa")
    assert refused.value.reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_the_lookups_of_one_list_are_bounded() -> None:
    connection = Answering()
    client = _client(connection)
    with pytest.raises(ClusterError, match="bad request"):
        await client.lookups.task_ids(["abcd"] * (LOOKUPS_MAX + 1), HOUR)
    assert not connection.asked
    whole = [f"{n:020x}" for n in range(20_000)]
    assert await client.lookups.task_ids(whole, HOUR) == whole
    assert not connection.asked


def _client(connection: Connection) -> Client:
    client = Client(connection)
    client._learn_at = float("inf")  # It would add a call.
    return client


@pytest.mark.asyncio
async def test_a_node_is_known_without_the_certificates_that_only_clients_need() -> None:
    """Its removal is then judged, and a denial names the command that it needs."""
    connection = Answering(denied="ListCertificates")
    client = Client(connection)
    assert (await client.lookups.member("w1")).id == W1
    with pytest.raises(ClusterError, match="you may not do") as denied:
        await client.lookups.member("alice")
    assert denied.value.reason is Reason.NOT_DELEGATED

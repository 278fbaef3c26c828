"""Every client method with a command, with every kind of delegation that is not valid for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
import pytest_asyncio

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, Rule
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.services.requests import request_type_of
from ipfs_cluster_node.v1 import (
    certificate_pb2,
    content_pb2,
    membership_pb2,
    roles_pb2,
    state_delta_pb2,
    task_dispatch_pb2,
)
from tests.support.people import HOUR_S, Person, signed

CID: Final = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
METHODS: Final = {
    method: rule
    for method, rule in RULES_BY_METHOD.items()
    if rule.command is not None and CallerClass.CLIENT in rule.callers
}
STREAMS: Final = {"CreateBackup", "WatchTasks", "GetContent", "GetBlocks", "GetSnapshot", "Watch"}
STRANGER: Final = Identity.create()
SPEC: Final = task_dispatch_pb2.TaskSpec(task_type="echo")
REQUESTS: Final[dict[str, Any]] = {
    "AddContent": content_pb2.AddContentRequest(
        header=content_pb2.AddContentHeader(request_id="r", size_bytes=1)
    ),
    "CancelTask": task_dispatch_pb2.CancelTaskRequest(request_id="r", task_id="t"),
    "CreateJoinToken": membership_pb2.CreateJoinTokenRequest(
        request_id="r", role=roles_pb2.ROLE_CLIENT
    ),
    "DecideJoiner": membership_pb2.DecideJoinerRequest(
        request_id="r", did=STRANGER.did, token_id="t"
    ),
    "GetBlocks": content_pb2.GetBlocksRequest(cids=[b"\x01\x55\x12\x20" + bytes(32)]),
    "GetConfig": membership_pb2.GetConfigRequest(key="user.k"),
    "GetContent": content_pb2.GetContentRequest(cid=CID),
    "GetSnapshot": state_delta_pb2.GetSnapshotRequest(table=state_delta_pb2.STATE_TABLE_NODES),
    "GetTask": task_dispatch_pb2.GetTaskRequest(task_id="t"),
    "KeepContent": content_pb2.KeepContentRequest(request_id="r", cid=CID),
    "PlanConfig": membership_pb2.PlanConfigRequest(values={"user.k": "v"}),
    "ProposeConfig": membership_pb2.ProposeConfigRequest(request_id="r", values={"user.k": "v"}),
    "RemoveContent": content_pb2.RemoveContentRequest(request_id="r", cid=CID),
    "RemoveNode": membership_pb2.RemoveNodeRequest(request_id="r", node_id=STRANGER.node_id),
    "RevokeCertificate": certificate_pb2.RevokeCertificateRequest(request_id="r", did=STRANGER.did),
    "StatContent": content_pb2.StatContentRequest(cid=CID),
    "SubmitTask": task_dispatch_pb2.SubmitTaskRequest(request_id="r", spec=SPEC),
    "SubmitTasks": task_dispatch_pb2.SubmitTasksRequest(request_id="s", specs=[SPEC]),
    "TransferLeadership": membership_pb2.TransferLeadershipRequest(node_id=STRANGER.node_id),
    "Watch": state_delta_pb2.WatchRequest(
        tables=[state_delta_pb2.TableFilter(table=state_delta_pb2.STATE_TABLE_NODES)]
    ),
    "WatchTasks": task_dispatch_pb2.WatchTasksRequest(task_ids=["t"]),
}
"""Of the others an empty one will do."""


@dataclass(frozen=True)
class Scene:
    """Who there is."""

    cluster_did: str
    operator: Identity
    person: Person
    revoked: bytes
    """For the client, for everything; the cluster has its revocation."""
    channel: grpc.aio.Channel


@pytest_asyncio.fixture
async def scene(
    cluster: LocalCluster, client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> AsyncIterator[Scene]:
    leader = await cluster.leader(client)
    revoked = signed(operator, nobody.did, "/", cluster_did)
    [cid] = await client.put_delegation([revoked])
    await client.revoke_delegation(cid)
    node_id = NodeId(leader.node_id)
    async with open_channel(leader.address, tls=nobody.tls, node_id=node_id) as channel:
        yield Scene(cluster_did, operator, nobody, revoked, channel)


Tokens = Callable[[Scene, str], Sequence[bytes]]
"""What is brought to a method with this command."""


def to_person(scene: Scene, command: str, *policy: Any, **fields: Any) -> bytes:
    return signed(scene.operator, scene.person.did, command, scene.cluster_did, policy, **fields)


def of_other_commands(scene: Scene, command: str) -> list[bytes]:
    """One beside it, one below it, and one that only begins alike."""
    return [to_person(scene, other) for other in ("/other", f"{command}/more", f"{command}x")]


def of_another_cluster(scene: Scene, _command: str) -> list[bytes]:
    """By its authority and about it; and by its authority about this cluster."""
    other, to = Identity.create(), scene.person.did
    return [signed(other, to, "/", about) for about in (other.did, scene.cluster_did)]


KINDS: Final[dict[str, tuple[Tokens, set[str]]]] = {
    "none": (lambda _scene, _command: [], {"InvalidAudience", "InvalidClaim", "Revoked"}),
    "whose policy never holds": (
        lambda scene, _command: [to_person(scene, "/", ["==", ".never", True])],
        {"MatchError"},
    ),
    "of another command": (of_other_commands, {"InvalidCommand"}),
    "that has expired": (
        lambda scene, _command: [to_person(scene, "/", ends_in_s=-HOUR_S)],
        {"Expired"},
    ),
    "that was revoked": (lambda scene, _command: [scene.revoked], {"Revoked"}),
    "of another cluster": (of_another_cluster, {"InvalidSubject", "InvalidAudience"}),
    "to somebody else": (
        lambda scene, _command: [signed(scene.operator, STRANGER.did, "/", scene.cluster_did)],
        {"InvalidAudience"},
    ),
}


def test_every_method_has_a_request_that_could_be_carried_out() -> None:
    names = {method.rsplit("/", 1)[1] for method in METHODS}
    assert REQUESTS.keys() < names
    assert len(names) == len(METHODS) > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_without_a_delegation_no_method_of_a_client_does_anything(
    scene: Scene, kind: str
) -> None:
    """Nor with one that does not count."""
    tokens, errors = KINDS[kind]
    reason = Reason.DELEGATION_INVALID if errors == {"Expired"} else Reason.NOT_DELEGATED
    for method, rule in METHODS.items():
        answer = await called(scene, method, tokens(scene, str(rule.command)))
        if kind == "whose policy never holds" and rule.required is None:
            assert not shows_anything(method, rule, answer), method
            continue
        assert isinstance(answer, grpc.aio.AioRpcError), (method, answer)
        error = error_from_rpc(answer)
        assert error.reason is reason, (method, error)
        assert error.metadata["ucan_error"] in errors, (method, error.metadata)


@pytest.mark.asyncio
async def test_with_a_delegation_that_counts_each_of_these_calls_is_let_through(
    scene: Scene,
) -> None:
    """Otherwise the refusals above would prove nothing."""
    good = to_person(scene, "/")
    for method in METHODS:
        answer = await called(scene, method, [good])
        if isinstance(answer, grpc.aio.AioRpcError):
            reason = error_from_rpc(answer).reason
            assert reason not in (Reason.NOT_DELEGATED, Reason.DELEGATION_INVALID), method
            assert reason is not Reason.UNREACHABLE, (method, answer)


async def called(
    scene: Scene, method: str, tokens: Sequence[bytes]
) -> bytes | grpc.aio.AioRpcError:
    """Call a method, again while nobody is sure to lead; returns its answer, or the error."""
    while True:
        answer = await called_once(scene, method, tokens)
        if isinstance(answer, bytes) or error_from_rpc(answer).reason is not Reason.NO_LEADER:
            return answer
        await asyncio.sleep(0.2)


async def called_once(
    scene: Scene, method: str, tokens: Sequence[bytes]
) -> bytes | grpc.aio.AioRpcError:
    """Call a method; returns its answer, the first of a stream, or the error."""
    name = method.rsplit("/", 1)[1]
    message: Any = request_type_of(method)
    body = REQUESTS.get(name, message()).SerializeToString()
    metadata = (("ucan", write_container(tokens)),) if tokens else ()
    channel = scene.channel
    try:
        if name == "AddContent":
            sent: Any = _one(body)
            call: Any = channel.stream_unary(method)(sent, metadata=metadata, timeout=10)
            kept = KeptAnswer(call)
            try:
                return bytes(await call)
            except grpc.aio.AioRpcError as raised:
                return await kept.error(raised)
        if name in STREAMS:
            frames: Any = channel.unary_stream(method)(body, metadata=metadata, timeout=10)
            async for frame in frames:
                if name == "Watch" and not _is_of_the_state(frame):
                    continue
                return bytes(frame)
            return b""
        return bytes(await channel.unary_unary(method)(body, metadata=metadata, timeout=10))
    except grpc.aio.AioRpcError as error:
        return error


def _is_of_the_state(frame: bytes) -> bool:
    """Whether a message of a watch is more than how rows are encoded, which is no secret."""
    return state_delta_pb2.WatchResponse.FromString(frame).WhichOneof("part") != "schema"


async def _one(message: bytes) -> AsyncIterator[bytes]:
    yield message


def shows_anything(method: str, rule: Rule, answer: bytes | grpc.aio.AioRpcError) -> bool:
    assert isinstance(answer, bytes), (method, answer)
    if method.endswith("/GetSnapshot"):
        frame = state_delta_pb2.GetSnapshotResponse.FromString(answer)
        return frame.part_count != 1 or bool(frame.payload)
    if method.endswith("/Watch"):
        # The bookmark of no rows.
        part = state_delta_pb2.WatchResponse.FromString(answer).WhichOneof("part")
        return part != "bookmark"
    return answer != b""

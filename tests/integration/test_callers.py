"""Every method by every class of callers, over real sockets: only those of the table are accepted."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD, methods
from ipfs_cluster_node.adapters.keys.certificates import read_certificate
from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.internal.v1 import raft_pb2
from ipfs_cluster_node.worker.v1 import node_pb2
from tests.support.certificates import node_credentials, tls_of
from tests.support.nodes import until
from tests.support.people import join

ANSWER_SECONDS_MAX: Final = 10.0
ENROLMENT: Final = "/ipfs_cluster_node.v1.EnrolmentService/"
NEEDS_LOG: Final = ("CertificateService/", "ipfs_cluster_node.internal.v1.")
"""Services that do nothing on a node without a log."""
BY_A_RELEASE_ONLY: Final = "/grpc.health.v1.Health/List"
"""Some releases of the standard health service have it, others not."""
OF_CLASS: Final = "may not call this method"
HARMLESS: Final = {
    # An empty registration would be taken, and nobody would know where the node is.
    "RegisterNode": node_pb2.RegisterNodeRequest(version="x" * 1000),
}
"""Requests of methods where an empty one would do something."""
CLASSES: Final = (CallerClass.CLIENT, CallerClass.NODE, CallerClass.MASTER)


@pytest_asyncio.fixture
async def follower(cluster: LocalCluster, client: Client) -> LocalNode:
    leader = await cluster.leader(client)
    return next(n for n in cluster.nodes if n.role == "master" and n is not leader)


@pytest_asyncio.fixture(params=CLASSES)
async def caller(
    request: pytest.FixtureRequest, cluster: LocalCluster, follower: LocalNode, tmp_path: Path
) -> AsyncIterator[tuple[CallerClass, Any]]:
    """A class, and what one of it shows. The client may do nothing that would end the cluster."""
    if request.param is CallerClass.CLIENT:
        yield request.param, (await join(cluster, tmp_path, "reader")).tls
    elif request.param is CallerClass.NODE:
        yield request.param, tls_of(node_credentials(cluster.nodes[-1]))
    else:
        yield request.param, tls_of(node_credentials(follower))


METHODS: Final = {
    f"/{method.containing_service.full_name}/{method.name}": method
    for method in (
        *methods(),
        *health_pb2.DESCRIPTOR.services_by_name["Health"].methods,
        *reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods,
    )
}


async def outcome(channel: grpc.aio.Channel, method: str, caller: NodeId | None = None) -> str:
    """Call a method with an empty message; with none where a stream is sent, but for a hello."""
    name, described = method.rsplit("/", 1)[1], METHODS.get(method)
    assert described or method == BY_A_RELEASE_ONLY
    sends, gets = (
        bool(described and described.client_streaming),
        bool(described and described.server_streaming),
    )
    shape = "_".join("stream" if streams else "unary" for streams in (sends, gets))
    stub: Any = getattr(channel, shape)(method)
    body = HARMLESS[name].SerializeToString() if name in HARMLESS else b""
    hello = raft_pb2.ExchangeHello(voter=voter_id(caller, 1) if caller else "")
    hellos = {"Exchange": [raft_pb2.ExchangeRequest(hello=hello).SerializeToString()]}
    given: Any = _each(hellos.get(name, [])) if sends else body
    call = stub(given, timeout=ANSWER_SECONDS_MAX)
    kept = KeptAnswer(call)
    try:
        if gets:
            async for _ in call:
                break  # A watch would go on.
        else:
            await call
    except grpc.aio.AioRpcError as raised:
        error = await kept.error(raised)
        reason = error_from_rpc(error).reason
        if reason is Reason.CALLER_NOT_ALLOWED and OF_CLASS not in str(error.details()):
            return "LET IN"  # Its class may call it, though not so: without an attempt, say.
        return "UNIMPLEMENTED" if error.code() is grpc.StatusCode.UNIMPLEMENTED else reason.value
    finally:
        call.cancel()
    return "OK"


async def _each(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@pytest.mark.asyncio
async def test_each_class_of_members_is_let_into_its_methods_and_no_others(
    cluster: LocalCluster, client: Client, caller: tuple[CallerClass, Any]
) -> None:
    kind, tls = caller
    caller_id = read_certificate(tls.certificate_pem).node_id
    leader = await cluster.leader(client)
    worker = next(node for node in cluster.nodes if node.role == "worker")
    for node in (leader, worker):
        channel = open_channel(node.address, tls=tls, node_id=NodeId(node.node_id))
        async with channel:
            said = {m: await outcome(channel, m, caller_id) for m in RULES_BY_METHOD}
        for method, found in said.items():
            if method.startswith(ENROLMENT):
                assert found == "UNIMPLEMENTED", (node.name, method, found)
            elif kind in RULES_BY_METHOD[method].callers:
                assert found != Reason.CALLER_NOT_ALLOWED, (node.name, method)
                assert found != Reason.UNREACHABLE, (node.name, method)
                done = found == "OK" and any(each in method for each in NEEDS_LOG)
                assert not (done and node is worker), method
                assert (found == "UNIMPLEMENTED") <= (method == BY_A_RELEASE_ONLY), (method, found)
            else:
                assert found == Reason.CALLER_NOT_ALLOWED, (node.name, method, found)
    await still_works(cluster, client)


@pytest.mark.asyncio
async def test_a_joiner_finds_enrolment_and_health_at_its_port_and_nothing_else(
    cluster: LocalCluster, client: Client
) -> None:
    """The methods of members are not served at all: no wrong rule could expose them."""
    ca_pem = cluster.profile.ca.read_bytes()
    allowed = {m for m, rule in RULES_BY_METHOD.items() if CallerClass.JOINER in rule.callers}
    assert {m for m in allowed if m.startswith("/ipfs_")} == {
        f"{ENROLMENT}Enrol",
        f"{ENROLMENT}RenewExpiredCertificate",
    }
    let_in = {"OK", Reason.INVALID_ARGUMENT, Reason.CERTIFICATE_INVALID}
    for node in cluster.nodes:
        if node.role != "master":
            continue
        address = f"{node.host}:{node.enrolment_port}"
        async with open_channel(address, tls=None, ca_pem=ca_pem) as channel:
            said = {method: await outcome(channel, method) for method in RULES_BY_METHOD}
        for method, found in said.items():
            if method in allowed - {BY_A_RELEASE_ONLY}:
                assert found in let_in, (method, found)
            elif method not in allowed:
                assert found == "UNIMPLEMENTED", (method, found)


async def still_works(cluster: LocalCluster, client: Client) -> None:
    async def all_alive() -> bool:
        nodes = {node.node_id: node for node in await client.list_nodes()}
        return all(nodes[node.node_id].liveness is Liveness.ALIVE for node in cluster.nodes)

    await until(all_alive, seconds=10, what="every node is alive")
    await asyncio.wait_for(client.submit_task("echo"), 10)

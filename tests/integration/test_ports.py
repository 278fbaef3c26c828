"""What unknown callers may keep open at the enrolment port, and what health watchers receive."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipfs_cluster_node.access.authorizer import Authorizer
from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.identify import identify_joiner
from ipfs_cluster_node.adapters.net import tls as net_tls
from ipfs_cluster_node.adapters.net.tls import (
    ENROLMENT_MESSAGE_BYTES_MAX,
    ServerTls,
    bind_port,
    make_server,
)
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.node.descriptors import raise_descriptor_limit
from ipfs_cluster_node.services.gate import Gate
from ipfs_cluster_node.services.standard_health import StandardHealthServicer, add_check_alone
from tests.support.calls import Anything
from tests.support.tls import enrol, make_ca
from tests.support.virtual_time import loop_clock, now_ms

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
ANY = health_pb2.HealthCheckRequest()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
MEMBER = enrol(make_ca())


@asynccontextmanager
async def served(gate: Gate, *, enrolment: bool) -> AsyncIterator[int]:
    server = make_server(enrolment=enrolment)
    server.add_generic_rpc_handlers((gate,))
    credentials = ServerTls(MEMBER.tls, mutual=False).credentials
    port = bind_port(server, Endpoint("127.0.0.1", 0), credentials, flag="--bind")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def stub_of(port: int) -> AsyncIterator[Any]:
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{port}",
        grpc.ssl_channel_credentials(MEMBER.tls.ca_pem),
        options=[("grpc.max_send_message_length", -1)],
    ) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def enrolment_gate() -> Gate:
    node_id, nobody = MEMBER.identity.node_id, cast("Any", None)
    no_log = Consensus(node_id, peers=nobody, now_ms=now_ms)
    gate = Gate(
        identify_joiner,
        Authorizer(node_id=node_id, holder=no_log, now_ms=now_ms, clock=loop_clock()),
        clock=loop_clock(),
    )
    add_check_alone(StandardHealthServicer([""]), gate)
    return gate


def member_gate(health: StandardHealthServicer) -> Gate:
    caller = Caller(MEMBER.identity.did, CallerClass.CLIENT)
    gate = Gate(lambda _context: caller, Anything(), clock=loop_clock())
    gate.serve(health)
    return gate


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@pytest.mark.asyncio
async def test_somebody_unknown_may_check_the_health_and_hold_nothing() -> None:
    """A watch held its name of 4 MB, which came in 6 KiB, for as long as its caller liked."""
    async with served(enrolment_gate(), enrolment=True) as port, stub_of(port) as stub:
        assert (await stub.Check(ANY)).status == NOT_SERVING
        assert await code_of(stub.Watch(ANY, timeout=5).read()) is grpc.StatusCode.UNIMPLEMENTED
        unknown = health_pb2.HealthCheckRequest(service="x")
        assert await code_of(stub.Check(unknown)) is grpc.StatusCode.NOT_FOUND
        large = health_pb2.HealthCheckRequest(service="x" * (ENROLMENT_MESSAGE_BYTES_MAX + 1))
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            refused = await code_of(stub.Check(large, timeout=5, compression=compression))
            assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.asyncio
async def test_a_watch_of_an_unknown_service_ends() -> None:
    async with (
        served(member_gate(StandardHealthServicer([""])), enrolment=False) as port,
        stub_of(port) as stub,
    ):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=5)
        assert (await watch.read()).status == SERVICE_UNKNOWN
        assert await code_of(watch.read()) is grpc.StatusCode.NOT_FOUND


@pytest.mark.asyncio
async def test_a_watcher_hears_of_a_change_after_another_one_ended() -> None:
    """Once the end of one watcher left the others without updates."""
    health = StandardHealthServicer([""])
    health.set_serving(True)
    async with served(member_gate(health), enrolment=False) as port, stub_of(port) as stub:
        good, other = stub.Watch(ANY, timeout=10), stub.Watch(ANY, timeout=10)
        assert (await good.read()).status == (await other.read()).status == SERVING
        other.cancel()
        await asyncio.sleep(0.2)
        health.set_serving(False)
        assert (await asyncio.wait_for(good.read(), 5)).status == NOT_SERVING


@pytest.mark.asyncio
@pytest.mark.parametrize("bound", ["ENROLMENT_IDLE_MS", "ENROLMENT_AGE_MS"])
async def test_a_connection_of_somebody_unknown_ends(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """They once lived for ever, each with a descriptor of the node."""
    monkeypatch.setattr(net_tls, bound, 1_000)
    async with served(enrolment_gate(), enrolment=True) as port:
        # It answers pings, as who means harm would.
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(MEMBER.tls.ca_pem)
        ) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            await stub.Check(ANY)
            async with asyncio.timeout(8):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)


@pytest.mark.asyncio
@pytest.mark.parametrize("enrolment", [True, False])
async def test_a_peer_that_answers_no_ping_is_dropped(
    monkeypatch: pytest.MonkeyPatch, *, enrolment: bool
) -> None:
    """Above all one whose machine is gone; nothing else would ever tell."""
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    options = tuple((dict(net_tls.SERVER_OPTIONS) | dict.fromkeys(names, 1_000)).items())
    monkeypatch.setattr(net_tls, "SERVER_OPTIONS", options)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    async with served(enrolment_gate(), enrolment=enrolment) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(PREFACE)
        with suppress(ConnectionError):
            async with asyncio.timeout(8):  # Before the bound of a handshake would end it.
                while await reader.read(4096):
                    pass
        writer.close()


def test_a_node_may_open_as_many_files_as_the_system_lets_it() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(256, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, before[1]))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

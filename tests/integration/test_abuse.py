"""Abuse of the port below any method: the node stays available to others."""

import asyncio
import ssl
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import psutil
import pytest

from ipfs_cluster_node.adapters.net import tls as net_tls
from ipfs_cluster_node.adapters.net.tls import (
    HANDSHAKE_TIMEOUT_MS,
    KEEPALIVE_INTERVAL_MIN_MS,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PING_STRIKES_MAX,
    STREAMS_PER_CONNECTION_MAX,
    ServerTls,
    bind_port,
    open_channel,
)
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.ids import NodeId, tls_name
from ipfs_cluster_node.v1 import membership_pb2, task_dispatch_pb2
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub
from tests.support.certificates import operator_credentials, tls_of
from tests.support.http2 import (
    CANCEL,
    DATA,
    GOAWAY,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PING,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    RawConnection,
    call,
    frame,
    raw_connection,
)
from tests.support.tls import enrol, make_ca

IDLE_SOCKETS = 200
RESETS = 5_000
RESETS_AT_ONCE = 100
GROWTH_BYTES_MAX = 64 * 1024 * 1024
ANSWER_SECONDS_MAX = 5.0
STATUS = membership_pb2.GetClusterStatusRequest()
GET_STATUS = "/ipfs_cluster_node.v1.MembershipService/GetClusterStatus"
WATCH = "/grpc.health.v1.Health/Watch"
PING_NOW = frame(PING, 0, 0, bytes(8))


def channel_to(cluster: LocalCluster, node: LocalNode) -> grpc.aio.Channel:
    return open_channel(
        node.address, tls=tls_of(operator_credentials(cluster)), node_id=NodeId(node.node_id)
    )


async def answers(cluster: LocalCluster, node: LocalNode) -> None:
    """Another caller is answered as ever."""
    async with channel_to(cluster, node) as channel:
        began = time.monotonic()
        await MembershipServiceStub(channel).GetClusterStatus(STATUS, timeout=ANSWER_SECONDS_MAX)
        assert time.monotonic() - began < ANSWER_SECONDS_MAX


async def status_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def descriptors(node: LocalNode) -> int:
    assert node.process is not None
    return psutil.Process(node.process.pid).num_fds()


@pytest.mark.asyncio
async def test_sockets_that_say_nothing_are_closed(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    before = descriptors(node)
    idle = [await asyncio.open_connection(node.host, node.port) for _ in range(IDLE_SOCKETS)]
    await answers(cluster, node)
    async with asyncio.timeout(3 * HANDSHAKE_TIMEOUT_MS / 1000):
        for reader, _ in idle:
            with suppress(ConnectionError):
                while await reader.read(4096):
                    pass
    for _, writer in idle:
        writer.close()
    await answers(cluster, node)
    assert descriptors(node) < before + IDLE_SOCKETS / 10


@pytest.mark.asyncio
async def test_what_is_no_tls_is_not_answered(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(65_536)):
        reader, writer = await asyncio.open_connection(node.host, node.port)
        with suppress(ConnectionError):
            writer.write(said)
            await writer.drain()
            async with asyncio.timeout(2 * HANDSHAKE_TIMEOUT_MS / 1000):
                answer = await reader.read()
            assert b"HTTP" not in answer
        writer.close()
    await answers(cluster, node)


@pytest.mark.asyncio
async def test_a_caller_without_a_certificate_gets_no_connection(cluster: LocalCluster) -> None:
    node = cluster.nodes[0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        reader, writer = await asyncio.open_connection(node.host, node.port, ssl=context)
        try:
            if not await reader.read():  # With TLS 1.3 the refusal comes with the first read.
                raise EOFError
        finally:
            writer.close()


@pytest.mark.asyncio
async def test_a_caller_that_pings_without_end_is_cut_off(cluster: LocalCluster) -> None:
    """But not one whose pings come together after a pause, nor one that pings as we do."""
    node = cluster.nodes[0]

    async def hurried() -> None:
        async with raw_connection(node, cluster.profile) as connection:
            at_once = PING_STRIKES_MAX + 1  # The first comes too soon after nothing.
            for _ in range(at_once):
                await connection.send(PING_NOW)
                await asyncio.sleep(0.01)
            assert len(await connection.until([PING], count=at_once, seconds=5)) == at_once
            await asyncio.sleep(0.3)
            assert connection.of([GOAWAY]) == []
            assert not connection.closed
            with suppress(ConnectionError):
                # Whatever the pause was, two of them come too soon. Not one after the goodbye: what
                # is sent to a closed socket has the answer discarded that was not read yet.
                for _ in range(3):
                    await connection.send(PING_NOW)
                    if await connection.until([GOAWAY], count=1, seconds=0.2):
                        break
            [goodbye, *_] = await connection.until([GOAWAY], count=1, seconds=5)
            assert b"too_many_pings" in goodbye.payload

    async def patient() -> None:
        async with raw_connection(node, cluster.profile) as connection:
            many = PING_STRIKES_MAX + 4
            for _ in range(many):
                await connection.send(PING_NOW)
                await asyncio.sleep(1.1 * KEEPALIVE_INTERVAL_MIN_MS / 1000)
            assert len(await connection.until([PING], count=many, seconds=5)) == many
            assert connection.of([GOAWAY]) == []
            assert not connection.closed

    await asyncio.gather(hurried(), patient())
    await answers(cluster, node)


@pytest.mark.asyncio
async def test_a_port_takes_so_many_calls_at_once_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(net_tls, "CALLS_MAX", 10)
    server, over, member = net_tls.make_server(), asyncio.Event(), enrol(make_ca())

    async def wait(_request: bytes, _context: Any) -> bytes:
        await over.wait()
        return b"done"

    handlers: dict[str, Any] = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    credentials = ServerTls(member.tls, mutual=True).credentials
    port = bind_port(server, Endpoint("127.0.0.1", 0), credentials, flag="--bind")
    await server.start()
    node_id = member.identity.node_id
    try:
        async with open_channel(f"127.0.0.1:{port}", tls=member.tls, node_id=node_id) as channel:
            ask: Any = channel.unary_unary("/t/Wait")
            calls: list[Any] = [ask(b"", timeout=10) for _ in range(20)]
            refused = 0
            while refused < 10:
                await asyncio.sleep(0.05)
                refused = sum(call.done() for call in calls)
            over.set()
            done = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await server.stop(None)
    assert done.count(b"done") == 10
    codes = [each.code() for each in done if isinstance(each, grpc.aio.AioRpcError)]
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 10


@pytest.mark.asyncio
async def test_a_connection_takes_so_many_streams_and_no_more(cluster: LocalCluster) -> None:
    """By a caller that ignores SETTINGS; one that follows them queues further calls."""
    node = cluster.nodes[0]
    async with raw_connection(node, cluster.profile) as connection:
        settings = connection.of([SETTINGS])[0].payload
        pairs = {
            int.from_bytes(settings[at : at + 2], "big"): int.from_bytes(
                settings[at + 2 : at + 6], "big"
            )
            for at in range(0, len(settings), 6)
        }
        assert pairs[MAX_CONCURRENT_STREAMS] == STREAMS_PER_CONNECTION_MAX
        assert pairs[MAX_HEADER_LIST_SIZE] == METADATA_BYTES_MAX
        ids = iter(range(1, 2**31, 2))
        opened = [next(ids) for _ in range(STREAMS_PER_CONNECTION_MAX)]
        for stream in opened:
            await connection.send(call(WATCH, stream))
        served = await connection.until([DATA], count=len(opened), seconds=20)
        assert sorted(each.stream for each in served) == opened
        more = [next(ids) for _ in range(5)]
        for stream in more:
            await connection.send(call(WATCH, stream))
        refused = await connection.until([RST_STREAM], count=len(more), seconds=5)
        said = REFUSED_STREAM.to_bytes(4, "big")
        assert [(each.stream, each.payload) for each in refused] == [(s, said) for s in more]
        await answers(cluster, node)
        # Once one has ended there is room again.
        await connection.send(frame(RST_STREAM, 0, opened[0], CANCEL.to_bytes(4, "big")))
        await asyncio.sleep(0.5)
        await connection.send(call(WATCH, next(ids)))
        served = await connection.until([DATA], count=len(opened) + 1, seconds=5)
        assert len(served) == len(opened) + 1
        assert not connection.closed


@pytest.mark.asyncio
async def test_messages_of_four_mebibytes_pass_and_larger_ones_do_not() -> None:
    """Both ways: what is asked and what is answered, as it is sent and as it is received."""
    member = enrol(make_ca())

    async def answer(request: bytes, _context: Any) -> bytes:
        return bytes(int(request)) if len(request) < 10 else b"%d" % len(request)

    async def started(server: grpc.aio.Server) -> str:
        handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
        credentials = ServerTls(member.tls, mutual=True).credentials
        port = bind_port(server, Endpoint("127.0.0.1", 0), credentials, flag="--bind")
        await server.start()
        return f"127.0.0.1:{port}"

    boundless = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    tls = member.tls
    theirs = grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.certificate_pem)
    name = ("grpc.ssl_target_name_override", tls_name(member.identity.node_id))

    def foreign(address: str) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, theirs, options=[*boundless, name])

    def ours(address: str) -> grpc.aio.Channel:
        return open_channel(address, tls=tls, node_id=member.identity.node_id)

    for server, connect in (
        (net_tls.make_server(), foreign),
        (grpc.aio.server(options=boundless), ours),
    ):
        address = await started(server)
        try:
            async with connect(address) as channel:
                echo: Any = channel.unary_unary("/t/Echo")
                for size in (MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX):
                    assert await echo(bytes(size), timeout=10) == b"%d" % size
                    assert len(await echo(b"%d" % size, timeout=10)) == size
                for asked in (bytes(MESSAGE_BYTES_MAX + 1), b"%d" % (MESSAGE_BYTES_MAX + 1)):
                    refused = await status_of(echo(asked, timeout=10))
                    assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            await server.stop(None)


@pytest.mark.asyncio
async def test_messages_and_metadata_have_bounds(cluster: LocalCluster, client: Client) -> None:
    node = await cluster.leader(client)
    tls = tls_of(operator_credentials(cluster))
    # A foreign client, which knows nothing of the bounds.
    async with grpc.aio.secure_channel(
        node.address,
        grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.certificate_pem),
        options=[("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 2**20)],
    ) as channel:
        submit = TaskDispatchServiceStub(channel).SubmitTask
        for size, refusal in (
            (MESSAGE_BYTES_MAX, grpc.StatusCode.INVALID_ARGUMENT),  # It was read.
            (MESSAGE_BYTES_MAX + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            request = task_dispatch_pb2.SubmitTaskRequest(request_id="x" * (size - 5))
            assert request.ByteSize() == size
            assert await status_of(submit(request, timeout=10)) is refusal
        status = MembershipServiceStub(channel).GetClusterStatus
        for _ in range(20):  # It is not random.
            metadata = (("x-more", "y" * METADATA_BYTES_MAX),)
            refused = await status_of(status(STATUS, timeout=10, metadata=metadata))
            assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
            metadata = (("x-less", "y" * (METADATA_BYTES_MAX - 1024)),)
            await status(STATUS, timeout=10, metadata=metadata)
    await answers(cluster, node)


@pytest.mark.asyncio
async def test_calls_that_are_ended_at_once_cost_nobody_else(
    cluster: LocalCluster, client: Client
) -> None:
    node = await cluster.leader(client)
    assert node.process is not None
    process = psutil.Process(node.process.pid)
    before = process.memory_info().rss
    async with channel_to(cluster, node) as channel:
        stub = MembershipServiceStub(channel)
        ended: Counter[bool] = Counter()
        for _ in range(RESETS // RESETS_AT_ONCE):
            calls = [stub.GetClusterStatus(STATUS, timeout=10) for _ in range(RESETS_AT_ONCE)]
            # By then the node has taken them up: else nothing but our own side is tried.
            await calls[0]
            for call in calls:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            ended.update(isinstance(each, BaseException) for each in done)
        await answers(cluster, node)
    assert min(ended[True], ended[False]) > RESETS // RESETS_AT_ONCE / 2, ended
    await answers(cluster, node)
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX


@pytest.mark.asyncio
async def test_streams_that_are_reset_as_soon_as_they_begin_cost_nobody_else(
    cluster: LocalCluster, client: Client
) -> None:
    """Rapid reset (CVE-2023-44487), by hand: thousands a second, without waiting for any."""
    node = await cluster.leader(client)
    assert node.process is not None
    process = psutil.Process(node.process.pid)
    before, cancel = process.memory_info().rss, CANCEL.to_bytes(4, "big")
    for method in (GET_STATUS, WATCH):
        async with raw_connection(node, cluster.profile) as connection:

            async def flood(connection: RawConnection = connection, method: str = method) -> None:
                for number in range(RESETS):
                    stream = 2 * number + 1
                    await connection.send(
                        call(method, stream) + frame(RST_STREAM, 0, stream, cancel)
                    )
                    if number % 100 == 0:
                        await asyncio.sleep(0)

            flooding = asyncio.create_task(flood())
            with suppress(ConnectionError):  # It may well end such a connection.
                while not flooding.done():
                    await answers(cluster, node)
                    await asyncio.sleep(0.05)
                await flooding
            await answers(cluster, node)
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX


@pytest.mark.asyncio
async def test_more_calls_than_a_connection_may_have_keep_nobody_else_waiting(
    cluster: LocalCluster, client: Client
) -> None:
    node = await cluster.leader(client)
    async with channel_to(cluster, node) as channel:
        stub = MembershipServiceStub(channel)
        calls = [
            stub.GetClusterStatus(STATUS, timeout=30) for _ in range(2 * STREAMS_PER_CONNECTION_MAX)
        ]
        await calls[0]
        await answers(cluster, node)
        done = await asyncio.gather(*calls, return_exceptions=True)
    codes = {each.code() for each in done if isinstance(each, grpc.aio.AioRpcError)}
    # A refused caller is told that it was too much, and nothing else.
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    assert sum(not isinstance(each, BaseException) for each in done) > 0
    await answers(cluster, node)

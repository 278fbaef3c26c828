"""An early answer reaches the caller, however much is still being sent."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.client.connection import send_all
from ipfs_cluster_node.codec.errors import CORE_FAILURE, STATUS_DETAILS_KEY, status_details
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.tls import serving

CALLS = 150
PIECES = 20
PIECE = b"x" * 100_000
REFUSAL = ClusterError(Reason.NOT_DELEGATED, "nobody let you", metadata={"command": "/content/add"})


class Refuses(grpc.GenericRpcHandler):
    """Answers every call at once, and reads nothing."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        details = ((STATUS_DETAILS_KEY, status_details(REFUSAL)),)

        async def unary(_requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(REFUSAL), details)

        async def stream(_requests: Any, context: Any) -> AsyncIterator[bytes]:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(REFUSAL), details)
            yield b""

        if handler_call_details.method == "/s/unary":
            return grpc.stream_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream)


@pytest_asyncio.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serving(Refuses()) as opened:
        yield opened


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(PIECES):
        yield PIECE


@pytest.mark.asyncio
async def test_a_refusal_while_bytes_are_sent_is_heard(channel: grpc.aio.Channel) -> None:
    """Once about half of them were lost, and the whole file was sent again."""
    heard = []
    for _ in range(CALLS):
        with pytest.raises(ClusterError) as caught:
            await send_all(channel.stream_unary("/s/unary")(), pieces())
        heard.append((caught.value.reason, caught.value.metadata))
    assert heard == [(REFUSAL.reason, REFUSAL.metadata)] * CALLS


@pytest.mark.asyncio
async def test_a_refused_stream_is_heard(channel: grpc.aio.Channel) -> None:
    heard = []
    for _ in range(CALLS):
        sent: Any = pieces()
        call: Any = channel.stream_stream("/s/stream")(sent)
        kept = KeptAnswer(call)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _answer in call:
                pass
        heard.append((await kept.error(caught.value)).code())
    assert heard == [grpc.StatusCode.PERMISSION_DENIED] * CALLS


class Silent:
    """A call whose write failed, and which the server never answers."""

    def add_done_callback(self, _callback: object) -> None:
        pass

    def done(self) -> bool:
        return True

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    async def details(self) -> str:
        return CORE_FAILURE


@pytest.mark.asyncio
async def test_where_no_answer_comes_nobody_waits_for_long() -> None:
    raised = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), CORE_FAILURE
    )
    async with asyncio.timeout(5):
        assert await KeptAnswer(Silent()).error(raised) is raised

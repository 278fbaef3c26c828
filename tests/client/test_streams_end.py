"""Any error in a stream's background task reaches the caller."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.cli.capture import CapturedCall, CapturingConnection
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import Reason

HOUR = timedelta(hours=1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "stream"),
    [
        ("WatchTasks", lambda client: client.watch_tasks(["t"], timeout=HOUR)),
        ("GetContent", lambda client: client.get_content("bafy!", timeout=HOUR)),
    ],
)
async def test_a_stream_ends_with_an_error_that_is_no_refusal(
    method: str, stream: Callable[[Client], AsyncIterator[Any]]
) -> None:
    client = Client(CapturingConnection())
    async with asyncio.timeout(10):
        with pytest.raises(CapturedCall, match=method):
            await anext(stream(client))


def test_a_message_that_grpc_does_not_take_is_too_large_and_not_repeated() -> None:
    nothing = grpc.aio.Metadata()
    said = "CLIENT: Received message larger than max (5242890 vs. 4194304)"
    error = grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, nothing, nothing, said)
    assert error_from_rpc(error).reason is Reason.PAYLOAD_TOO_LARGE
    full = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, nothing, nothing, "Concurrent RPC limit exceeded!"
    )
    assert error_from_rpc(full).reason is Reason.OVERLOADED

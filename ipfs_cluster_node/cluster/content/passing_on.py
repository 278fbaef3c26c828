"""Passes a file that this master has no room for on to other masters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from typing import Any, Final

import grpc

from ipfs_cluster_node.adapters.content.files import AddReport
from ipfs_cluster_node.client.connection import send_all
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.unixfs import Block, FileBuilder
from ipfs_cluster_node.internal.v1 import blocks_pb2 as pb
from ipfs_cluster_node.internal.v1.blocks_pb2_grpc import BlockServiceStub

RETRY_AFTER: Final = timedelta(seconds=1)
BLOCKS_WAITING_MAX: Final = 16
"""For one master: 4 MiB of leaves; beyond it the file's sender waits."""

_Blocks = asyncio.Queue[Block | None]


async def pass_on(
    chunks: AsyncIterator[bytes],
    channels: Iterable[grpc.aio.Channel],
    *,
    seconds_max: float,
    on_taken: Callable[[], None] = lambda: None,
) -> AddReport:
    """Store a file on the nodes of all channels; durable there when this returns.

    `on_taken` is called as each has it: from then on it keeps the file for a while only.

    Raises:
        ClusterError: HOLDERS_MISSING, if one of them did not take it; what `chunks` raises.
    """
    builder = FileBuilder()
    queues: list[_Blocks] = []
    sender_error: ClusterError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for channel in channels:
                queue = _Blocks(BLOCKS_WAITING_MAX)
                queues.append(queue)
                call = BlockServiceStub(channel).PutBlocks(timeout=seconds_max)
                group.create_task(_send(call, queue, on_taken), name="pass-on")
            try:
                async for data in chunks:
                    for block in await asyncio.to_thread(builder.feed, data):
                        await _put(queues, block)
            except ClusterError as error:
                sender_error = error
                raise
            blocks, root, size_bytes = await asyncio.to_thread(builder.finish)
            for block in blocks:
                await _put(queues, block)
            await _put(queues, None)
    except ExceptionGroup as failed:
        refusals, others = failed.split(ClusterError)
        if refusals is None or others is not None:
            raise
        raise sender_error or _not_taken(refusals) from failed
    return AddReport(root, size_bytes)


async def _send(call: Any, queue: _Blocks, on_taken: Callable[[], None]) -> None:
    await send_all(call, _requests(queue))
    on_taken()


async def _put(queues: Iterable[_Blocks], block: Block | None) -> None:
    for queue in queues:
        await queue.put(block)


async def _requests(queue: _Blocks) -> AsyncIterator[pb.PutBlocksRequest]:
    while (block := await queue.get()) is not None:
        yield pb.PutBlocksRequest(cid=block.cid.binary, data=block.data)


def _not_taken(refusals: ExceptionGroup[ClusterError]) -> ClusterError:
    said = "; ".join(str(error) for error in refusals.exceptions)
    return ClusterError(
        Reason.HOLDERS_MISSING,
        "this node, which leads, has no room for files, and one of the two that have room did not "
        f"take this one ({said}); free some space here",
        retry_after=RETRY_AFTER,
    )

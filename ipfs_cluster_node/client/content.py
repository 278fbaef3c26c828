"""Files in and out."""

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import grpc

from ipfs_cluster_node.client.connection import Connection, send_all
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.v1 import content_pb2 as pb
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub

PIECE_BYTES: Final = 512 * 1024

Progress = Callable[[int], None]
"""Called with the bytes done so far; it goes back to 0 when a transfer begins anew."""


@dataclass(frozen=True, slots=True)
class AddedContent:
    """What was stored."""

    cid: str
    size_bytes: int
    holders: tuple[str, ...]


async def upload(
    connection: Connection,
    path: Path,
    *,
    name: str,
    timeout: float,
    on_progress: Progress = lambda _done: None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> AddedContent:
    """Add a file; returns once two masters (all, if fewer) hold it durably.

    Sent again from its beginning where the leader is lost on the way.

    Raises:
        ClusterError: What the leader answered; INVALID_ARGUMENT, if it is no regular file.
        OSError: The file can't be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ClusterError(
            Reason.INVALID_ARGUMENT, f"{path} is no regular file; write the bytes to one first"
        )
    request_id = secrets.token_hex(12)

    async def requests(file: BinaryIO) -> AsyncIterator[pb.AddContentRequest]:
        size_bytes = os.fstat(file.fileno()).st_size
        header = pb.AddContentHeader(request_id=request_id, name=name, size_bytes=size_bytes)
        yield pb.AddContentRequest(header=header)
        done = 0
        on_progress(0)
        while data := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield pb.AddContentRequest(data=data)
            done += len(data)
            on_progress(done)

    async def send(channel: grpc.aio.Channel, seconds: float) -> AddedContent:
        with path.open("rb") as file:
            call = ContentServiceStub(channel).AddContent(
                timeout=seconds, metadata=connection.metadata + metadata
            )
            added = await send_all(call, requests(file))
        return AddedContent(added.cid, added.size_bytes, tuple(added.holder_node_ids))

    return await connection.following(send, timeout=timeout)

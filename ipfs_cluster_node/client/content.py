"""Adds and reads files."""

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final

import grpc

from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls
from ipfs_cluster_node.client.connection import Connection, new_request_id, send_all
from ipfs_cluster_node.client.values import checked_text, message, seconds, shown
from ipfs_cluster_node.codec import views as codecs
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE
from ipfs_cluster_node.core.views import ListedContent, RemovedContent
from ipfs_cluster_node.v1 import content_pb2 as pb
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub

PIECE_BYTES: Final = 512 * 1024

Progress = Callable[[int], None]
"""Called with the number of bytes done so far; returns to 0 when a transfer restarts."""


@dataclass(frozen=True, slots=True)
class AddedContent:
    """A stored file."""

    cid: str
    size_bytes: int
    holders: tuple[str, ...]


async def upload(
    connection: Connection,
    given: Path | BinaryIO,
    *,
    name: str,
    timeout: float,
    namespace: str = DEFAULT_NAMESPACE,
    on_progress: Progress = lambda _done: None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> AddedContent:
    """Add a file; returns once two masters (all, if fewer) hold it durably.

    Sent again from the start if the leader is lost during the transfer. An open file is not closed.

    Raises:
        ClusterError: The leader's error; INVALID_ARGUMENT, if it is not a regular file.
        OSError: The file can't be read.
    """
    found = given.stat() if isinstance(given, Path) else os.fstat(given.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ClusterError(
            Reason.INVALID_ARGUMENT, f"{given} is not a regular file; write the bytes to one first"
        )
    request_id = secrets.token_hex(12)

    async def requests(file: BinaryIO) -> AsyncIterator[pb.AddContentRequest]:
        size_bytes = os.fstat(file.fileno()).st_size
        header = pb.AddContentHeader(
            request_id=request_id, name=name, size_bytes=size_bytes, namespace=namespace
        )
        yield pb.AddContentRequest(header=header)
        done = 0
        on_progress(0)
        while data := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield pb.AddContentRequest(data=data)
            done += len(data)
            on_progress(done)

    async def send(channel: grpc.aio.Channel, seconds: float) -> AddedContent:
        with given.open("rb") if isinstance(given, Path) else nullcontext(given) as file:
            file.seek(0)
            call = ContentServiceStub(channel).AddContent(
                timeout=seconds, metadata=connection.metadata + metadata
            )
            added = await send_all(call, requests(file))
        return AddedContent(added.cid, added.size_bytes, tuple(added.holder_node_ids))

    return await connection.following(send, timeout=timeout)


class ContentCalls(Calls):
    """The operations of ContentService."""

    async def add_content(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        on_progress: Progress = lambda _done: None,
        timeout: timedelta = timedelta(hours=1),
    ) -> AddedContent:
        """Add a file under its own name or another; two masters (all, if fewer) hold it durably.

        `namespace` says who may read it, as with tasks. Added in several, it is in each.

        Raises:
            ClusterError: INVALID_ARGUMENT, if it is no regular file; STORAGE_FULL, NOT_DELEGATED.
            OSError: It can't be read.
        """
        if not isinstance(path, str | Path):
            raise invalid_field("path", f"it is {shown(path)}; give the path of a file")
        path = Path(path)
        return await upload(
            self._connection,
            path,
            name=path.name if name is None else checked_text(name, "name"),
            namespace=checked_text(namespace, "namespace"),
            timeout=seconds(timeout),
            on_progress=on_progress,
        )

    async def add_file(
        self,
        file: BinaryIO,
        *,
        name: str = "",
        namespace: str = DEFAULT_NAMESPACE,
        on_progress: Progress = lambda _done: None,
        timeout: timedelta = timedelta(hours=1),
    ) -> AddedContent:
        """Add an open regular file, from its start; see `add_content`."""
        return await upload(
            self._connection,
            file,
            name=checked_text(name, "name"),
            namespace=checked_text(namespace, "namespace"),
            timeout=seconds(timeout),
            on_progress=on_progress,
        )

    async def stat_content(
        self, cid: str, *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> ListedContent:
        """Read a file's size and holders, by its CID or the beginning of it."""
        cid = await self.lookups.cid(cid, timeout)
        request = message(pb.StatContentRequest, cid=cid)
        response = await self._unary(request, timeout)
        return codecs.CONTENT.decode(response.content)

    async def remove_content(
        self, cid: str, *, namespace: str = "", timeout: timedelta = TIMEOUT_DEFAULT
    ) -> RemovedContent:
        """Remove a file from a namespace; without one, from all in which the caller may remove it.

        Masters delete the blocks that no other file has, once it is in no namespace.

        Raises:
            ClusterError: CONTENT_NOT_FOUND; CONTENT_NEEDED, naming a task that has not ended if the
                caller may read it.
        """
        cid = await self.lookups.cid(cid, timeout)
        request = message(
            pb.RemoveContentRequest, request_id=new_request_id(), cid=cid, namespace=namespace
        )
        return codecs.REMOVED_CONTENT.decode(await self._unary(request, timeout))

    async def keep_content(
        self, cid: str, *, namespace: str = "", timeout: timedelta = TIMEOUT_DEFAULT
    ) -> None:
        """Keep a task's result until it is removed; without this it goes with its task.

        It is kept in `namespace`, or in all that it is in and in which the caller may keep it.

        Raises:
            ClusterError: CONTENT_NOT_FOUND.
        """
        cid = await self.lookups.cid(cid, timeout)
        request = message(
            pb.KeepContentRequest, request_id=new_request_id(), cid=cid, namespace=namespace
        )
        await self._unary(request, timeout)

    async def list_content(
        self,
        *,
        cid_prefix: str = "",
        namespace_pattern: str = "",
        limit: int = 100,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[ListedContent]:
        """List the files, ordered by CID.

        Args:
            cid_prefix: Only those whose CID begins with this.
            namespace_pattern: Only those in a namespace that matches it, as in `list_tasks`.
            limit: At most this many.
            timeout: For the whole list.
        """
        request = message(
            pb.ListContentRequest, cid_prefix=cid_prefix, namespace_pattern=namespace_pattern
        )
        return await self._list(request, "contents", codecs.CONTENT.decode, timeout, limit)

    async def get_content(
        self, cid: str, *, timeout: timedelta = timedelta(hours=1)
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes in order, resuming after a broken connection."""
        done = 0
        ends = asyncio.get_running_loop().time() + seconds(timeout)
        cid = await self.lookups.cid(checked_text(cid, "cid"), timeout)
        pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(8)

        async def receive(channel: grpc.aio.Channel, seconds: float) -> None:
            nonlocal done
            request = pb.GetContentRequest(cid=cid, offset_bytes=done)
            call = ContentServiceStub(channel).GetContent(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for response in call:
                done += len(response.data)
                await pieces.put(response.data)

        async def receive_all() -> None:
            try:
                left = ends - asyncio.get_running_loop().time()
                await self._connection.following(receive, timeout=left)
                await pieces.put(None)
            except Exception as error:
                await pieces.put(error)  # Otherwise the caller would wait for ever.

        receiver = asyncio.create_task(receive_all(), name="get-content")
        try:
            while (item := await pieces.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)

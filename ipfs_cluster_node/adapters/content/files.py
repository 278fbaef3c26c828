"""Adds, walks and reads files made of blocks, in constant memory whatever their size."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.content.blockstore import Batch, BlockStore
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.held_blocks import Hold
from ipfs_cluster_node.core.multiformats import RAW, Cid
from ipfs_cluster_node.core.unixfs import DEPTH_MAX, FileBuilder, Link, Walk, decode_node

PIECE_BYTES_MAX: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class AddReport:
    """A stored file."""

    cid: Cid
    size_bytes: int


async def add(
    chunks: AsyncIterator[bytes], store: BlockStore, hold: Hold | None = None
) -> AddReport:
    """Store a file, durably; STORAGE_FULL is raised, and leaves only complete blocks.

    They are under `hold`: it must last until the file is named.
    """
    builder = FileBuilder()

    def take(batch: Batch, data: bytes) -> None:
        for block in builder.feed(data):
            batch.put(block)

    def finish(batch: Batch) -> AddReport:
        blocks, root, size_bytes = builder.finish()
        for block in blocks:
            batch.put(block)
        batch.flush()
        return AddReport(root, size_bytes)

    async with store.batching(hold) as batch:
        async for data in chunks:
            await asyncio.to_thread(take, batch, data)
        return await asyncio.to_thread(finish, batch)


async def walk(root: Cid, store: BlockStore) -> AsyncIterator[Cid]:
    """Yield every block of a file stored here, each subtree's root before its parts.

    A block that occurs several times may be yielded once.

    Raises:
        ClusterError: CONTENT_NOT_FOUND if a node above the leaves is missing, and those of
            `decode_node`.
    """
    parts = Walk(root)
    while window := parts.take(1):
        [part] = window
        yield part.cid
        if part.cid.codec != RAW:
            data = await asyncio.to_thread(store.get, part.cid)
            if data is None:
                raise _missing(part.cid)
            parts.open(part, data)


def is_complete(root: Cid, store: BlockStore) -> bool:
    """Whether every block of a file is here; does blocking I/O."""
    return all(
        cid is not None and (cid.codec != RAW or store.has(cid)) for cid in blocks_of(root, store)
    )


def blocks_of(root: Cid, store: BlockStore) -> Iterator[Cid | None]:
    """Yield a file's blocks, read except for leaves; None, at the end, for one that is missing."""
    parts = Walk(root)
    while window := parts.take(1):
        [part] = window
        if part.cid.codec != RAW:
            data = store.get(part.cid)
            if data is None:
                yield None
                return
            parts.open(part, data)
        yield part.cid


async def _nowhere_else(cid: Cid) -> bytes:
    raise _missing(cid)


async def read(
    root: Cid,
    store: BlockStore,
    *,
    offset: int = 0,
    length: int | None = None,
    elsewhere: Callable[[Cid], Awaitable[bytes]] = _nowhere_else,
) -> AsyncIterator[bytes]:
    """Read a file stored here, from `offset` on, in pieces of at most 256 KiB.

    `elsewhere` gets a block that is missing or damaged here from another node, checked.

    Raises:
        ClusterError: As `elsewhere`, or CONTENT_NOT_FOUND without it; and as `decode_node`.
    """
    left = length
    stack: list[tuple[Link, int]] = [(Link(root, -1), 0)]
    skip = offset
    while stack and (left is None or left > 0):
        link, depth = stack.pop()
        if 0 <= link.size_bytes <= skip:
            skip -= link.size_bytes
            continue
        block = await asyncio.to_thread(store.get, link.cid)
        if block is None:
            block = await elsewhere(link.cid)
        node = decode_node(link.cid, block)
        if depth > DEPTH_MAX or (link.size_bytes >= 0 and node.size_bytes != link.size_bytes):
            raise ClusterError(
                Reason.BLOCK_MISMATCH,
                f"{link.cid} does not have the size that its parent states; add the file again",
            )
        stack.extend((child, depth + 1) for child in reversed(node.links))
        own = node.data[skip:]
        skip = max(0, skip - len(node.data))
        if left is not None:
            own = own[:left]
            left -= len(own)
        for start in range(0, len(own), PIECE_BYTES_MAX):
            yield own[start : start + PIECE_BYTES_MAX]


async def materialize(root: Cid, store: BlockStore, name: str, *, directory: int) -> int:
    """Write a stored file's bytes to a new file, all or nothing; returns its size.

    The name is visible while the file is being written. `directory` is a descriptor: even if that
    directory is renamed, or others create links in it, nothing is written elsewhere.

    Raises:
        FileExistsError: The name is taken, even by a link.
    """
    descriptor = create(name, directory, os.O_WRONLY)
    done = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            async for data in read(root, store):
                await asyncio.to_thread(file.write, data)
                done += len(data)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        raise
    return done


def create(name: str, directory: int, access: int) -> int:
    """Create a private file, and return its descriptor; FileExistsError even for a link."""
    flags = access | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=directory)


def _missing(cid: Cid) -> ClusterError:
    return ClusterError(
        Reason.CONTENT_NOT_FOUND, f"block {cid} is missing on this node; fetch the file again"
    )

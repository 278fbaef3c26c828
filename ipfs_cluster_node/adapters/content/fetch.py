"""Fetches files from other nodes block by block; everything a node sends is checked."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from ipfs_cluster_node.adapters.content.blockstore import Batch, BlockStore
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, Cid
from ipfs_cluster_node.core.unixfs import Block, Part, Walk, decode_node, mismatch

log = logging.getLogger(__name__)

REQUEST_BLOCKS_MAX: Final = 64
"""Blocks per request: 16 MiB of leaves."""
RETRY_AFTER: Final = timedelta(seconds=1)
PASSING: Final = frozenset(
    {
        Reason.DEADLINE_EXCEEDED,
        Reason.INTERNAL,
        Reason.NO_LEADER,
        Reason.OVERLOADED,
        Reason.SHUTTING_DOWN,
        Reason.UNREACHABLE,
    }
)
"""Errors of a source that may have the block but can't give it now."""


class BlockSource(Protocol):
    """A node that may have blocks."""

    name: str

    def blocks(self, cids: Sequence[Cid]) -> AsyncIterator[tuple[Cid, bytes]]:
        """Yield blocks in the order requested; raises ClusterError."""


async def fetch(
    root: Cid,
    *,
    store: BlockStore,
    sources: Sequence[BlockSource],
    on_progress: Callable[[int], None] = lambda _done: None,
    on_missing: Callable[[Cid], None] | None = None,
    check: bool = False,
) -> int:
    """Fetch the missing blocks of a file, durably; returns the number of bytes fetched.

    With `check` the local blocks are read, and damaged ones fetched as well. A source that sends a
    wrong block is not used again; one that lacks a block, or breaks off, is skipped for the rest.
    Blocks received are kept, so another call continues from there. `on_missing` is called with each
    block that is not here, in a thread.

    Raises:
        ClusterError: CONTENT_NOT_FOUND, naming the sources; UNREACHABLE, if one of them could not
            be reached; those of `decode_node`.
    """
    holds = store.holds if check else store.has
    fetcher = _Fetcher(root, store, list(sources), holds, on_progress, on_missing)
    async with store.batching() as batch:
        await fetcher.run(batch)
        await asyncio.to_thread(batch.flush)
    return fetcher.fetched_bytes


class _LiedError(ClusterError):
    """A source sent a block that does not match the request."""


class _ContentError(Exception):
    """The file itself or this node's disk is at fault; another source would not help."""

    def __init__(self, cause: ClusterError) -> None:
        super().__init__(cause.message)
        self.cause = cause


@dataclass(slots=True)
class _Fetcher:
    root: Cid
    store: BlockStore
    sources: list[BlockSource]
    holds: Callable[[Cid], bool]
    on_progress: Callable[[int], None]
    on_missing: Callable[[Cid], None] | None
    asked: list[str] = field(init=False)
    unreached: list[str] = field(default_factory=list)
    """Sources that might have the blocks, but could not be reached."""
    fetched_bytes: int = 0

    def __post_init__(self) -> None:
        self.asked = [source.name for source in self.sources]

    async def run(self, batch: Batch) -> None:
        # Depth first: at most one node's links per level are pending.
        walk = Walk(self.root)
        while window := walk.take(REQUEST_BLOCKS_MAX):
            missing = [part for part in window if not await asyncio.to_thread(self.holds, part.cid)]
            inner = await self._fetch(missing, batch)
            for part in reversed(window):
                if part.cid.codec == RAW:
                    continue
                data = inner.get(part.cid) or await asyncio.to_thread(self.store.get, part.cid)
                if data is None:
                    # The local copy was damaged.
                    data = (await self._fetch([part], batch))[part.cid]
                walk.open(part, data)

    async def _fetch(self, missing: list[Part], batch: Batch) -> dict[Cid, bytes]:
        """Store these blocks; returns those that may have links."""
        wanted = {part.cid: part for part in missing}
        if self.on_missing is not None:
            for cid in wanted:
                await asyncio.to_thread(self.on_missing, cid)
        inner: dict[Cid, bytes] = {}
        for source in list(self.sources):
            if not wanted:
                break
            try:
                async with aclosing(source.blocks(list(wanted))) as blocks:  # type: ignore[type-var]
                    async for cid, data in blocks:
                        if cid not in wanted or not cid.matches(data):
                            raise _LiedError(Reason.BLOCK_MISMATCH, "it sent a wrong block")
                        await self._take(wanted.pop(cid), data, batch)
                        if cid.codec != RAW:
                            inner[cid] = data
            except _ContentError as error:
                raise error.cause from error
            except ClusterError as error:
                if error.reason in PASSING:
                    self.unreached.append(f"{source.name}: {error.message}")
                log.warning(
                    "blocks not received", extra={"source": source.name, "error": error.message}
                )
                if isinstance(error, _LiedError) or error.reason is Reason.BLOCK_MISMATCH:
                    self.sources.remove(source)
            if wanted and source in self.sources:
                # A source that failed comes last from now on: each try may take a whole deadline.
                self.sources.remove(source)
                self.sources.append(source)
        if wanted:
            raise _not_found(self.root, self.asked, self.unreached)
        return inner

    async def _take(self, part: Part, data: bytes, batch: Batch) -> None:
        try:
            node = decode_node(part.cid, data)
            if part.size_bytes not in (None, node.size_bytes):
                raise mismatch(part.cid, "not of the size its parent says")
            await asyncio.to_thread(batch.put, Block(part.cid, data))
        except ClusterError as error:
            raise _ContentError(error) from error
        self.fetched_bytes += len(data)
        self.on_progress(self.fetched_bytes)


async def fetch_block(cid: Cid, *, sources: Sequence[BlockSource]) -> bytes:
    """Get one block from the first source that has it, unstored; raises as `fetch` does."""
    unreached: list[str] = []
    for source in sources:
        try:
            async with aclosing(source.blocks([cid])) as blocks:  # type: ignore[type-var]
                async for come, data in blocks:
                    if come == cid and cid.matches(data):
                        return data
                    log.warning("wrong block", extra={"source": source.name, "cid": str(cid)})
                    break
        except ClusterError as error:
            if error.reason in PASSING:
                unreached.append(f"{source.name}: {error.message}")
    raise _not_found(cid, [source.name for source in sources], unreached)


def _not_found(cid: Cid, asked: Sequence[str], unreached: Sequence[str]) -> ClusterError:
    if not asked:
        return ClusterError(
            Reason.CONTENT_NOT_FOUND,
            f"no node is known to hold {cid}; add it with `content add`",
        )
    names = ", ".join(asked)
    if unreached:
        return ClusterError(
            Reason.UNREACHABLE,
            f"{cid} could not be fetched: {'; '.join(unreached[-len(asked) :])}",
            metadata={"asked": names},
            retry_after=RETRY_AFTER,
        )
    return ClusterError(
        Reason.CONTENT_NOT_FOUND,
        f"{cid} is held by none of the nodes asked ({names}); add it again, or start a "
        "node that holds it",
        metadata={"asked": names},
    )

"""Files from other nodes, block by block; nothing a node sends is believed unchecked."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final, Protocol

from ipfs_cluster_node.adapters.content.blockstore import Batch, BlockStore
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, Cid
from ipfs_cluster_node.core.unixfs import DEPTH_MAX, Block, decode_node

log = logging.getLogger(__name__)

REQUEST_BLOCKS_MAX: Final = 64
"""Blocks asked for at once: 16 MiB of leaves."""


class BlockSource(Protocol):
    """A node that may have blocks."""

    name: str

    def blocks(self, cids: Sequence[Cid]) -> AsyncIterator[tuple[Cid, bytes]]:
        """Yield blocks in the order asked for; raises ClusterError."""


async def fetch(
    root: Cid,
    *,
    store: BlockStore,
    sources: Sequence[BlockSource],
    on_progress: Callable[[int], None] = lambda _done: None,
) -> int:
    """Fetch what is missing of a file; durable when this returns.

    A source that sends a wrong block is not asked again; one that lacks a block, or breaks off, is
    passed over for the rest. Blocks that came are kept, so another call goes on from there.

    Returns:
        Bytes fetched.

    Raises:
        ClusterError: CONTENT_NOT_FOUND, naming who was asked; those of `decode_node`.
    """
    fetcher = _Fetcher(root, store, list(sources), on_progress)
    with store.batch() as batch:
        await fetcher.run(batch)
        await asyncio.to_thread(batch.flush)
    return fetcher.fetched_bytes


class _Fetcher:
    def __init__(
        self,
        root: Cid,
        store: BlockStore,
        sources: list[BlockSource],
        on_progress: Callable[[int], None],
    ) -> None:
        self._root = root
        self._store = store
        self._sources = sources
        self._asked = [source.name for source in sources]
        self._on_progress = on_progress
        self.fetched_bytes = 0

    async def run(self, batch: Batch) -> None:
        # Depth first: what waits is at most one node's links a level.
        stack: list[tuple[Cid, int]] = [(self._root, 0)]
        while stack:
            window = [stack.pop() for _ in range(min(REQUEST_BLOCKS_MAX, len(stack)))]
            depths = dict(window)
            missing = [cid for cid in depths if not await asyncio.to_thread(self._store.has, cid)]
            inner: dict[Cid, bytes] = {}
            if missing:
                await self._fetch(missing, batch, inner)
            for cid, depth in reversed(window):
                if cid.codec == RAW:
                    continue
                data = inner.get(cid) or await asyncio.to_thread(self._store.get, cid)
                if data is None or depth > DEPTH_MAX:
                    raise self._not_found()
                links = decode_node(cid, data).links
                stack.extend((link.cid, depth + 1) for link in reversed(links))

    async def _fetch(self, missing: list[Cid], batch: Batch, inner: dict[Cid, bytes]) -> None:
        for source in list(self._sources):
            wanted = dict.fromkeys(missing)
            try:
                async with aclosing(source.blocks(list(wanted))) as blocks:  # type: ignore[type-var]
                    async for cid, data in blocks:
                        if cid not in wanted or not cid.matches(data):
                            raise ClusterError(
                                Reason.BLOCK_MISMATCH, f"{source.name} sent a wrong block"
                            )
                        del wanted[cid]
                        await asyncio.to_thread(batch.put, Block(cid, data))
                        if cid.codec != RAW:
                            inner[cid] = data
                        self.fetched_bytes += len(data)
                        self._on_progress(self.fetched_bytes)
            except ClusterError as error:
                if error.reason is Reason.STORAGE_FULL:
                    raise
                log.warning("blocks not had", extra={"source": source.name, "error": error.message})
                if error.reason is Reason.BLOCK_MISMATCH:
                    self._sources.remove(source)
            missing = list(wanted)
            if not missing:
                return
        raise self._not_found()

    def _not_found(self) -> ClusterError:
        if not self._asked:
            return ClusterError(
                Reason.CONTENT_NOT_FOUND,
                f"no node is known to hold {self._root}; add it with `content add`",
            )
        asked = ", ".join(self._asked)
        return ClusterError(
            Reason.CONTENT_NOT_FOUND,
            f"{self._root} is held by none of the nodes asked ({asked}); add it again, or start a "
            "node that holds it",
            metadata={"asked": asked},
        )

"""Repairs blocks that are damaged or lost here, from other masters."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.fetch import BlockSource, fetch_block
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.unixfs import Block

log = logging.getLogger(__name__)

AGAIN_SECONDS_MIN: Final = 60.0
"""After a failed background repair: two masters without a block would ask each other."""
FAILURES_MAX: Final = 10_000
"""Failed blocks that are remembered for that."""


class Repairs:
    """Repairs one block at a time, and each once for all callers."""

    def __init__(
        self,
        store: BlockStore,
        sources_of: Callable[[Cid], Sequence[BlockSource]],
        *,
        clock: Clock,
    ) -> None:
        """Store in `store` what `sources_of` a file's root, or of a block, return."""
        self._monotonic = clock.monotonic
        self._store = store
        self._sources_of = sources_of
        self._running: dict[Cid, asyncio.Task[bytes]] = {}
        self._failed_at: dict[Cid, float] = {}

    async def block(self, root: Cid, cid: Cid) -> bytes:
        """Fetch a block of a file from elsewhere; stores it here too, if there is room.

        Raises:
            ClusterError: CONTENT_NOT_FOUND, UNREACHABLE.
        """
        return await asyncio.shield(self._task(root, cid))

    def begin(self, cid: Cid) -> None:
        """Repair a block in the background, unless that failed just now."""
        if self._monotonic() - self._failed_at.get(cid, -AGAIN_SECONDS_MIN) >= AGAIN_SECONDS_MIN:
            self._task(cid, cid)

    def _task(self, root: Cid, cid: Cid) -> asyncio.Task[bytes]:
        task = self._running.get(cid)
        if task is None:
            task = asyncio.create_task(self._repair(root, cid), name=f"repair-{cid}")
            self._running[cid] = task
            task.add_done_callback(lambda done: self._ended(cid, done))
        return task

    def _ended(self, cid: Cid, task: asyncio.Task[bytes]) -> None:
        del self._running[cid]
        self._failed_at.pop(cid, None)
        if task.cancelled() or task.exception() is None:
            return
        log.error("block not repaired", extra={"cid": str(cid), "error": str(task.exception())})
        self._failed_at[cid] = self._monotonic()
        while len(self._failed_at) > FAILURES_MAX:
            del self._failed_at[next(iter(self._failed_at))]

    async def _repair(self, root: Cid, cid: Cid) -> bytes:
        data = await fetch_block(cid, sources=self._sources_of(root))
        try:
            await asyncio.to_thread(self._put, Block(cid, data))
        except (ClusterError, OSError) as error:  # The reader gets the bytes anyway.
            level = logging.WARNING if self._store.is_damaged(cid) else logging.DEBUG
            log.log(level, "block not stored", extra={"cid": str(cid), "error": str(error)})
        return data

    def _put(self, block: Block) -> None:
        with self._store.batch() as batch:
            batch.put(block)
            batch.flush()

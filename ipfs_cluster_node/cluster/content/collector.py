"""Deletes the blocks that no file of the log has, on a master.

After a removal the removed file's blocks are looked at, and once in a while every block in turn:
what a crash, a snapshot or a held block left, and what uploads and reads that failed stored. The
names are read from the state, and a block that only now becomes part of a file is held:
see `core/held_blocks.py`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.unneeded import Candidates, KnownFiles, reachable
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.held_blocks import SETTLED_SECONDS
from ipfs_cluster_node.core.multiformats import RAW_TEXT_BEGINS, Cid, parse_cid
from ipfs_cluster_node.core.settings import DELETION_PAUSED
from ipfs_cluster_node.core.tables import TableName, Touched

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 3600.0
"""Between two looks at every block."""
CANDIDATES_MAX: Final = 65_536
"""Blocks of one round: 16 GiB of leaves, some 20 MB of memory."""
REMOVED_MAX: Final = 10_000
"""Removed files that wait for their round; beyond it every block is looked at."""
REMOVED_AT_ONCE_MAX: Final = 256
"""Removed files of one round."""
NAMES_AT_ONCE: Final = 256
"""Names read between two rests."""
WORK_SHARE_MAX: Final = 0.5
"""Of its time, how much a round works; it rests for the others. With 250,000 files every master has
seconds of work at the same moment, and without rests a busy machine's leader is heard too late."""
REST_SECONDS_MAX: Final = 0.1
"""A rest, however long the machine took for the work before it."""
FILES_AT_ONCE: Final = 16
"""Files walked by one call of a thread."""
DELETED_AT_ONCE: Final = 256
"""Blocks deleted by one call of a thread."""
REPAIRS_MAX: Final = 64
"""Missing nodes that one round has repaired."""
HEARD_AFTER_SECONDS: Final = 1.0
"""From the beginning of a round until a leader's message counts: by then old ones are read."""
HEARD_SECONDS_MAX: Final = 10.0
"""How long a round waits for one; it is tried again later."""
LOOK_SECONDS: Final = 0.25
FREED_SECONDS_MAX: Final = 5.0
"""How long a removal waits for the deletion here."""


class Collector:
    """Runs one round at a time: blocks to look at, less those that files have, are deleted."""

    def __init__(
        self,
        *,
        consensus: Consensus,
        store: BlockStore,
        repair: Callable[[Cid], None],
        clock: Clock,
    ) -> None:
        """Collect in `store`; `repair` begins to fetch a missing block of a file held here."""
        self._consensus, self._store, self._repair = consensus, store, repair
        self._clock = clock
        self._known = KnownFiles()
        self._settled_at = 0.0
        """As of which the state must be current: the holds of an earlier process are lost."""
        self._removed: dict[str, None] = {}
        self._under_way: frozenset[str] = frozenset()
        self._freed: dict[str, asyncio.Future[int | None]] = {}
        self._wake = asyncio.Event()
        self._sweep_at = 0.0

    def on_change(self, _revision: int, touched: Touched | None) -> None:
        """Take the files that a log entry, or a snapshot, removed."""
        if touched is None:
            self._sweep_soon()
            return
        cids = touched.get(TableName.CONTENTS)
        state = self._consensus.known_state() if cids else None
        for cid in cids or () if state is not None else ():
            if state is None or cid in state.contents:
                continue
            if len(self._removed) < REMOVED_MAX:
                self._removed[cid] = None
                self._wake.set()
            else:
                self._sweep_soon()

    @contextmanager
    def awaited(self, cid: str) -> Iterator[Callable[[], Awaitable[int | None]]]:
        """Wait for the removal of a file, from before it is committed.

        What it yields returns the bytes that were freed here; None if that comes later.
        """
        freed = self._freed.setdefault(cid, asyncio.get_running_loop().create_future())

        async def wait() -> int | None:
            if not (freed.done() or cid in self._removed or cid in self._under_way):
                return None  # A repeat, or added again: nothing is deleted.
            try:
                async with asyncio.timeout(FREED_SECONDS_MAX):
                    return await asyncio.shield(freed)
            except TimeoutError:
                return None

        try:
            yield wait
        finally:
            self._freed.pop(cid, None)

    async def run(self) -> None:
        """Collect until cancelled."""
        now = self._clock.boottime()
        self._settled_at = now + SETTLED_SECONDS if self._store.size_bytes else now
        self._sweep_at = now + SETTLED_SECONDS
        while True:
            wait, due = max(0.0, self._sweep_at - self._clock.boottime()), False
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                due = True
            self._wake.clear()
            if due or self._clock.boottime() >= self._sweep_at:
                self._sweep_at = self._clock.boottime() + SWEEP_SECONDS
                await self._logged(self._sweep())
            while self._removed and self._clock.boottime() < self._sweep_at:
                await self._logged(self._collect_removed())
            if self._removed:
                self._wake.set()

    async def _logged(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (ClusterError, OSError) as error:
            log.warning("unneeded blocks not deleted", extra={"error": str(error)})
            self._sweep_soon()

    def _sweep_soon(self) -> None:
        """Look at every block once what is held now may be settled."""
        soon = self._clock.boottime() + SETTLED_SECONDS
        if soon < self._sweep_at:
            self._sweep_at = soon
            self._wake.set()

    @property
    def _is_paused(self) -> bool | None:
        """Whether the operator has to allow deletion first; None while that is not known."""
        state = self._consensus.known_state()
        return None if state is None else bool(state.settings[DELETION_PAUSED])

    def _current_as_of(self) -> float | None:
        """The time as of which the state here is current; None while nothing may be deleted."""
        replica = self._consensus.replica
        if replica is None or replica.failed is not None or self._is_paused is not False:
            return None
        now = self._clock.boottime()
        as_of = now if replica.leads_for_sure else now - replica.age_ms / 1000
        return as_of if as_of >= self._settled_at else None

    async def _confirmed_as_of(self) -> float | None:
        """The same, as of after this was called, where another node leads.

        What was heard of the leader before is no proof: this process may have stood still, and
        found old messages waiting.
        """
        began = self._clock.boottime()
        while (as_of := self._current_as_of()) is not None:
            replica = self._consensus.replica
            leads = replica is not None and replica.leads_for_sure
            if leads or as_of >= began + HEARD_AFTER_SECONDS:
                return as_of
            if self._clock.boottime() >= began + HEARD_SECONDS_MAX:
                break
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def _collect_removed(self) -> None:
        roots = list(islice(self._removed, REMOVED_AT_ONCE_MAX))
        for cid in roots:
            del self._removed[cid]
        self._under_way = frozenset(roots)
        freed: dict[str, int] = {}
        try:
            freed = await self._freed_by(roots)
        finally:
            self._under_way = frozenset()
            for cid in roots:
                future = self._freed.get(cid)
                if future is not None and not future.done():
                    future.set_result(freed.get(cid))

    async def _freed_by(self, roots: Sequence[str]) -> dict[str, int]:
        as_of = await self._confirmed_as_of()
        if as_of is None:
            self._sweep_soon()
            return {}
        blocks: dict[str, list[Cid]] = {}
        room = CANDIDATES_MAX
        for cid in roots:
            found, whole = await asyncio.to_thread(reachable, parse_cid(cid), self._store, room)
            blocks[cid] = found
            room -= len(found)
            if not whole:
                self._sweep_soon()
        freed: dict[str, int] = {}
        with self._store.collecting(as_of):
            found_here = [block for found in blocks.values() for block in found]
            unneeded = await asyncio.to_thread(Candidates, found_here)
            if not await self._discard_needed(unneeded):
                self._sweep_soon()
                return {}
            for cid, found in blocks.items():
                freed[cid] = await self._delete([each for each in found if each in unneeded.left])
        return freed

    async def _sweep(self) -> None:
        """Look at every block, a bounded number at a time."""
        if self._is_paused:
            log.warning(
                "unneeded blocks not deleted, as after a recovery: add again what you need, then "
                "set this to 0",
                extra={"key": DELETION_PAUSED},
            )
            self._sweep_soon()
            return
        candidates: set[Cid] = set()
        for directory in await asyncio.to_thread(self._store.directories):
            candidates |= await asyncio.to_thread(set, self._store.stored_in(directory))
            if len(candidates) >= CANDIDATES_MAX:
                if not await self._collect(candidates):
                    return
                candidates = set()
        await self._collect(candidates)

    async def _collect(self, candidates: set[Cid]) -> bool:
        """Delete those that no file has; False if that is not known now."""
        as_of = await self._confirmed_as_of()
        if as_of is not None:
            with self._store.collecting(as_of):
                unneeded = await asyncio.to_thread(Candidates, candidates)
                if await self._discard_needed(unneeded):
                    freed_bytes = await self._delete(list(unneeded.left))
                    log.info("unneeded blocks deleted", extra={"freed_bytes": freed_bytes})
                    return True
        self._sweep_soon()
        return False

    async def _discard_needed(self, candidates: Candidates) -> bool:
        """Discard the blocks that files have; False if some are not known here."""
        state, here = self._consensus.state(), self._consensus.node_id
        named: set[Cid] = set()
        unread: list[Cid] = []
        held: set[Cid] = set()
        missing: list[Cid] = []
        began = self._clock.boottime()
        for count, content in enumerate(state.contents.listed(), start=1):
            if not candidates.left:
                return True
            if content.cid.startswith(RAW_TEXT_BEGINS):
                candidates.discard_leaf(content.cid)
            elif (keys := self._known.keys_of(root := parse_cid(content.cid))) is not None:
                named.add(root)
                candidates.discard_keys(keys)
            else:
                named.add(root)
                unread.append(root)
                if here in content.holders:
                    held.add(root)
            walks = len(unread) == FILES_AT_ONCE
            if walks:
                missing += await self._walk(candidates, unread, held)
                unread, held = [], set()
            if walks or count % NAMES_AT_ONCE == 0:
                await self._rest(began)
                began = self._clock.boottime()
        missing += await self._walk(candidates, unread, held)
        await asyncio.to_thread(self._known.forget_others, named)
        for cid in missing[:REPAIRS_MAX]:
            self._repair(cid)
        if missing:
            log.warning(
                "unneeded blocks not deleted: which ones is not known until this one is repaired",
                extra={"cid": str(missing[0]), "count": len(missing)},
            )
        return not missing

    async def _rest(self, began: float) -> None:
        """Rest after work that began then."""
        worked = self._clock.boottime() - began
        await asyncio.sleep(min(worked * (1 / WORK_SHARE_MAX - 1), REST_SECONDS_MAX))

    async def _walk(self, candidates: Candidates, roots: list[Cid], held: set[Cid]) -> list[Cid]:
        """Discard the blocks of files; returns the missing nodes of those that are held here."""
        if not roots:
            return []
        incomplete = await asyncio.to_thread(
            candidates.discard_files, roots, self._store, self._known
        )
        return [node for root, node in incomplete.items() if root in held]

    async def _delete(self, cids: Sequence[Cid]) -> int:
        freed_bytes = 0
        for start in range(0, len(cids), DELETED_AT_ONCE):
            if self._is_paused is not False:
                self._sweep_soon()
                break
            part = cids[start : start + DELETED_AT_ONCE]
            deletion = asyncio.create_task(asyncio.to_thread(self._store.delete_unheld, part))
            try:
                freed, held_count = await asyncio.shield(deletion)
            finally:
                # Even if this is cancelled: what ends meanwhile is held until the round is over.
                await asyncio.wait({deletion})
            freed_bytes += freed
            if held_count:
                self._sweep_soon()
        return freed_bytes

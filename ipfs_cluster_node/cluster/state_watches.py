"""Watches of the state: each is a position in the log, and gets what changed since."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final
from weakref import WeakValueDictionary

from ipfs_cluster_node.access.context import Permissions, current_ending
from ipfs_cluster_node.access.rules import TABLE_SECONDS_MAX
from ipfs_cluster_node.access.turns import Turn
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.state_changes import Batch, Changed, Instant, Position, StateChanges
from ipfs_cluster_node.codec.arrow_tables import schema_message
from ipfs_cluster_node.codec.resume_tokens import (
    ResumeToken,
    decode_resume_token,
    digest_of,
    encode_resume_token,
)
from ipfs_cluster_node.codec.state_watch import encoder_of
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Reset,
    ResetCause,
    Rows,
    RowsKind,
    StateEvent,
    WatchedTable,
)
from ipfs_cluster_node.core.state_tables import STATE_TABLES, Item, readable

SNAPSHOTS_MAX: Final = 4
"""Snapshots that are sent at once. Each keeps a list of all rows as they were when it began."""
SNAPSHOTS_EACH_MAX: Final = 2
"""For one caller: one that does not read its snapshots must not use up those of all others."""
SNAPSHOT_WAIT_SECONDS: Final = 10.0
"""Further ones wait for so long, and are refused then: OVERLOADED."""
CATCH_UP_SECONDS: Final = 1.0
"""How long a master that has not come as far as a resume token waits for that."""
CATCH_UP_STEP_SECONDS: Final = 0.02
RIGHTS_SECONDS: Final = 1.0
"""How often a watch without changes looks whether it may go on."""
KEYS_PER_FRAME: Final = 4096
"""Keys of deleted rows in one message."""


class StateWatches:
    """The watches of one node."""

    def __init__(self, consensus: Consensus) -> None:
        """Watch the log that `changes` follows."""
        self._consensus = consensus
        self.changes = StateChanges(consensus)
        self._snapshots = asyncio.Semaphore(SNAPSHOTS_MAX)
        self._snapshots_of = WeakValueDictionary[Did, asyncio.Semaphore]()
        """By caller, while it has or wants some."""

    async def watch(
        self,
        tables: Sequence[WatchedTable],
        resume_token: bytes,
        interval: float,
        permissions: Permissions,
        turn: Turn,
    ) -> AsyncGenerator[StateEvent, None]:
        """Yield the tables as they are, or what changed since a token, and what changes then.

        Bookmarks are at most `interval` seconds apart. Ends only by being closed.

        Raises:
            ClusterError: INVALID_ARGUMENT for a token of another kind; NOT_LEADER, NO_LEADER,
                OVERLOADED or DEADLINE_EXCEEDED, if another master may do better.
        """
        token = decode_resume_token(resume_token) if resume_token else None
        await self.changes.settle(turn)  # With no watcher, nothing was sorted.
        watch = _Watch(self, tables, permissions, turn)
        names = [each.name for each in tables]
        self.changes.use(names, 1)
        try:
            cause = None if token is None else await watch.resume(token)
            if cause is not None:
                yield Reset(cause, self.changes.oldest(names))
            if watch.position is None:
                async for event in watch.snapshot():
                    yield event
            else:
                yield watch.bookmark(self.changes.now())
            async for event in watch.follow(interval):
                yield event
        finally:
            self.changes.use(names, -1)

    @asynccontextmanager
    async def snapshot_slot(self, caller: Did) -> AsyncIterator[None]:
        """Wait until another snapshot may be sent to a caller; raises OVERLOADED."""
        own = self._snapshots_of.setdefault(caller, asyncio.Semaphore(SNAPSHOTS_EACH_MAX))
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(SNAPSHOT_WAIT_SECONDS):
                    for each in (own, self._snapshots):
                        await held.enter_async_context(each)
            except TimeoutError:
                raise ClusterError(
                    Reason.OVERLOADED,
                    f"this node sends {SNAPSHOTS_EACH_MAX} snapshots to you already, or "
                    f"{SNAPSHOTS_MAX} in all; try again in a moment, or another master",
                    retry_after=timedelta(seconds=1),
                ) from None
            yield

    def cluster_digest(self) -> bytes:
        """What says in a token of which cluster it is."""
        return digest_of([self._consensus.state().cluster_id.encode()])

    def not_caught_up(self) -> ClusterError:
        """The refusal of a token that is ahead of this master."""
        error = self._consensus.not_leader()
        return ClusterError(
            error.reason,
            "this master has not come as far as the resume token; ask another one",
            leader=error.leader,
            retry_after=error.retry_after,
        )

    @property
    def leads_for_sure(self) -> bool:
        """Whether no other master has a newer state."""
        replica = self._consensus.replica
        return replica is not None and replica.leads_for_sure


class _BeginAgainError(Exception):
    """What was sent since the last bookmark is dropped, and a snapshot follows."""

    def __init__(self, cause: ResetCause) -> None:
        super().__init__(cause)
        self.cause = cause


class _Watch:
    """One watch."""

    def __init__(
        self,
        watches: StateWatches,
        tables: Sequence[WatchedTable],
        permissions: Permissions,
        turn: Turn,
    ) -> None:
        self._watches, self._changes = watches, watches.changes
        self._tables, self._names = tables, [each.name for each in tables]
        self._permissions, self._turn = permissions, turn
        self._rights, self._log = permissions.rights, self._changes.log
        self.position: Position | None = None
        self._shown: dict[str, set[str]] = {}
        """By table: the items that a caller with limited rights was sent; it hears of no others."""
        self._digest = digest_of(
            part
            for each in tables
            for part in (schema_message(encoder_of(each).schema)[0], each.key_prefix.encode())
        )

    async def resume(self, token: ResumeToken) -> ResetCause | None:
        """Go on from a token; returns why that is not possible.

        Raises:
            ClusterError: NOT_LEADER or NO_LEADER: this master has not come so far.
        """
        if token.cluster != self._watches.cluster_digest():
            return ResetCause.OTHER_CLUSTER
        loop = asyncio.get_running_loop()
        until = loop.time() + CATCH_UP_SECONDS
        while (now := self._changes.now()).position.revision < token.revision:
            if self._watches.leads_for_sure:
                return ResetCause.OTHER_CLUSTER
            if loop.time() > until:
                raise self._watches.not_caught_up()
            await asyncio.sleep(CATCH_UP_STEP_SECONDS)
        if token.tables != self._digest:
            return ResetCause.OTHER_TABLES
        if self._permissions.rights is not None or not token.everything:
            return ResetCause.RIGHTS_CHANGED
        position = Position(token.revision, token.term)
        of_here = self._changes.has_history(position, at=now.position)
        if of_here is False:
            return ResetCause.OTHER_CLUSTER
        if of_here is None or token.revision < self._changes.oldest(self._names):
            return ResetCause.COMPACTED
        self._changes.resumed(self._names)
        self.position = position
        return None

    def _check(self) -> None:
        """Check that this goes on as it began; after each wait, as readers may be slow.

        Raises:
            _BeginAgainError: The caller's rights are not those that its rows were judged by.
            ClusterError: NO_LEADER: this node has another log now.
        """
        if self._log is not self._changes.log:
            raise ClusterError(
                Reason.NO_LEADER,
                "this node's log was replaced; go on from the last bookmark",
                retry_after=timedelta(seconds=1),
            )
        if self._permissions.rights != self._rights:
            raise _BeginAgainError(ResetCause.RIGHTS_CHANGED)

    async def snapshot(self) -> AsyncIterator[StateEvent]:
        """Everything as it is, and the bookmark of that; again, if the caller's rights change."""
        while True:
            try:
                async for event in self._snapshot():
                    yield event
            except _BeginAgainError as again:
                cause = again.cause
            else:
                return
            yield self._reset(cause)

    def _reset(self, cause: ResetCause) -> Reset:
        return Reset(cause, self._changes.oldest(self._names))

    async def _snapshot(self) -> AsyncIterator[StateEvent]:
        loop = asyncio.get_running_loop()
        caller = self._permissions.caller.did
        async with self._watches.snapshot_slot(caller), _in_time() as until:
            await self._turn.next()  # Copying the list of a million rows takes a turn of its own.
            self._rights = self._permissions.rights
            self._shown = {} if self._rights is None else {n: set() for n in self._names}
            instant = self._changes.position_of(self._names)
            wholes = [instant.items(STATE_TABLES[each.name]) for each in self._tables]
            for watched, items in zip(self._tables, wholes, strict=True):
                async for payload in self._encoded(watched, items):
                    yield Rows(watched.name, RowsKind.SNAPSHOT, payload)
                    self._check()
                    if loop.time() > until:
                        raise ClusterError(
                            Reason.DEADLINE_EXCEEDED,
                            f"a snapshot is to be read in {TABLE_SECONDS_MAX:.0f} s",
                        )
        self._check()
        self.position = instant.position
        yield self.bookmark(instant)

    async def _encoded(
        self, watched: WatchedTable, items: Iterable[Item | None]
    ) -> AsyncIterator[bytes]:
        encoder, turn = encoder_of(watched), self._turn
        for item in items:
            shown = None if item is None else self._shown_of(watched, item)
            if shown is not None:
                for row in shown.rows():
                    for payload in encoder.add(row):
                        yield payload
            if turn.over:
                await turn.next()
                self._check()
        for payload in encoder.rest():
            yield payload

    def _shown_of(self, watched: WatchedTable, item: Item) -> Item | None:
        """What this caller watches and may read of an item; None if nothing."""
        if not item.key.startswith(watched.key_prefix):
            return None
        if self._rights is None:
            return item
        shown = readable(item, self._permissions.caller.did, self._permissions.allows)
        if shown is not None:
            self._shown[watched.name].add(shown.key)
        return shown

    async def follow(self, interval: float) -> AsyncIterator[StateEvent]:
        """What changes from the position on."""
        loop = asyncio.get_running_loop()
        marked = loop.time()
        while True:
            await self._changes.settle(self._turn)
            left = marked + interval - loop.time()
            assert self.position is not None
            await self._changes.wait(self.position.revision, max(0.0, min(left, RIGHTS_SECONDS)))
            cause = None
            try:
                async for event in self._step(marked + interval):
                    yield event
                    if isinstance(event, Bookmark):
                        marked = loop.time()
            except _BeginAgainError as again:
                cause = again.cause
            if cause is not None:
                yield self._reset(cause)
                async for event in self.snapshot():
                    yield event
                marked = loop.time()

    async def _step(self, due: float) -> AsyncIterator[StateEvent]:
        """What changed since the position, and a bookmark after it, or if one is due."""
        self._check()
        batch, shared = self._next_batch()
        if any(batch.tables[name] is None for name in self._names):
            raise _BeginAgainError(ResetCause.COMPACTED)
        sent = False
        for watched in self._tables:
            async for event in self._changed(watched, batch, shared=shared):
                sent = True
                yield event
                self._check()
        self._check()
        self.position = batch.at
        if sent or asyncio.get_running_loop().time() >= due:
            yield self._bookmark(batch.at, batch.age_ms)

    def _next_batch(self) -> tuple[Batch, bool]:
        """What changed since the position; and whether that is what all get that are as far."""
        assert self.position is not None
        latest = self._changes.latest
        if (
            latest is not None
            and latest.since <= self.position.revision < latest.at.revision
            and latest.tables.keys() >= set(self._names)
        ):
            self._changes.now()  # Raises if this master may no longer answer.
            return latest, True
        return self._changes.batch(self._names, self.position.revision), False

    async def _changed(
        self, watched: WatchedTable, batch: Batch, *, shared: bool
    ) -> AsyncIterator[StateEvent]:
        changed = batch.tables[watched.name]
        assert changed is not None
        if not shared or self._rights is not None or watched.key_prefix:
            async for event in self._changed_of_mine(watched, changed):
                yield event
            return
        found = await batch.encoded(watched)
        self._check()
        for event in _deletions(watched.name, found.deletions):
            yield event
        for payload in found.payloads:
            yield Rows(watched.name, RowsKind.UPSERTS, payload)

    async def _changed_of_mine(
        self, watched: WatchedTable, changed: Changed
    ) -> AsyncIterator[StateEvent]:
        """What changed of what this caller watches and may read.

        Encoded while it is read: of a batch that nobody shares, a slow reader keeps no more.
        """
        encoder, turn, name = encoder_of(watched), self._turn, watched.name
        if turn.over:
            await turn.next()
            self._check()
        shown = None if self._rights is None else self._shown[name]
        if shown is None:
            mine = [each for each in changed.names if each.startswith(watched.key_prefix)]
        else:
            mine = [each for each in changed.names if each in shown]
        if changed.grouped:
            for event in _deletions(name, mine):
                yield event
        kept: set[str] = set()
        for item in changed.items:
            found = None if item is None else self._shown_of(watched, item)
            if found is not None:
                kept.add(found.key)
                for row in found.rows():
                    for payload in encoder.add(row):
                        yield Rows(name, RowsKind.UPSERTS, payload)
            if turn.over:
                await turn.next()
                self._check()
        for payload in encoder.rest():
            yield Rows(name, RowsKind.UPSERTS, payload)
        gone = [each for each in mine if each not in kept]
        if not changed.grouped:
            for event in _deletions(name, gone):
                yield event
        if shown is not None:
            shown.difference_update(gone)

    def bookmark(self, instant: Instant) -> Bookmark:
        """The bookmark of the position, which the state of an instant contains."""
        assert self.position is not None
        return self._bookmark(self.position, instant.age_ms)

    def _bookmark(self, position: Position, age_ms: int) -> Bookmark:
        token = ResumeToken(
            cluster=self._watches.cluster_digest(),
            tables=self._digest,
            revision=position.revision,
            term=position.term,
            everything=self._rights is None,
        )
        return Bookmark(position.revision, encode_resume_token(token), age_ms)


@asynccontextmanager
async def _in_time() -> AsyncIterator[float]:
    """Have the gate end the call, if this takes too long: while nothing is read, nothing runs here.

    Yields when that is.
    """
    ending, loop = current_ending(), asyncio.get_running_loop()
    before = ending.at
    ending.at = until = min(before, loop.time() + TABLE_SECONDS_MAX)
    try:
        yield until
    finally:
        ending.at = before


def _deletions(table: str, keys: Sequence[str]) -> Iterator[Deletions]:
    """Deletions of these keys, so many in a message as it may have."""
    for start in range(0, len(keys), KEYS_PER_FRAME):
        yield Deletions(table, tuple(keys[start : start + KEYS_PER_FRAME]))

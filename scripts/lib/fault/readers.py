"""Readers of watches, and what their tables were at each bookmark."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

import pyarrow as pa

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.core.errors import ClusterError, Trait
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.schemas import ROW_KEYS
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Reset,
    ResetCause,
    Rows,
    StateEvent,
    WatchedTable,
)

INTERVAL_MS: Final = 200
RETRY_SECONDS: Final = 0.1
WHOLE_EACH: Final = 20
"""One bookmark in so many is also compared by way of `WatchedState`, which takes longer."""

Digest = tuple[int, int]
"""How many rows there are, and the sum of their hashes."""


def digest_of(rows: Any) -> Digest:
    """The digest of some rows, each a tuple, in any order. Of this process: hashes are salted."""
    hashes = list(map(hash, rows))
    return len(hashes), sum(hashes)


def batch_rows(batch: Any) -> list[tuple[Any, ...]]:
    """The rows of a record batch as the state's own: times in milliseconds, lists as tuples."""
    columns = []
    for column in batch.columns:
        if pa.types.is_timestamp(column.type):
            columns.append(column.cast(pa.int64()).to_pylist())
        elif pa.types.is_list(column.type):
            columns.append([None if each is None else tuple(each) for each in column.to_pylist()])
        else:
            columns.append(column.to_pylist())
    return list(zip(*columns, strict=True))


class Tables:
    """Tables with a digest each, kept up to date row by row."""

    def __init__(self, names: Sequence[str]) -> None:
        """Start empty."""
        self._names = names
        self._rows: dict[str, dict[str, dict[tuple[Any, ...], int]]] = {}
        self._totals: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        """Drop all rows."""
        self._rows = {name: defaultdict(dict) for name in self._names}
        self._totals.clear()
        self._counts.clear()

    def apply(self, event: StateEvent) -> None:
        """Take an event."""
        match event:
            case Rows(table, _, rows):
                at = [rows.schema.get_field_index(name) for name in ROW_KEYS[table]]
                for row in batch_rows(rows):
                    key = tuple(row[each] for each in at)
                    group = self._rows[table][key[0]]
                    self._count(table, [group.pop(key)] if key in group else [], -1)
                    group[key] = hash(row)
                    self._count(table, [group[key]], 1)
            case Deletions(table, keys):
                for each in keys:
                    self._count(table, self._rows[table].pop(each, {}).values(), -1)
            case Reset():
                self.clear()

    def _count(self, table: str, hashes: Any, sign: int) -> None:
        for each in hashes:
            self._totals[table] += sign * each
            self._counts[table] += sign

    def digests(self) -> dict[str, Digest]:
        """The digest of each table."""
        return {name: (self._counts[name], self._totals[name]) for name in self._names}


class Reader:
    """One reader, which goes from master to master."""

    def __init__(self, cluster: LocalCluster, names: Sequence[str], *nodes: LocalNode) -> None:
        """Watch these tables at these masters, in turn."""
        self._cluster, self.names, self._nodes = cluster, names, nodes
        self._watched = [WatchedTable(name) for name in names]
        self.tables, self.whole = Tables(names), WatchedState()
        self.token = b""
        self.revision = 0
        self.marks: list[tuple[int, dict[str, Digest]]] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._at: LocalNode | None = None
        self._until_free = 0.0
        self._away = False
        self._next: LocalNode | None = None
        self.hop = asyncio.Event()
        """Set: go on at another master."""

    def stop_reading(self, seconds: float) -> None:
        """Do not read for so long, with the call under way."""
        self._until_free = time.monotonic() + seconds

    def go_away(self) -> None:
        """End the call under way, and begin no other."""
        self._away = True
        self.hop.set()

    def come_back(self, node: LocalNode) -> None:
        """Go on at a master."""
        self._away, self._next = False, node

    async def run(self, over: asyncio.Event) -> None:
        """Read until told to stop."""
        turn = 0
        while not over.is_set():
            turn += 1
            node, self._next = self._next or self._nodes[turn % len(self._nodes)], None
            self.hop.clear()
            if self._away or not node.runs:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await self._read(node, over)

    async def _read(self, node: LocalNode, over: asyncio.Event) -> None:
        before, self._at = self._at, node
        first = True
        async with self._cluster.client(node) as client:
            batches = client._batches(  # noqa: SLF001
                (node.address, NodeId(node.node_id)), self._watched, self.token, INTERVAL_MS
            )
            try:
                async with aclosing(batches):
                    async for batch in batches:
                        if self._away:
                            return
                        self._take(batch, first=first, elsewhere=before is not node)
                        first = False
                        if over.is_set() or self.hop.is_set():
                            return
                        left = self._until_free - time.monotonic()
                        if left > 0:
                            await asyncio.sleep(left)
                            self.counts["stopped"] += 1
            except ClusterError as error:
                self.counts[f"refused {error.reason}"] += 1
                if not error.reason.has(Trait.RETRYABLE | Trait.MASTER_LOCAL):
                    self.wrong.append(f"a watch ended with {error.reason}: {error}")
                await asyncio.sleep(RETRY_SECONDS)

    def _take(self, batch: list[StateEvent], *, first: bool, elsewhere: bool) -> None:
        resets = [event.cause for event in batch if isinstance(event, Reset)]
        for cause in resets:
            if cause is not ResetCause.COMPACTED:
                self.wrong.append(f"a reset because of {cause}")
            self.counts["compacted" if first else "reset while watching"] += 1
        if first and self.token and not resets and elsewhere:
            self.counts["resumed elsewhere"] += 1
        for event in batch:
            self.tables.apply(event)
            self.whole.apply(event)  # Raises if the revision shrinks.
        mark = batch[-1]
        assert isinstance(mark, Bookmark)
        if mark.revision < self.revision:
            self.wrong.append(f"revision {mark.revision} came after {self.revision}")
        self.revision, self.token = mark.revision, mark.resume_token
        digests = self.tables.digests()
        self.marks.append((mark.revision, digests))
        if len(self.marks) % WHOLE_EACH == 0:
            self._compare(digests)

    def _compare(self, digests: dict[str, Digest]) -> None:
        """Check that `WatchedState` made the same tables."""
        for name in self.names:
            table = self.whole.table(name)
            batches = [] if table is None else table.to_batches()
            rows = [row for batch in batches for row in batch_rows(batch)]
            if digest_of(rows) != digests[name]:
                self.wrong.append(f"WatchedState has another {name} at {self.revision}")

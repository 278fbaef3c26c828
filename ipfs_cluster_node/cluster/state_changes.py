"""What changed in the state, gathered on every master for those that watch it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NamedTuple

from ipfs_cluster_node.access.turns import Turn, current_turn
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.arrow_tables import RowEncoder
from ipfs_cluster_node.codec.state_watch import encoder_of
from ipfs_cluster_node.core.changes import Changes
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId, node_id_of_voter
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_events import WatchedTable
from ipfs_cluster_node.core.state_tables import STATE_TABLES, Items, StateTable
from ipfs_cluster_node.core.tables import TableName, Touched

TICK_SECONDS: Final = 0.05
"""Changes are gathered for so long, and then sent together."""
STALE_MS_MAX: Final = 10_000
"""A master that has heard of no leader for so long answers no watch."""

WATCHED: Final = tuple(table.replicated for table in STATE_TABLES.values())


class Position(NamedTuple):
    """A place in the log, and in which history."""

    revision: int
    term: int


@dataclass(frozen=True, slots=True)
class Instant:
    """The state at one revision; valid until the next await."""

    state: ClusterState
    position: Position
    voters: frozenset[NodeId]
    """Those of the log up to this revision: committed."""
    age_ms: int

    def items(self, table: StateTable, keys: Sequence[Any] | None = None) -> Items:
        """Items of a table, all or those of some keys, which stay as they are now."""
        return table.items(self.state, self.voters, keys)


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed in a table: items by their keys, as they are at the end."""

    names: Sequence[str]
    items: Items
    grouped: bool
    """Whether rows of the same key are dropped first."""


NOTHING: Final = Changed((), Items(()), grouped=False)
"""Of a table in which nothing changed."""


@dataclass(slots=True)
class Batch:
    """What changed after one revision and up to another; encoded once for all that read it."""

    since: int
    at: Position
    age_ms: int
    tables: Mapping[str, Changed | None]
    """None: some of it is no longer known."""
    _encoded: dict[tuple[str, tuple[str, ...]], asyncio.Future["Encoded"]] = field(
        default_factory=dict
    )

    async def encoded(self, watched: WatchedTable) -> "Encoded":
        """A table's changes, for those who watch all of it and may read every row."""
        key = (watched.name, watched.columns)
        found = self._encoded.get(key)
        if found is None:
            changed = self.tables[watched.name]
            assert changed is not None
            found = asyncio.ensure_future(_encode(changed, encoder_of(watched)))
            self._encoded[key] = found
        return await asyncio.shield(found)


class Encoded(NamedTuple):
    """Keys whose rows are dropped first, and the rows that come then."""

    deletions: Sequence[str]
    payloads: Sequence[bytes]


async def _encode(changed: Changed, encoder: RowEncoder) -> Encoded:
    turn = current_turn()
    payloads: list[bytes] = []
    kept: set[str] = set()
    for item in changed.items:
        if item is not None:
            if not changed.grouped:
                kept.add(item.key)
            for row in item.rows():
                payloads += encoder.add(row)
        if turn.over:
            await turn.next()
    payloads += encoder.rest()
    return Encoded([name for name in changed.names if name not in kept], payloads)


class StateChanges:
    """The changes of the present log, and who waits for more. Runs in the loop's thread."""

    def __init__(self, consensus: Consensus) -> None:
        """Start without a log; `follow` gives one."""
        self._consensus = consensus
        self._machine: ReplicatedStateMachine | None = None
        self.log: object = None
        """Another one for each log that this node had; positions in one say nothing of another."""
        self._replica: Replica | None = None
        self._changes = Changes(WATCHED, 0)
        self._changed_at = 0
        self._waiting: dict[asyncio.Future[None], int] = {}
        """Those who wait, and the revision that each has."""
        self._tick_due = False
        self.in_use: dict[str, int] = dict.fromkeys(STATE_TABLES, 0)
        """How many watch each table."""
        self.latest: Batch | None = None
        """What changed in the last tick, in the tables in use."""
        self._figures: dict[NodeId, tuple[bool, int]] = {}
        """What rows of nodes have from elsewhere in the state, while somebody watches them."""

    def follow(self, machine: ReplicatedStateMachine, replica: Replica) -> None:
        """Gather the changes of this log from now on, on a node that has just got it."""
        self._machine, self._replica = machine, replica
        self.log = object()
        self._begin(machine.revision)

        def on_change(revision: int, touched: Touched | None) -> None:
            if machine is self._machine:
                self._on_change(revision, touched)

        machine.watch(on_change)

    def unfollow(self) -> None:
        """Know of no log any longer."""
        self._machine = self._replica = self.log = None
        self._begin(0)
        self._tick()

    def _begin(self, revision: int) -> None:
        self._changes = Changes(WATCHED, revision)
        self._changed_at = revision
        self._figures.clear()
        self.latest = None

    def _on_change(self, revision: int, touched: Touched | None) -> None:
        if touched is None:
            self._begin(revision)
        else:
            self._changes.note(revision, touched)
            self._changed_at = revision
        assert self._replica is not None
        term = self._replica.term_at(revision)
        if term is not None:
            self._changes.note_term(revision, term)
        if self._waiting and not self._tick_due:
            self._schedule()

    def _schedule(self) -> None:
        self._tick_due = True
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._tick_due = False
        waiting, self._waiting = self._waiting, {}
        if waiting:
            try:
                since = min(waiting.values())
                used = [name for name, count in self.in_use.items() if count]
                self.latest = self.batch(used, since)
            except ClusterError:
                self.latest = None  # Those who wait are told.
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def settle(self, turn: Turn) -> None:
        """Sort what was noted since anybody asked, in slices: at once it takes up to 50 ms."""
        while self._changes.sort():
            await turn.next()

    async def wait(self, revision: int, seconds: float) -> None:
        """Wait until something has changed after a revision, or this long."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = revision
        if self._changed_at > revision and not self._tick_due:
            self._schedule()
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(future, None)

    def now(self) -> Instant:
        """The state as applied here.

        Raises:
            ClusterError: NOT_LEADER or NO_LEADER: there is none, or it is too old.
        """
        consensus, machine, replica = self._consensus, self._machine, self._replica
        state = consensus.state()
        if machine is None or replica is None or replica.failed is not None:
            raise consensus.not_leader()
        age_ms = 0 if replica.leads_for_sure else replica.age_ms
        position = replica.position()
        # After an outage of the disk the log is read again: what the state has already, is not.
        if age_ms > STALE_MS_MAX or position.index < machine.revision:
            raise ClusterError(
                Reason.NO_LEADER,
                "this master has not heard of a leader for a while; ask another one",
                retry_after=timedelta(seconds=1),
            )
        return Instant(
            state,
            Position(position.index, position.term),
            frozenset(map(node_id_of_voter, position.voters)),
            age_ms,
        )

    def position_of(self, names: Collection[str]) -> Instant:
        """Now, as a position from which these tables may be followed; raises as `now`."""
        instant = self.now()
        if "nodes" in names:
            self._note_figures(instant)
        return instant

    def resumed(self, names: Collection[str]) -> None:
        """Somebody follows these tables from a position that was not taken here."""
        if "nodes" in names:
            self._figures = {}  # As they were there, they were perhaps between two ticks here.

    def batch(self, names: Collection[str], since: int) -> Batch:
        """What changed in these tables after a revision, up to now; raises as `now`."""
        instant = self.now()
        if instant.position.revision == since:  # Of most who only look whether they may go on.
            return Batch(since, instant.position, instant.age_ms, dict.fromkeys(names, NOTHING))
        if "nodes" in names:
            self._note_figures(instant)
        found = {name: self._changed(instant, name, since) for name in names}
        return Batch(since, instant.position, instant.age_ms, found)

    def _changed(self, instant: Instant, name: str, since: int) -> Changed | None:
        table = STATE_TABLES[name]
        keys = self._changes.since(table.replicated, since)
        if keys is None:
            return None
        if table.replicated is TableName.CONTENTS:
            # A removed node is no holder any more, perhaps of every file.
            members = self._changes.since(TableName.PRINCIPALS, since)
            gone = instant.state.members.removed
            contents = instant.state.contents
            tasks = self._changes.since(TableName.TASKS, since) if contents.has_unnamed else []
            if members is None or tasks is None or any(did in gone for did in members):
                return None
            keys = list(dict.fromkeys([*keys, *contents.changed_by(tasks)]))
        return Changed(
            table.names(instant.state, keys), instant.items(table, keys), table.has_groups
        )

    def _note_figures(self, instant: Instant) -> None:
        """Note the nodes whose votes or counts of attempts differ from when this was last done.

        Exact for whoever follows from an instant at which it was done.
        """
        running = instant.state.tasks.running_count
        figures: dict[NodeId, tuple[bool, int]] = {}
        changed: set[Did] = set()
        known = self._figures
        for node in instant.state.members.nodes():
            node_id = node.node_id
            figures[node_id] = figure = (node_id in instant.voters, running(node_id))
            if known.get(node_id) != figure:
                changed.add(node.did)
        if changed:
            self._changes.note(instant.position.revision, {TableName.PRINCIPALS: changed})
        self._figures = figures

    def use(self, names: Collection[str], count: int) -> None:
        """So many more, or fewer, watch these tables."""
        for name in names:
            self.in_use[name] += count
        if not any(self.in_use.values()):
            self.latest = None  # Of a tick that nobody reads.
        if not self.in_use["nodes"]:
            self._figures = {}  # They are not kept up to date, so all nodes are changed then.

    def oldest(self, names: Collection[str]) -> int:
        """The oldest revision since which all changes of these tables are known."""
        return max(self._changes.floor(STATE_TABLES[name].replicated) for name in names)

    def has_history(self, position: Position, *, at: Position) -> bool | None:
        """Whether a position is of this history; None if that is not known. `at` is now."""
        if position == at:
            return True
        term = None if self._replica is None else self._replica.term_at(position.revision)
        if term is None:
            term = self._changes.term_of(position.revision)
        return None if term is None else term == position.term

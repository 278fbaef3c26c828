"""Watches of the state: at each bookmark a reader's tables are those of the log."""

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from itertools import islice
from typing import Any

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, node_id_of_voter, voter_id
from ipfs_cluster_node.core.schemas import STATE_TABLES as NAMES
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Reset,
    ResetCause,
    StateEvent,
)
from ipfs_cluster_node.core.state_tables import STATE_TABLES, Item, readable
from scripts.lib.fault.readers import Digest, Tables, digest_of
from tests.support.random_commands import RandomCommands
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import (
    ALL,
    CALLER,
    EVERYTHING,
    SOME,
    Master,
    Rights,
)

HISTORIES = 6
COMMANDS = 700


def shown_to(rights: Rights, item: Item) -> Item | None:
    return item if rights.rights is None else readable(item, CALLER, rights.allows)


def tables_of(master: Master, rights: Rights) -> dict[str, Digest]:
    """The tables as they are now, of what a caller may read."""
    voters: frozenset[NodeId] = frozenset(map(node_id_of_voter, master.voters))
    return {
        name: digest_of(
            [
                row
                for item in table.items(master.machine.state, voters, None)
                if item is not None
                if (shown := shown_to(rights, item)) is not None
                for row in shown.rows()
            ]
        )
        for name, table in STATE_TABLES.items()
    }


class Reader:
    """Reads at any of several masters, slowly or not, and checks each bookmark."""

    def __init__(self, masters: list[Master], rights: Rights, seed: int, known: Any) -> None:
        self._masters, self._rights, self._known = masters, rights, known
        self._rng = random.Random(seed)
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        tables, token, revision = Tables(NAMES), b"", 0
        while True:
            events = self._rng.choice(self._masters).watch(ALL, token, self._rights)
            first = True
            batch: list[StateEvent] = []
            try:
                async with aclosing(events):
                    async for event in events:
                        batch.append(event)
                        if not isinstance(event, Bookmark):
                            continue
                        for each in batch:
                            tables.apply(each)
                            if isinstance(each, Reset):
                                self.counts[each.cause] += 1
                        if first and token and not isinstance(batch[0], Reset):
                            self.counts["resumed"] += 1
                        assert event.revision >= revision
                        expected = self._known[event.revision][id(self._rights)]
                        assert tables.digests() == expected, event.revision
                        token, revision, first, batch = (
                            event.resume_token,
                            event.revision,
                            False,
                            [],
                        )
                        self.counts["bookmarks"] += 1
                        if self._rng.random() < 0.1:
                            break
                        await asyncio.sleep(self._rng.choice((0, 0, 0.03, 0.4)))
            except ClusterError as error:
                assert error.reason is Reason.NOT_LEADER  # It is behind.


@virtual_time
async def test_whatever_happens_a_readers_tables_are_those_of_the_log() -> None:
    counts: Counter[str] = Counter()
    for seed in range(HISTORIES):
        rng = random.Random(seed)
        masters = [Master(lambda index: index // 97) for _ in range(3)]
        first = masters[0]
        known: dict[int, dict[int, dict[str, Digest]]] = {}
        log: list[Any] = []
        readers = [
            Reader(masters, rights, seed * 100 + number, known)
            for number, rights in enumerate((EVERYTHING, EVERYTHING, EVERYTHING, SOME, SOME))
        ]
        tasks: list[asyncio.Task[None]] = []
        votes: dict[int, Any] = {}
        for command in islice(RandomCommands(seed, first.machine.state), COMMANDS):
            log.append(command)
            index = len(log)
            if rng.random() < 0.02:
                nodes = [node.node_id for node in first.machine.state.members.nodes()]
                first.voters = frozenset(voter_id(n, 1) for n in nodes if rng.random() < 0.5)
            votes[index] = first.voters
            first.apply(index, command)
            known[index] = {id(rights): tables_of(first, rights) for rights in (EVERYTHING, SOME)}
            for other in masters[1:]:
                behind = index - other.applied_index
                if rng.random() < 0.3:
                    for at in range(other.applied_index, min(index, other.applied_index + 3)):
                        other.voters = votes[at + 1]
                        other.apply(at + 1, log[at])
                elif behind > 30:
                    other.voters = first.voters
                    other.install(first)
            if rng.random() < 0.02:
                rng.choice(masters).compact()
            if index == 20:
                tasks = [asyncio.create_task(reader.run()) for reader in readers]
            await asyncio.sleep(rng.choice((0, 0, 0, 0.01, 0.06)))
            for task in tasks:
                if task.done():
                    task.result()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for reader in readers:
            counts.update(reader.counts)
    assert counts["bookmarks"] > 1000
    assert counts["resumed"] > 50
    assert counts[ResetCause.COMPACTED] > 20
    assert counts[ResetCause.RIGHTS_CHANGED] > 20
    assert not counts[ResetCause.OTHER_CLUSTER] + counts[ResetCause.OTHER_TABLES]

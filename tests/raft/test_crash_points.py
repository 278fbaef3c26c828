"""The power goes at every operation of the disk, one run for each: R4 of the reliability table.

A script writes entries, votes, cuts, snapshots and new segments. Whatever the disk keeps of what was
not synced, the log opens again, and has all that was synced before and nothing that was not written.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest

from ipfs_cluster_node.adapters.raft.journal import NO_OP, REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.snapshot import (
    SNAPSHOT_NAME,
    Position,
    open_snapshot,
    store_snapshot,
)
from ipfs_cluster_node.adapters.raft.snapshotting import RECEIVED_NAME
from ipfs_cluster_node.core.ids import VoterId
from scripts.lib.sim.disk import MemoryDisk, PowerLossError

VOTERS = frozenset({VoterId("a.1"), VoterId("b.1")})
SEGMENT_BYTES_MAX = 400
ROUNDS = 30
WAYS = 12
"""Of what the disk keeps, for each operation."""


class DyingDisk(MemoryDisk):
    """Loses its power in one operation: before it, or, where it can be torn, within."""

    def __init__(self, rng: random.Random, dies_at: int) -> None:
        super().__init__(rng)
        self._left = dies_at
        self.operations = 0

    def _operation(self, name: str, data: bytes = b"") -> None:
        self.operations += 1
        self._left -= 1
        if self._left == 0:
            if data and self._rng.random() < 0.7:
                super().append(name, data[: self._rng.randrange(len(data) + 1)])
            raise PowerLossError

    def append(self, name: str, data: bytes) -> None:
        self._operation(name, data)
        super().append(name, data)

    def sync(self, name: str) -> None:
        self._operation(name)
        super().sync(name)

    def replace(self, name: str, parts: Iterable[bytes]) -> None:
        data = b"".join(parts)
        self._operation(f"{name}.new", data)
        super().replace(name, [data])
        self._operation(name)  # Done, and nobody was told.

    def rename(self, name: str, new_name: str) -> None:
        self._operation(name)
        super().rename(name, new_name)
        self._operation(name)  # Done, and nobody was told.

    def note(self, name: str, data: bytes) -> None:
        self._operation(name)
        super().note(name, data)

    def truncate(self, name: str, size_bytes: int) -> None:
        self._operation(name)
        super().truncate(name, size_bytes)

    def remove(self, name: str) -> None:
        self._operation(name)
        super().remove(name)


@dataclass(frozen=True)
class Model:
    """What a log should hold: entries above the snapshot, the vote, the snapshot."""

    entries: tuple[tuple[bytes, int, int], ...] = ()
    vote: tuple[int, str | None] = (0, None)
    snapshot: int = 1


@dataclass
class Told:
    """What was durable before the operation that failed, and what may be since."""

    before: Model = field(default_factory=Model)
    after: Model = field(default_factory=Model)

    def done(self) -> None:
        self.before = self.after


def script(disk: MemoryDisk, told: Told) -> None:
    """The same each time, but for when it ends."""
    rng = random.Random(7)
    store_snapshot(disk, Position(index=1, term=0, voters=VOTERS), [b"s"])
    journal = open_journal(disk)
    for number in range(ROUNDS):
        model, term = told.before, 1 + number // 6
        if number % 6 == 0:
            vote = (term, f"v{term}")
            journal.setCurrentTerm(*vote)
            model = replace(model, vote=vote)
            if number % 4 == 0 and len(model.entries) > 2:
                # A new leader contradicts the newest entries.
                journal.deleteEntriesFrom(len(journal) - 2)
                model = replace(model, entries=model.entries[:-2])
        for _ in range(rng.randint(1, 4)):
            last = model.entries[-1][1] if model.entries else model.snapshot
            entry = (REGULAR + rng.randbytes(rng.randint(1, 120)), last + 1, term)
            journal.add(*entry)
            model = replace(model, entries=(*model.entries, entry))
        told.after = model
        journal.write_and_sync(journal.take_pending())
        told.done()
        if number % 5 == 4:
            snapshot(disk, journal, told, keep=rng.randint(0, 2))
    # A snapshot of the leader, far ahead of this log.
    index = journal.last_index + 50
    told.after = replace(told.before, entries=(), snapshot=index)
    sent = MemoryDisk(random.Random(0))
    store_snapshot(sent, Position(index=index, term=9, voters=VOTERS), [b"i"])
    disk.append(RECEIVED_NAME, sent.read(SNAPSHOT_NAME) or b"")
    disk.rename(RECEIVED_NAME, SNAPSHOT_NAME)
    told.done()
    journal.rebase(index, 9, VOTERS)
    entry = (REGULAR + b"last", index + 1, 9)
    journal.add(*entry)
    told.after = replace(told.before, entries=(entry,))
    journal.write_and_sync(journal.take_pending())
    told.done()


def snapshot(disk: MemoryDisk, journal: SegmentedJournal, told: Told, *, keep: int) -> None:
    model = told.before
    _, index, term = model.entries[-1 - keep]
    told.after = replace(
        model, entries=tuple(e for e in model.entries if e[1] > index), snapshot=index
    )
    store_snapshot(disk, Position(index=index, term=term, voters=VOTERS), [b"s"])
    told.done()
    journal.trim(max(journal.first_index, index - 3), VOTERS)


def open_journal(disk: MemoryDisk) -> SegmentedJournal:
    opened = open_snapshot(disk)
    assert opened is not None
    found = opened.position
    base = (NO_OP, found.index, found.term)
    return SegmentedJournal(
        disk, base=base, base_voters=found.voters, segment_bytes_max=SEGMENT_BYTES_MAX
    )


def found_in(disk: MemoryDisk) -> Model:
    """What there is after the crash, as whoever starts would read it."""
    there = open_snapshot(disk)
    assert there is not None
    journal = open_journal(disk)
    entries = tuple(entry for entry in journal[:] if entry[1] > there.position.index)
    vote = (journal.getCurrentTerm(), journal.getVotedForNodeId())
    return Model(entries, vote, there.position.index)


def operations_of_the_script() -> int:
    disk = DyingDisk(random.Random(0), dies_at=0)
    script(disk, Told())
    return disk.operations


@pytest.mark.parametrize("way", range(WAYS))
def test_the_log_opens_with_all_that_was_synced_wherever_the_power_goes(way: int) -> None:
    count = operations_of_the_script()
    assert count > 150
    for dies_at in range(4, count + 1):  # Before it there is no store yet.
        disk, told = DyingDisk(random.Random(1000 * way + dies_at), dies_at), Told()
        with pytest.raises(PowerLossError):
            script(disk, told)
        disk.crash()
        found = found_in(disk)
        assert found in (told.before, told.after), f"operation {dies_at} of {count}"
        # And a second time, after the repairs of the first opening.
        disk.crash()
        assert found_in(disk) == found

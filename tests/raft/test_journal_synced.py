"""What the journal says is synced, as segments grow and roll; an outage reopens by it."""

import errno
import random

import pytest

from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import NO_OP, REGULAR, Entry, SegmentedJournal
from ipfs_cluster_node.adapters.raft.segments import SEGMENT_PREFIX, SYNCED_NAME, read_synced_note
from ipfs_cluster_node.core.ids import VoterId
from scripts.lib.sim.disk import MemoryDisk

A, B = VoterId("a.1"), VoterId("b.1")
VOTERS = frozenset({A, B})


def opened(
    disk: MemoryDisk, *, base: Entry = (NO_OP, 1, 0), at_least: tuple[int, int] = (0, 0)
) -> SegmentedJournal:
    return SegmentedJournal(
        disk, base=base, base_voters=VOTERS, segment_bytes_max=2000, synced_at_least=at_least
    )


def add(journal: SegmentedJournal, size: int = 500) -> None:
    journal.add(REGULAR + bytes(size), journal.last_index + 1, 7)


def sync(journal: SegmentedJournal) -> None:
    journal.write_and_sync(journal.take_pending())


def segments(disk: MemoryDisk) -> list[str]:
    return [name for name in disk.names() if name.startswith(SEGMENT_PREFIX)]


def noted(disk: MemoryDisk) -> tuple[int, int]:
    return read_synced_note(disk.read(SYNCED_NAME))


def test_each_sync_is_one_frame_more_and_is_noted_and_a_full_segment_is_followed() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    said = [journal.synced]
    for _ in range(9):
        add(journal)
        sync(journal)
        said.append(journal.synced)
        assert noted(disk) == journal.synced
    first = said[0][1]  # The vote, and what the log begins behind.
    assert said[:5] == [(1, first + n) for n in range(5)]
    # The head of a new segment, and what is written to it.
    assert said[5:9] == [(2, 2), (2, 3), (2, 4), (2, 5)]
    assert said[9] == (3, 2)
    assert segments(disk) == [f"{SEGMENT_PREFIX}{n:08d}" for n in (1, 2, 3)]
    sync(journal)  # Nothing to write.
    assert journal.synced == (3, 2)
    assert opened(disk).synced == (3, 2)


def test_a_new_segment_counts_as_synced_though_what_follows_in_it_fails() -> None:
    """Its name and head are durable: a log without it has lost something."""
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    for _ in range(4):
        add(journal)
        sync(journal)
    [before] = segments(disk)  # It is full.
    calls = iter([0])  # The new segment is made, and then nothing goes.
    disk.fault = lambda: next(calls, errno.ENOSPC)
    add(journal)
    with pytest.raises(OSError, match="asked for"):
        sync(journal)
    assert journal.synced == (2, 1)
    disk.fault = lambda: 0
    assert opened(disk, at_least=journal.synced).last_index == journal.last_index - 1
    disk.remove(segments(disk)[-1])
    disk.remove(SYNCED_NAME)
    assert segments(disk) == [before]
    with pytest.raises(LogDamagedError):
        opened(disk, at_least=journal.synced)


def test_the_newer_of_what_the_process_and_what_the_disk_knows_counts() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    add(journal)
    sync(journal)
    whole = disk.read(segments(disk)[0]) or b""
    disk.truncate(segments(disk)[0], len(whole) - 1)
    for at_least in ((0, 0), journal.synced):
        with pytest.raises(LogDamagedError):
            opened(disk, at_least=at_least)  # The note says it.
    disk.remove(SYNCED_NAME)
    with pytest.raises(LogDamagedError):
        opened(disk, at_least=journal.synced)
    assert disk.read(segments(disk)[0]) == whole[:-1]  # It is left as it was found.
    opened(disk)  # Nobody knows better: it was torn.


def test_what_is_opened_is_synced_from_where_nobody_knows_it_to_be() -> None:
    settled: list[tuple[str, int]] = []

    class Noting(MemoryDisk):
        def settle(self, name: str, offset: int) -> None:
            settled.append((name, offset))
            super().settle(name, offset)

    disk = Noting(random.Random(1))
    journal = opened(disk)
    add(journal)
    sync(journal)
    [name] = segments(disk)
    durable = len(disk.read(name) or b"")
    opened(disk)
    assert settled == []
    calls = iter([0, errno.ENOSPC])  # Written, and not synced.
    add(journal)
    disk.fault = lambda: next(calls, 0)
    with pytest.raises(OSError, match="asked for"):
        sync(journal)
    again = opened(disk, at_least=journal.synced)
    assert settled == [(name, durable)]
    assert again.synced == (1, journal.synced[1] + 1)
    # Where no note is left, from the first frame on.
    disk.remove(SYNCED_NAME)
    opened(disk)
    assert settled[1:] == [(name, 16)]


def test_the_vote_is_in_each_segment_so_that_older_ones_may_go() -> None:
    for reopened in (False, True):
        disk = MemoryDisk(random.Random(1))
        journal = opened(disk)
        journal.setCurrentTerm(7, B)
        add(journal)
        sync(journal)
        if reopened:
            journal = opened(disk)
        while len(segments(disk)) < 3:
            add(journal)
            sync(journal)
        journal.trim(journal.last_index, VOTERS)
        assert len(segments(disk)) == 1
        after = opened(disk, base=(NO_OP, journal.last_index, 7))
        assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (7, B)


def test_a_segment_goes_with_its_last_entry_and_not_before() -> None:
    for reopened in (False, True):
        disk = MemoryDisk(random.Random(1))
        journal = opened(disk)
        while len(segments(disk)) < 3:
            add(journal)
            sync(journal)
        last_of_first = journal._segments[0].index_max
        if reopened:
            journal = opened(disk)
        journal.trim(last_of_first - 1, VOTERS)
        assert len(segments(disk)) == 3
        journal.trim(last_of_first, VOTERS)
        assert len(segments(disk)) == 2
        assert journal.first_index == last_of_first
        assert journal.entry_bytes == sum(len(command) for command, _, _ in journal[:])
        # The one that is written to stays, whatever covers it.
        journal.trim(journal.last_index, VOTERS)
        assert len(segments(disk)) == 1


def test_a_log_is_written_to_after_an_outage_before_it_counts_as_well() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    journal.setCurrentTerm(4, A)
    sync(journal)
    frames = journal.synced[1]
    journal.probe()
    assert journal.synced == (1, frames + 1)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (4, A)
    after = opened(disk)
    assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (4, A)


def test_an_entry_that_is_missing_between_two_is_damage() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    add(journal)
    journal.add(REGULAR, journal.last_index + 2, 7)
    sync(journal)
    with pytest.raises(LogDamagedError, match="goes from"):
        opened(disk)


def test_a_snapshot_of_another_past_takes_the_logs_place() -> None:
    """The log has an entry of another term at that index: it was never committed."""
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    for _ in range(4):
        add(journal)
    sync(journal)
    again = opened(disk, base=(NO_OP, 3, 9))
    assert [entry[1:] for entry in again[:]] == [(3, 9)]
    assert opened(disk, base=(NO_OP, 3, 9)).last_index == 3


def test_the_vote_outlives_a_snapshot_that_is_ahead_of_a_full_segment() -> None:
    """The first write behind the start opens a new segment: with the vote of before, not none."""
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    journal.setCurrentTerm(7, B)
    for _ in range(4):
        add(journal)
        sync(journal)
    assert len(segments(disk)) == 1
    base = (NO_OP, 50, 7)
    journal = opened(disk, base=base)
    assert len(segments(disk)) == 2
    add(journal)
    sync(journal)
    disk.remove(segments(disk)[0])  # As `trim` does, once a snapshot covers more.
    after = opened(disk, base=base)
    assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (7, B)
    assert after.last_index == 51


@pytest.mark.parametrize("number", [1, 2])
def test_a_broken_first_frame_is_damage_though_no_note_is_left(number: int) -> None:
    """It was synced with the name of its file: no crash breaks it."""
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    while number > 1 and journal.synced != (2, 2):
        add(journal)
        sync(journal)
    name = segments(disk)[-1]
    whole = disk.read(name) or b""
    for broken in (whole[:17], whole[:40]):
        disk.truncate(name, 0)
        disk.append(name, broken)
        disk.remove(SYNCED_NAME)
        with pytest.raises(LogDamagedError, match="broken at byte 16"):
            opened(disk)
        assert disk.read(name) == broken


def test_the_torn_end_of_an_older_segment_is_damage_and_left_as_it_is() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    while len(segments(disk)) < 3:
        add(journal)
        sync(journal)
    name = segments(disk)[0]
    cut = (disk.read(name) or b"")[:-1]
    disk.truncate(name, len(cut))
    disk.remove(SYNCED_NAME)
    with pytest.raises(LogDamagedError, match="is broken at byte"):
        opened(disk)
    assert disk.read(name) == cut


def test_what_follows_a_torn_end_is_there_again() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    add(journal)
    sync(journal)
    disk.append(segments(disk)[0], b"torn")
    journal = opened(disk)
    add(journal)
    sync(journal)
    disk.remove(SYNCED_NAME)
    assert opened(disk).last_index == journal.last_index == 3


def test_changes_of_the_voters_that_a_snapshot_covers_are_forgotten() -> None:
    disk = MemoryDisk(random.Random(1))
    journal = opened(disk)
    journal.add(b"\x02add c.1", 2, 7)
    add(journal)
    journal.trim(3, frozenset({A}))
    assert journal.last_change_index() == 0
    assert journal.voters() == {A}
    assert journal.entry_bytes == len(journal[0][0])

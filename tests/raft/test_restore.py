"""A store is read whole, and one that begins with a state is made, without taking part."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.clock import use
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, encode_entry
from ipfs_cluster_node.adapters.raft.restore import Stored, create_store_of, read_store
from ipfs_cluster_node.adapters.raft.snapshot import Position, open_snapshot, store_snapshot
from ipfs_cluster_node.adapters.raft.store import create_store, stored_voter
from ipfs_cluster_node.core.ids import VoterId
from scripts.lib.sim.disk import MemoryDisk
from tests.support.replicas import ListMachine

A, B, C = VoterId("a.1"), VoterId("b.1"), VoterId("c.1")
NEW = VoterId("a.4")
CONFIG = RaftConfig()


def entry(*commands: str) -> bytes:
    encoded = [command.encode() for command in commands]
    return bytes(REGULAR + encode_entry(bytes(BATCH_ID_BYTES), encoded))


def store(directory: Path) -> DirectoryDisk:
    """A follower's: a snapshot, entries that it covers, and entries that nobody knows committed."""
    disk = DirectoryDisk(directory)
    create_store(disk, A, [A, B, C])
    journal = SegmentedJournal(disk, base_voters=frozenset())
    first = journal.last_index + 1
    for offset, command in enumerate(("one", "two", "three")):
        journal.add(entry(command), first + offset, 3)
    journal.add(entry("four", "five"), first + 3, 7)
    journal.setCurrentTerm(9, None)
    journal.write_and_sync(journal.take_pending())
    covered = Position(index=first + 1, term=3, voters=frozenset({A, B, C}))
    store_snapshot(disk, covered, [b"one", b"two"])
    disk.close()
    return DirectoryDisk(directory)


def test_all_that_a_store_holds_is_applied_committed_or_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = ListMachine()
    stored = read_store(store(tmp_path), machine)
    assert caplog.records == []  # No entry of it is none: not that of a change of the voters.
    assert machine.commands == ["one", "two", "three", "four", "five"]
    assert stored == Stored(voter=A, voters=frozenset({A, B, C}), index=8, entry_term=7, term=9)


def test_what_raises_or_is_no_batch_is_left_out_as_every_replica_does(tmp_path: Path) -> None:
    disk = store(tmp_path)
    journal = SegmentedJournal(disk, base_voters=frozenset())
    journal.add(entry("raise", "six"), 9, 9)
    journal.add(REGULAR + b"short", 10, 9)
    journal.write_and_sync(journal.take_pending())
    disk.close()
    machine = ListMachine()
    read_store(DirectoryDisk(tmp_path), machine)
    assert machine.commands[-2:] == ["five", "six"]


@pytest.mark.parametrize("name", ["snapshot", "journal-00000001", "voter"])
def test_a_store_that_is_not_whole_is_refused(tmp_path: Path, name: str) -> None:
    store(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    at = len(whole) // 3
    for damaged in (None, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(LogDamagedError):
            read_store(DirectoryDisk(tmp_path), ListMachine())
        path.write_bytes(whole)


def test_who_begins_with_a_state_leads_alone_in_a_newer_term() -> None:
    moment = 1000.0
    use(lambda: moment)
    try:
        disk = MemoryDisk(random.Random(0))
        machine = ListMachine()
        machine.commands = ["one", "two"]
        create_store_of(disk, NEW, machine, index=8, term=10)
        assert stored_voter(disk) == NEW
        restored = ListMachine()
        engine = Engine(disk=disk, machine=restored, config=CONFIG)
        assert restored.commands == ["one", "two"]
        assert engine.voters == {NEW}
        assert engine.position() == Position(index=8, term=10, voters=frozenset({NEW}))
        for _ in range(100):
            moment += CONFIG.tick_interval / timedelta(seconds=1)
            step = engine.begin_step()
            step.write()
            engine.end_step()
        assert engine.is_leader
        # A log that goes on in a lower term would look older than the state that it began with.
        assert engine.journal.term_at(9) == engine.term > 10
        snapshot = open_snapshot(disk)
        assert snapshot is not None
        assert snapshot.position.voters == {NEW}
    finally:
        use()

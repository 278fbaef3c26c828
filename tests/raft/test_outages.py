"""A log that can't be written for a while: nothing acknowledged is lost, and it goes on by itself."""

import asyncio
import errno
import os
import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft import disk as disk_module
from ipfs_cluster_node.adapters.raft import outages
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.outages import Outage, first_pause, is_temporary, next_pause
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from scripts.lib.sim.disk import MemoryDisk
from tests.support.disks import fill_up, small_disk
from tests.support.replicas import FAST, ListMachine, ReplicaCluster, ReplicaHost

A = VoterId("a.1")
VOTERS = frozenset({A})
BACK_SECONDS_MAX = 20.0


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "RETRY_SECONDS_MAX", 1.0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "6m") as path:
        yield path


def is_out(host: ReplicaHost) -> bool:
    return host.replica.outage is not None


def lacks_a_snapshot(host: ReplicaHost) -> bool:
    return host.replica.snapshot_outage is not None


async def _write_until_refused(host: ReplicaHost) -> tuple[list[str], ClusterError]:
    """Write; returns what was acknowledged, and how it ended."""
    done: list[str] = []
    while True:
        command = f"{len(done):06d}" + "x" * 1000
        try:
            await host.replica.propose(command.encode())
        except ClusterError as error:
            return done, error
        done.append(command)


async def _until_it_writes(host: ReplicaHost, command: bytes) -> None:
    async with asyncio.timeout(BACK_SECONDS_MAX):
        while True:
            with suppress(ClusterError):
                await host.replica.propose(command)
                return
            await asyncio.sleep(0.05)


@pytest.mark.asyncio
async def test_a_full_disk_is_told_and_writing_goes_on_once_there_is_room(disk: Path) -> None:
    async with ReplicaCluster(disk / "cluster", 1) as cluster:
        host = await cluster.leader()
        changes: list[bool] = []
        host.replica.on_leadership = lambda leads, _term: changes.append(leads)
        filler = fill_up(disk, leave_bytes=64 * 1024)
        done, error = await _write_until_refused(host)
        assert done
        assert error.reason is Reason.UNKNOWN_OUTCOME
        with pytest.raises(ClusterError) as caught:
            await host.replica.propose(b"while it is full")
        assert caught.value.reason is Reason.LOG_STORAGE_FAILED
        assert "free some space" in caught.value.message
        assert changes == [False]
        await asyncio.sleep(2.5)  # It has tried in vain meanwhile.
        assert is_out(host)
        filler.unlink()
        await _until_it_writes(host, b"after")
        assert not is_out(host)
        assert changes == [False, True]
        kept = host.machine.commands
        # The one that nobody knows the outcome of may be there.
        assert kept[: len(done)] == done
        assert kept[-1] == "after"
        assert len(kept) <= len(done) + 2
        # So it is on disk, as a start reads it.
        await host.stop()
        await host.start()
        await _until_it_writes(host, b"last")
        assert host.machine.commands == [*kept, "last"]


@pytest.mark.asyncio
async def test_another_leads_while_the_leaders_disk_is_full_and_it_follows_afterwards(
    disk: Path, tmp_path: Path
) -> None:
    cluster = ReplicaCluster(tmp_path / "cluster", 3)
    moved = next(iter(cluster.hosts.values()))
    moved.directory = Path(shutil.move(moved.directory, disk / "raft-of-one"))
    async with cluster:
        while (leader := await cluster.leader()) is not moved:
            await leader.replica.transfer_leadership(moved.voter)
        filler = fill_up(disk, leave_bytes=64 * 1024)
        done, _ = await _write_until_refused(moved)
        other = await cluster.leader(but=moved.node_id)
        await _until_it_writes(other, b"meanwhile")
        filler.unlink()
        async with asyncio.timeout(BACK_SECONDS_MAX):
            while moved.machine.commands[-1] != "meanwhile":
                await asyncio.sleep(0.05)
        assert moved.replica.outage is None
        assert moved.machine.commands == other.machine.commands
        assert moved.machine.commands[: len(done)] == done


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Take all descriptors of this process that are left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 2048), hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.asyncio
async def test_used_up_descriptors_are_told_and_writing_goes_on_once_there_are_some(
    tmp_path: Path,
) -> None:
    config = replace(FAST, segment_bytes_max=16 * 1024)
    async with ReplicaCluster(tmp_path, 1, config) as cluster:
        host = await cluster.leader()
        with no_descriptor_left():
            done, error = await _write_until_refused(host)
            assert error.reason is Reason.UNKNOWN_OUTCOME
            with pytest.raises(ClusterError) as caught:
                await host.replica.propose(b"while there is none")
            assert caught.value.reason is Reason.LOG_STORAGE_FAILED
            assert "descriptor" in caught.value.message
            await asyncio.sleep(1.5)
        await _until_it_writes(host, b"after")
        assert host.machine.commands[: len(done)] == done
        assert host.machine.commands[-1] == "after"


@pytest.mark.asyncio
async def test_no_room_for_a_snapshot_stops_nobody_and_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipfs_cluster_node.adapters.raft.snapshots.SNAPSHOT_RETRY_SECONDS", 0.5)
    write_and_sync = disk_module._write_and_sync

    def fails_in_the_middle(descriptor: int, parts: Iterator[bytes]) -> None:
        write_and_sync(descriptor, [next(iter(parts))])
        raise OSError(errno.ENOSPC, "asked for")

    async with ReplicaCluster(
        tmp_path, 1, replace(FAST, snapshot_entries=20, trailing_entries=5)
    ) as cluster:
        host = await cluster.leader()
        with monkeypatch.context() as patch:
            patch.setattr(disk_module, "_write_and_sync", fails_in_the_middle)
            for n in range(60):
                await host.replica.propose(str(n).encode())
            async with asyncio.timeout(5):
                while not lacks_a_snapshot(host):
                    await asyncio.sleep(0.02)
            assert host.replica.outage is None
            await host.replica.propose(b"goes on")
            assert not list(host.directory.glob("*.new"))
        async with asyncio.timeout(10):
            while lacks_a_snapshot(host):
                await host.replica.propose(b"more")
                await asyncio.sleep(0.05)
        assert host.replica.engine.journal.first_index > 1


def test_a_disk_that_fails_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "asked for")

    disk = DirectoryDisk(tmp_path)
    with pytest.raises(OSError, match="asked for"):
        disk.replace("snapshot", parts())
    assert disk.names() == []


def test_what_a_failed_sync_left_is_synced_before_anything_depends_on_it() -> None:
    """Read back from memory it looks written: a follower would acknowledge it, and lose it."""
    disk = MemoryDisk(random.Random(3))
    journal = SegmentedJournal(disk, base_voters=VOTERS)
    journal.add(REGULAR + b"x" * 2000, journal.last_index + 1, 1)
    calls = iter([0, errno.ENOSPC])
    disk.fault = lambda: next(calls, 0)
    with pytest.raises(OSError, match="asked for"):
        journal.write_and_sync(journal.take_pending())
    again = SegmentedJournal(disk, base_voters=VOTERS, synced_at_least=journal.synced)
    assert again.last_index == journal.last_index
    for seed in range(20):
        disk._rng.seed(seed)
        disk.crash()
        assert SegmentedJournal(disk, base_voters=VOTERS).last_index == again.last_index


def test_a_settled_file_has_the_same_bytes(tmp_path: Path) -> None:
    disk = DirectoryDisk(tmp_path)
    data = random.Random(1).randbytes(100_000)
    disk.append("file", data)
    disk.settle("file", 1234)
    assert disk.read("file") == data


def test_a_log_with_less_than_was_synced_is_damaged() -> None:
    disk = MemoryDisk(random.Random(3))
    journal = SegmentedJournal(disk, base_voters=VOTERS)
    before = disk.read("journal-00000001") or b""
    journal.add(REGULAR + b"x", journal.last_index + 1, 1)
    journal.write_and_sync(journal.take_pending())
    disk.truncate("journal-00000001", len(before))
    disk.remove("synced")  # The note on disk may be lost; what the process knows is not.
    with pytest.raises(LogDamagedError):
        SegmentedJournal(disk, base_voters=VOTERS, synced_at_least=journal.synced)


def test_an_engine_that_opens_again_needs_all_that_the_one_before_had_synced() -> None:
    disk = MemoryDisk(random.Random(3))
    create_store(disk, A, [A])
    before = Engine(disk=disk, machine=ListMachine(), config=FAST)
    size_bytes = len(disk.read("journal-00000001") or b"")
    before.journal.probe()
    disk.truncate("journal-00000001", size_bytes)
    disk.remove("synced")
    with pytest.raises(LogDamagedError):
        Engine(disk=disk, machine=ListMachine(), config=FAST, before=before)


def test_no_snapshot_is_taken_of_a_state_that_is_ahead_of_the_log() -> None:
    """After an outage the machine has what the log does not know to be committed yet.

    The snapshot would name an older place, and what is between would be applied twice.
    """
    disk = MemoryDisk(random.Random(3))
    create_store(disk, A, [A])
    engine = Engine(disk=disk, machine=ListMachine(), config=replace(FAST, snapshot_entries=10))
    engine._snapshots._index = engine.applied_index - 10  # One is due.
    engine.applier.index = engine.applied_index + 1
    assert engine.take_snapshot() is None
    engine.applier.index = engine.applied_index
    assert engine.take_snapshot() is not None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE])
def test_what_passes_is_tried_again_and_says_the_way_out(number: int) -> None:
    error = OSError(number, os.strerror(number))
    assert is_temporary(error)
    told = Outage(error, since=0.0).error()
    assert told.reason is Reason.LOG_STORAGE_FAILED
    assert "by itself" in told.message
    assert told.retry_after is not None


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "io"), OSError(errno.EROFS, "ro"), MemoryError()]
)
def test_what_may_have_lost_something_is_not_tried_again(error: BaseException) -> None:
    assert not is_temporary(error)
    assert "restart the node" in Outage(error, since=0.0).error().message


def test_pauses_grow_and_an_outage_soon_after_the_last_goes_on_with_them() -> None:
    assert next_pause(0.4) == 0.8
    assert next_pause(0.9) == outages.RETRY_SECONDS_MAX
    assert first_pause(0.4, steady_seconds=outages.STEADY_SECONDS) == outages.RETRY_SECONDS_MIN
    assert first_pause(0.4, steady_seconds=1.0) == 0.8

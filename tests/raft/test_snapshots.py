"""Snapshots: checked before they are used, made and loaded in parts beside the engine's steps."""

import asyncio
import errno
import random
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import UNSYNCED_BYTES_MAX, DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.installs import BUSY, CHUNK_BYTES, DAMAGED, OFFER_IDLE_SECONDS
from ipfs_cluster_node.adapters.raft.proposals import Proposal
from ipfs_cluster_node.adapters.raft.snapshot import (
    SNAPSHOT_NAME,
    Position,
    open_snapshot,
    store_snapshot,
)
from ipfs_cluster_node.adapters.raft.snapshotting import RECEIVED_NAME
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.codec.snapshot import PART_BYTES, decode_snapshot, encode_snapshot
from ipfs_cluster_node.core.ids import TaskId, VoterId, did_from_public_key
from ipfs_cluster_node.core.model import Content, Task, TaskResult, TaskSpec, TaskState
from ipfs_cluster_node.core.state_data import StateData
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.disk import MemoryDisk
from tests.support.engines import learn_term
from tests.support.replicas import FAST, ListMachine, ReplicaCluster

A, B, C = VoterId("a.1"), VoterId("b.1"), VoterId("c.1")
CONFIG = RaftConfig(snapshot_entries=10, trailing_entries=2)
STATE_BYTES = 50_000_000
DID = did_from_public_key(bytes(32))


def memory_disk() -> MemoryDisk:
    return MemoryDisk(random.Random(0))


def snapshot_bytes(index: int, parts: list[bytes]) -> bytes:
    disk = memory_disk()
    store_snapshot(disk, Position(index=index, term=2, voters=frozenset({A, B})), parts)
    return disk.read(SNAPSHOT_NAME) or b""


def disk_with(data: bytes) -> MemoryDisk:
    disk = memory_disk()
    disk.replace(SNAPSHOT_NAME, [data])
    return disk


def test_a_snapshot_is_read_as_it_was_written() -> None:
    parts = [b"one", b"", bytes(3_000_000), b"four"]
    file = open_snapshot(disk_with(snapshot_bytes(7, parts)))
    assert file is not None
    assert file.position == Position(index=7, term=2, voters=frozenset({A, B}))
    assert list(file.parts()) == parts
    assert not file.is_empty
    empty = open_snapshot(disk_with(snapshot_bytes(7, [])))
    assert empty is not None
    assert empty.is_empty


def test_a_damaged_snapshot_is_refused() -> None:
    """Raft hazards H6 and H10."""
    encoded = snapshot_bytes(7, [b"some", b"state"])
    broken = [encoded[:length] for length in range(len(encoded))]
    for position in range(len(encoded)):
        flipped = bytearray(encoded)
        flipped[position] ^= 1
        broken.append(bytes(flipped))
    first_part, second_part = (struct.pack("<I", len(p)) + p for p in (b"some", b"state"))
    broken.append(encoded.replace(first_part + second_part, second_part + first_part))
    for data in broken:
        with pytest.raises(LogDamagedError):
            open_snapshot(disk_with(data))


def state_data(*, tasks: int, result_bytes: int) -> StateData:
    return StateData(
        cluster_id="c",
        settings={"user.a": "b"},
        tasks=tuple(
            Task(
                task_id=TaskId(f"t{number}"),
                sequence=number + 1,
                spec=TaskSpec(task_type="echo", payload=b"p" * (number % 3)),
                submitter=DID,
                state=TaskState.SUCCEEDED,
                submitted_at_ms=1,
                result=TaskResult(data=bytes(result_bytes)),
            )
            for number in range(tasks)
        ),
        contents=tuple(
            Content(cid=f"c{n}", size_bytes=n, holders=(), added_at_ms=n) for n in range(tasks)
        ),
    )


def test_a_state_in_parts_is_the_same_state() -> None:
    data = state_data(tasks=1234, result_bytes=10)
    parts = list(encode_snapshot(data))
    assert len(parts) > 2 * 12
    assert decode_snapshot(iter(parts)) == data
    assert list(encode_snapshot(decode_snapshot(parts))) == parts


def test_parts_are_small_whatever_the_records_hold() -> None:
    """Nothing else runs while one is encoded or decoded."""
    data = state_data(tasks=500, result_bytes=64 * 1024)
    assert max(map(len, encode_snapshot(data))) < 1.2 * PART_BYTES


class Follower:
    """An engine of a voter that has an empty log, driven by hand."""

    def __init__(self) -> None:
        self.disk = memory_disk()
        create_store(self.disk, B, [A, B])
        self.machine = ListMachine()
        self.engine = Engine(disk=self.disk, machine=self.machine, config=CONFIG)
        self.term = 5

    def chunk(self, data: bytes, offset: int, *, index: int) -> int | None:
        """Hand over a piece of a snapshot; returns where it wants to go on."""
        crc = struct.unpack("<I", data[-4:])[0]
        piece = pb.SnapshotChunk(
            index=index,
            offset=offset,
            data=data[offset : offset + CHUNK_BYTES],
            size_bytes=len(data),
            crc=crc,
        )
        self.engine.receive(A, pb.RaftMessage(term=self.term, snapshot_chunk=piece))
        return self.step()

    def step(self) -> int | None:
        self.engine.begin_step().write()
        answers = [
            m.snapshot_result for _, m in self.engine.end_step() if m.HasField("snapshot_result")
        ]
        return answers[-1].next_offset if answers else None


def test_a_snapshot_is_loaded_outside_of_the_engines_steps() -> None:
    follower = Follower()
    data = snapshot_bytes(50, [b"x" * 400_000] * 3)
    offset: int | None = 0
    while offset is not None:
        offset = follower.chunk(data, offset, index=50)
    assert follower.machine.commands == []
    load = follower.engine.take_snapshot()
    assert load is not None
    # It is being loaded: the engine goes on, and says so to who sends it again.
    assert follower.chunk(data, 0, index=50) == BUSY
    load()
    assert follower.machine.commands == []
    assert follower.engine.applied_index < 50
    follower.engine.snapshot_taken()
    assert follower.step() == len(data)
    assert follower.engine.applied_index == 50
    assert len(follower.machine.commands) == 3
    # The answer was lost: it is told again, and nothing is sent again.
    assert follower.chunk(data, 0, index=50) == len(data)
    again = Engine(disk=follower.disk, machine=ListMachine(), config=CONFIG)
    assert again.applied_index == 50


def test_who_votes_by_a_snapshot_is_heard_once_it_is_installed() -> None:
    """Otherwise nothing would go to a voter that joined meanwhile, nor would its vote count."""
    follower = Follower()
    disk = memory_disk()
    store_snapshot(disk, Position(index=50, term=2, voters=frozenset({A, B, C})), [b"state"])
    follower.chunk(disk.read(SNAPSHOT_NAME) or b"", 0, index=50)
    load = follower.engine.take_snapshot()
    assert load is not None
    load()
    follower.engine.snapshot_taken()
    assert follower.engine.voters == {A, B, C}
    assert follower.engine.peers == {A, C}


def test_a_snapshot_of_an_earlier_leader_is_not_taken() -> None:
    follower = Follower()
    learn_term(follower.engine, follower.term + 1)
    assert follower.chunk(snapshot_bytes(50, [b"state"]), 0, index=50) is None
    assert follower.engine.take_snapshot() is None


def test_an_installed_state_is_kept_when_the_log_is_opened_after_an_outage() -> None:
    """It may be large: loading it again would take seconds in which this voter is missing."""
    follower = Follower()
    data = snapshot_bytes(50, [b"one", b"two"])
    follower.chunk(data, 0, index=50)
    load = follower.engine.take_snapshot()
    assert load is not None
    load()
    follower.engine.snapshot_taken()
    follower.step()
    follower.machine.commands.append("not in the snapshot")
    again = Engine(
        disk=follower.disk, machine=follower.machine, config=CONFIG, before=follower.engine
    )
    assert again.applied_index == 50
    assert follower.machine.commands == ["one", "two", "not in the snapshot"]


def test_a_snapshot_that_was_durable_and_not_yet_used_is_used_after_an_outage() -> None:
    """The disk filled up in between: the log begins behind it, so the state must be its own."""
    follower = Follower()
    follower.chunk(snapshot_bytes(50, [b"one", b"two"]), 0, index=50)
    load = follower.engine.take_snapshot()
    assert load is not None
    load()
    assert follower.machine.commands == []
    again = Engine(
        disk=follower.disk, machine=follower.machine, config=CONFIG, before=follower.engine
    )
    assert again.applied_index == 50
    assert follower.machine.commands == ["one", "two"]


def test_a_damaged_snapshot_of_a_leader_is_neither_loaded_nor_acknowledged() -> None:
    """Raft hazard H6."""
    follower = Follower()
    data = bytearray(snapshot_bytes(50, [b"state"]))
    data[-8] ^= 1
    assert follower.chunk(bytes(data), 0, index=50) is None
    load = follower.engine.take_snapshot()
    assert load is not None
    load()
    follower.engine.snapshot_taken()
    assert follower.step() == DAMAGED
    assert follower.engine.applied_index < 50
    whole = snapshot_bytes(50, [b"state"])
    assert follower.chunk(whole, 0, index=50) is None
    load = follower.engine.take_snapshot()
    assert load is not None
    load()
    follower.engine.snapshot_taken()
    assert follower.step() == len(whole)


def test_what_comes_of_a_snapshot_is_synced_in_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync in the loop would stop the whole node for as long as the disk takes."""
    follower = Follower()
    syncs: list[str] = []
    monkeypatch.setattr(follower.disk, "sync", syncs.append)
    data = snapshot_bytes(50, [bytes(500_000)] * 40)
    assert len(data) > 2 * UNSYNCED_BYTES_MAX
    steps_that_sync = 0
    for offset in range(0, len(data) - CHUNK_BYTES, CHUNK_BYTES):
        piece = pb.SnapshotChunk(
            index=50,
            offset=offset,
            data=data[offset : offset + CHUNK_BYTES],
            size_bytes=len(data),
        )
        before = len(syncs)
        follower.engine.receive(A, pb.RaftMessage(term=5, snapshot_chunk=piece))
        step = follower.engine.begin_step()
        assert len(syncs) == before
        step.write()
        follower.engine.end_step()
        steps_that_sync += RECEIVED_NAME in syncs[before:]
    assert steps_that_sync == 2


def test_a_snapshot_that_cannot_be_decoded_ends_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stored first: the node ended at each start."""
    follower = Follower()

    def load(_index: int, _parts: Iterable[bytes]) -> Callable[[], None]:
        raise KeyError("a state of a later release")

    monkeypatch.setattr(follower.machine, "load", load)
    before = follower.disk.read(SNAPSHOT_NAME)
    assert follower.chunk(snapshot_bytes(50, [b"state"]), 0, index=50) is None
    work = follower.engine.take_snapshot()
    assert work is not None
    work()
    follower.engine.snapshot_taken()
    assert follower.step() == DAMAGED
    assert follower.disk.read(SNAPSHOT_NAME) == before


def test_a_disk_that_fails_while_a_snapshot_is_read_is_no_damage_of_the_leaders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The leader would send it again and again, to a disk that can't be read."""
    follower = Follower()

    def load(_index: int, _parts: Iterable[bytes]) -> Callable[[], None]:
        raise OSError(errno.EIO, "asked for")

    monkeypatch.setattr(follower.machine, "load", load)
    before = follower.disk.read(SNAPSHOT_NAME)
    follower.chunk(snapshot_bytes(50, [b"state"]), 0, index=50)
    work = follower.engine.take_snapshot()
    assert work is not None
    with pytest.raises(OSError, match="asked for"):
        work()
    assert follower.disk.read(SNAPSHOT_NAME) == before


class LargeMachine(ListMachine):
    """Has a large state, and notes which threads encode and decode it, in how many parts."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.parts = 0

    def _noted(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            self.threads.add(threading.get_ident())
            self.parts += 1
            yield part

    def freeze(self) -> Callable[[], Iterator[bytes]]:
        encode = super().freeze()
        return lambda: self._noted(encode())

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        return super().load(index, self._noted(parts))


@pytest.mark.asyncio
async def test_large_snapshots_are_made_and_loaded_in_other_threads(tmp_path: Path) -> None:
    command = b"x" * 500_000
    config = replace(FAST, snapshot_entries=STATE_BYTES // len(command), trailing_entries=2)
    async with ReplicaCluster(tmp_path, 3, config, machine=LargeMachine) as cluster:
        leader = await cluster.leader()
        behind = next(h for h in cluster.hosts.values() if h is not leader)
        await behind.stop()
        for _ in range(STATE_BYTES // len(command) + 5):
            await leader.replica.propose(command)
        term = leader.replica.term
        async with asyncio.timeout(15):  # Otherwise what it lacks is in the log still.
            while leader.replica.engine.journal.first_index == 1:
                await asyncio.sleep(0.01)
        await behind.start()
        await cluster.until_equal(len(leader.machine.commands))
        for host in (leader, behind):
            machine = host.machine
            assert isinstance(machine, LargeMachine)
            assert machine.parts > 0.8 * STATE_BYTES / len(command)
            assert threading.get_ident() not in machine.threads
        assert (leader.replica.is_leader, leader.replica.term) == (True, term)


@pytest.mark.asyncio
async def test_a_follower_that_lacks_more_than_a_connection_takes_catches_up(
    tmp_path: Path,
) -> None:
    """All of it was queued at once, so the connection was closed again and again."""
    # The long interval lets a tick send as much as it likes.
    config = RaftConfig(snapshot_entries=1_000_000, snapshot_log_bytes=2**40)
    command = b"x" * 1_000_000
    async with ReplicaCluster(tmp_path, 3, config) as cluster:
        leader = await cluster.leader()
        behind = next(h for h in cluster.hosts.values() if h is not leader)
        await behind.stop()
        for _ in range(2 * config.outbox_bytes_max // len(command)):
            await leader.replica.propose(command)
        term = leader.replica.term
        await behind.start()
        await cluster.until_equal(len(leader.machine.commands))
        assert (leader.replica.is_leader, leader.replica.term) == (True, term)


def test_a_leader_keeps_the_log_behind_a_snapshot_that_it_sends() -> None:
    """Otherwise a follower that loads more slowly than snapshots are made never arrives."""
    disk = memory_disk()
    create_store(disk, A, [A])
    engine = Engine(disk=disk, machine=ListMachine(), config=CONFIG)

    def write(count: int) -> None:
        for number in range(count):
            engine.propose(Proposal(b"%d" % number, lambda _result: None))
            for _ in range(3):
                engine.begin_step().write()
                engine.end_step()
            make = engine.take_snapshot()
            if make is not None:
                make()
                engine.snapshot_taken()

    while not engine.is_leader:
        engine.begin_step().write()
        engine.end_step()
    write(40)
    first = engine.journal.first_index
    assert first > 20
    engine.add_learner(B)
    engine.connected(B, up=True)
    engine._snapshots.offer(B)
    offered = engine._snapshots._installs.offered_index(B)
    assert offered >= first
    write(40)
    assert engine.journal.first_index == offered
    # It is gone: nothing is kept for it.
    engine.connected(B, up=False)
    write(40)
    assert engine.journal.first_index > offered + 20


def test_an_offer_that_nobody_answers_is_made_again_with_the_same_file() -> None:
    from ipfs_cluster_node.adapters.raft.installs import SnapshotInstalls

    sent: list[pb.RaftMessage] = []
    moment = 0.0
    disk = disk_with(snapshot_bytes(50, [b"old"]))
    installs = SnapshotInstalls(
        disk=disk,
        send=lambda _peer, message: sent.append(message),
        clock=lambda: moment,
        size_bytes_max=1000,
    )
    installs.offer(B, log_begins=40)
    disk.replace(SNAPSHOT_NAME, [snapshot_bytes(60, [b"new"])])
    moment += OFFER_IDLE_SECONDS
    installs.offer(B, log_begins=50)
    moment += OFFER_IDLE_SECONDS
    installs.offer(B, log_begins=51)
    assert [message.snapshot_chunk.index for message in sent] == [50, 50, 60]
    assert installs.offered_index(B) == 60
    # What the follower found damaged is sent no more: the newest is, though the log reaches back.
    disk.replace(SNAPSHOT_NAME, [snapshot_bytes(70, [b"newest"])])
    refused = pb.SnapshotResult(index=60, next_offset=DAMAGED)
    assert installs.take_result(B, pb.RaftMessage(term=1, snapshot_result=refused)) is None
    assert installs.offered_index(B) == 0
    installs.offer(B, log_begins=51)
    assert sent[-1].snapshot_chunk.index == 70


def test_the_directory_has_what_a_rename_promises(tmp_path: Path) -> None:
    disk = DirectoryDisk(tmp_path)
    disk.replace("a", [b"old"])
    disk.append("b", b"new")
    disk.rename("b", "a")
    assert (disk.read("a"), disk.read("b")) == (b"new", None)
    disk.remove("b")
    disk.append("b", b"next")
    assert (disk.read("a"), disk.read("b")) == (b"new", b"next")
    disk.close()

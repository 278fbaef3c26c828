"""What a newer release wrote stops an older replica, with the way out; it is never skipped."""

import random
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft import journal, segments, snapshot
from ipfs_cluster_node.adapters.raft.applying import apply_entry
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.proposals import BATCH_ID_BYTES, encode_entry
from ipfs_cluster_node.adapters.raft.restore import read_store
from ipfs_cluster_node.adapters.raft.snapshot import SNAPSHOT_NAME, Position, store_snapshot
from ipfs_cluster_node.adapters.raft.snapshotting import RECEIVED_NAME, Loading
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec import commands
from ipfs_cluster_node.codec.commands import FORMAT, decode_command, encode_command
from ipfs_cluster_node.codec.snapshot import FORMAT as SNAPSHOT_FORMAT
from ipfs_cluster_node.core.commands import ExpireRecords, LogCommand, ProposeConfig
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.log.v1 import command_pb2, snapshot_pb2
from scripts.lib.sim.disk import MemoryDisk
from tests.support.engines import campaign
from tests.support.replicas import ListMachine, ReplicaCluster

A = VoterId("a.1")
NEW_COMMAND_FIELD = 200


def of_a_newer_release() -> bytes:
    """A command that only a newer release knows, as its encoder would make it."""
    tag = NEW_COMMAND_FIELD << 3 | 2
    body = b"\x08\x01"
    field = bytes([tag & 0x7F | 0x80, tag >> 7, len(body)]) + body
    return command_pb2.Command(at_ms=5, caller="did:key:z").SerializeToString() + field


def of_a_newer_format() -> bytes:
    """A known command in which something means something else."""
    known = encode_command(LogCommand(at_ms=1, body=ExpireRecords()))
    message = command_pb2.Command.FromString(known)
    message.format = FORMAT + 1
    return message.SerializeToString()


def store(*entries: bytes) -> MemoryDisk:
    disk = MemoryDisk(random.Random(0))
    create_store(disk, A, [A], first=encode_command(a_setting()))
    log = journal.SegmentedJournal(disk, base_voters=frozenset())
    for entry in entries:
        log.add(journal.REGULAR + entry, log.last_index + 1, 0)
    log.write_and_sync(log.take_pending())
    return disk


def a_setting() -> LogCommand:
    return LogCommand(at_ms=1, body=ProposeConfig(values={"user.a": "1"}, if_values={}))


def batch(*these: bytes) -> bytes:
    return encode_entry(bytes(BATCH_ID_BYTES), list(these))


@pytest.mark.parametrize("newer", [of_a_newer_release, of_a_newer_format])
def test_a_command_of_a_newer_release_stops_the_replica(newer: Callable[[], bytes]) -> None:
    machine = ReplicatedStateMachine()
    with pytest.raises(ClusterError) as raised:
        apply_entry(machine, 5, batch(encode_command(a_setting()), newer()))
    assert raised.value.reason is Reason.RELEASE_TOO_OLD
    assert "install the newer release" in raised.value.message
    assert "nothing is lost" in raised.value.message


@pytest.mark.parametrize("newer", [of_a_newer_release, of_a_newer_format])
def test_an_engine_goes_no_further_than_what_it_can_carry_out(newer: Callable[[], bytes]) -> None:
    disk = store(batch(newer()), batch(encode_command(a_setting())))
    engine = Engine(disk=disk, machine=ReplicatedStateMachine(), config=RaftConfig())
    with pytest.raises(ClusterError) as raised:
        campaign(engine)
        for _ in range(5):
            engine.begin_step().write()
            engine.end_step()
    assert raised.value.reason is Reason.RELEASE_TOO_OLD


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xff\xff",
        command_pb2.Command(at_ms=5).SerializeToString(),
        command_pb2.Command(
            redeem_join_token=command_pb2.RedeemJoinToken(did="nobody", token_id="x")
        ).SerializeToString(),
        command_pb2.Command(
            create_join_token=command_pb2.CreateJoinToken(role="no such role")
        ).SerializeToString(),
    ],
)
def test_a_malformed_command_stops_nobody(hostile: bytes) -> None:
    machine = ReplicatedStateMachine()
    results = apply_entry(machine, 5, batch(hostile, encode_command(a_setting())))
    assert results is not None
    assert len(results) == 2


def test_every_command_is_written_in_a_format_that_this_release_reads() -> None:
    assert decode_command(encode_command(a_setting())) == a_setting()
    assert commands.FORMAT == 0


def test_recover_alone_says_it_too() -> None:
    """Otherwise what the newer release wrote would be lost for good."""
    with pytest.raises(ClusterError) as raised:
        read_store(store(batch(of_a_newer_release())), ReplicatedStateMachine())
    assert raised.value.reason is Reason.RELEASE_TOO_OLD


def with_snapshot(parts: Iterable[bytes]) -> MemoryDisk:
    disk = store()
    store_snapshot(disk, Position(index=3, term=0, voters=frozenset({A})), parts)
    return disk


@pytest.mark.parametrize(
    "part",
    [
        snapshot_pb2.StateSnapshot(format=SNAPSHOT_FORMAT + 1).SerializeToString(),
        b"\xff\xff\xff",
        snapshot_pb2.StateSnapshot(
            tasks=[snapshot_pb2.TaskRecord(task_id="t", state="no such state")]
        ).SerializeToString(),
    ],
)
def test_a_whole_snapshot_that_cant_be_read_is_no_damage(part: bytes) -> None:
    """Damage is repaired by an empty log, which the same release could not fill either."""
    with pytest.raises(ClusterError) as raised:
        Engine(disk=with_snapshot([part]), machine=ReplicatedStateMachine(), config=RaftConfig())
    assert raised.value.reason is Reason.RELEASE_TOO_OLD
    assert not isinstance(raised.value, LogDamagedError)


def test_a_received_snapshot_of_a_newer_release_stops_the_replica() -> None:
    """Refused in silence, it would be sent again for ever."""
    newer = snapshot_pb2.StateSnapshot(format=SNAPSHOT_FORMAT + 1).SerializeToString()
    disk = with_snapshot([newer])
    disk.rename(SNAPSHOT_NAME, RECEIVED_NAME)
    loading = Loading(disk, ReplicatedStateMachine(), sender=VoterId("b.1"), index=3)
    with pytest.raises(ClusterError) as raised:
        loading.run()
    assert raised.value.reason is Reason.RELEASE_TOO_OLD


def test_files_of_another_form_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, magic in ((snapshot, b"ICNSNAP9"), (segments, b"ICNRAFT9")):
        with monkeypatch.context() as patched:
            patched.setattr(module, "MAGIC", magic)
            disk = with_snapshot([])
        with pytest.raises(ClusterError) as raised:
            Engine(disk=disk, machine=ReplicatedStateMachine(), config=RaftConfig())
        assert raised.value.reason is Reason.RELEASE_TOO_OLD


def test_a_broken_head_is_damage() -> None:
    disk = with_snapshot([])
    [segment] = [name for name in disk.names() if name.startswith(segments.SEGMENT_PREFIX)]
    data = bytearray(disk.read(segment) or b"")
    data[7] ^= 1
    disk.replace(segment, [bytes(data)])
    with pytest.raises(LogDamagedError):
        Engine(disk=disk, machine=ReplicatedStateMachine(), config=RaftConfig())
    salt = struct.unpack_from("<I", data, 8)[0]
    assert zlib.crc32(bytes(data[:8]), salt) != struct.unpack_from("<I", data, 12)[0]


class OlderMachine(ListMachine):
    def apply(self, index: int, command: bytes) -> object:
        if command == b"newer":
            raise ClusterError(Reason.RELEASE_TOO_OLD, "install the newer release")
        return super().apply(index, command)


@pytest.mark.asyncio
async def test_an_older_replica_stops_and_the_newer_ones_go_on(tmp_path: Path) -> None:
    async with ReplicaCluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        old = next(host for host in cluster.hosts.values() if host is not leader)
        await old.stop()
        cluster.machine = OlderMachine
        await old.start()
        await leader.replica.propose(b"newer")
        with pytest.raises(ClusterError, match="install the newer release"):
            await old.task
        await leader.replica.propose(b"after")
        await cluster.until_equal(2)
        assert leader.machine.commands == ["newer", "after"]
        assert "after" not in old.machine.commands
        await old.server.stop(None)

"""A backup is the state at its beginning; only one runs at a time, and in little memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.client import backup as receiving
from ipfs_cluster_node.cluster.backups import CHUNK_BYTES_MAX, Backups, chunks
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.output_file import output_file
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.commands import ProposeConfig, RegisterNode, SubmitTasks
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import MIB, TaskSpec
from ipfs_cluster_node.core.settings import DELETION_PAUSED
from ipfs_cluster_node.disaster.restore import restore_cluster
from ipfs_cluster_node.node.setup import init_cluster
from tests.support.nodes import until
from tests.support.replicas import FAST
from tests.support.virtual_time import now_ms

PASSPHRASE = "a passphrase of the tests"
TASKS = 6


@dataclass
class Master:
    """A master's log and what stands on it, without a port."""

    machine: ReplicatedStateMachine
    consensus: Consensus
    backups: Backups


@pytest_asyncio.fixture
async def master(tmp_path: Path) -> AsyncIterator[Master]:
    home = Home(tmp_path / "home")
    settings = NodeSection(name="first", role="master")
    made = init_cluster(home, settings, cluster_name="one", recovery_passphrase=PASSPHRASE)
    machine = ReplicatedStateMachine()
    replica = Replica(directory=home.raft, machine=machine, dial=lambda _node_id: None, config=FAST)
    peers = PeerBook(home.masters)
    consensus = Consensus(made.node_id, peers=peers, now_ms=now_ms)
    consensus.use_log(machine, replica)
    backups = Backups(consensus)
    with pytest.raises(ClusterError) as caught:
        await anext(backups.create_backup())
    assert caught.value.reason is Reason.NO_LEADER
    running = asyncio.create_task(replica.run())
    try:

        async def leads() -> bool:
            return replica.leads_for_sure

        await until(leads, seconds=10, what="it leads")
        register = RegisterNode(
            node_id=made.node_id, endpoints=(), task_types=("t",), slot_count=1, version=""
        )
        await consensus.propose(register)
        for number in range(TASKS):
            spec = TaskSpec(task_type="t", payload=bytes([number]) * MIB)
            await consensus.propose(
                SubmitTasks(task_ids=(TaskId(f"t{number}"),), specs=(spec,), fingerprint=b"")
            )
        yield Master(machine, consensus, backups)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.mark.asyncio
async def test_a_backup_is_what_was_there_when_it_began(master: Master, tmp_path: Path) -> None:
    sizes: list[int] = []

    async def later() -> AsyncIterator[bytes]:
        async for chunk in master.backups.create_backup():
            assert 0 < len(chunk) <= CHUNK_BYTES_MAX
            if not sizes:
                await master.consensus.propose(ProposeConfig(values={"user.later": "x"}))
            yield chunk

    path = tmp_path / "backup"
    with output_file(path, private=True, whole=True) as file:
        written = await receiving.receive(later(), file, sizes.append)
    assert sizes == sorted(sizes)
    assert written.size_bytes == sizes[-1] == path.stat().st_size > TASKS * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    restored = Home(tmp_path / "restored")
    settings = NodeSection(name="second", role="master")
    restore_cluster(restored, settings, backup=path, passphrase=PASSPHRASE)
    replica = Replica(
        directory=restored.raft,
        machine=(machine := ReplicatedStateMachine()),
        dial=_nobody,
        config=FAST,
    )
    assert replica.position().index == written.index
    assert machine.state.settings[DELETION_PAUSED] == 1
    assert [task.spec.payload[:1] for task in machine.state.tasks] == [
        bytes([n]) for n in range(TASKS)
    ]
    assert "user.later" not in machine.state.settings.changed


def _nobody(_node_id: Any) -> grpc.aio.Channel | None:
    return None


@pytest.mark.asyncio
async def test_one_is_made_at_a_time_and_one_that_is_broken_off_makes_room(master: Master) -> None:
    first = master.backups.create_backup()
    await anext(first)
    with pytest.raises(ClusterError) as caught:
        await anext(master.backups.create_backup())
    assert caught.value.reason is Reason.OVERLOADED
    await first.aclose()  # type: ignore[attr-defined]
    count = 0
    async for _ in master.backups.create_backup():
        count += 1
    assert count > TASKS
    # One that ended makes room as well.
    await anext(master.backups.create_backup())


@pytest.mark.asyncio
async def test_what_came_short_or_broken_leaves_no_file(master: Master, tmp_path: Path) -> None:
    whole = [chunk async for chunk in master.backups.create_backup()]
    path = tmp_path / "backups" / "file"
    path.parent.mkdir()
    path.write_bytes(b"an older one")

    async def coming(given: list[bytes], error: Exception | None = None) -> AsyncIterator[bytes]:
        for chunk in given:
            yield chunk
        if error is not None:
            raise error

    async def receive(chunks: AsyncIterator[bytes]) -> None:
        with output_file(path, force=True, private=True, whole=True) as file:
            await receiving.receive(chunks, file, lambda _size: None)

    flipped = [whole[0], whole[1][:-1] + bytes([whole[1][-1] ^ 1]), *whole[2:]]
    for given in ([], whole[:-1], [*whole, b"x"], flipped):
        with pytest.raises(ClusterError, match="incomplete"):
            await receive(coming(given))
    with pytest.raises(ConnectionError):
        await receive(coming(whole[:3], ConnectionError()))
    assert path.read_bytes() == b"an older one"
    assert list(path.parent.iterdir()) == [path]
    await receive(coming(whole))
    assert path.read_bytes() == b"".join(whole)


def test_chunks_are_the_same_bytes_and_taken_as_they_are_needed() -> None:
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        for size in (1, CHUNK_BYTES_MAX, 0, 3 * CHUNK_BYTES_MAX, 5):
            taken += 1
            yield bytes([taken]) * size

    made = chunks(pieces())
    first = next(made)
    assert taken == 2
    assert len(first) == CHUNK_BYTES_MAX
    rest = list(made)
    assert [len(each) for each in rest] == [*[CHUNK_BYTES_MAX] * 3, 6]
    assert first + b"".join(rest) == b"".join(
        bytes([n]) * size
        for n, size in enumerate((1, CHUNK_BYTES_MAX, 0, 3 * CHUNK_BYTES_MAX, 5), start=1)
    )

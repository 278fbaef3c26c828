"""A replica's snapshots, and its end, under a simulated clock."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.witness import NOTE_NAME
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import VoterId
from tests.support.memory_replicas import (
    MakeCluster,
    MemoryCluster,
    MemoryHost,
    hello,
    node,
    reason_of,
    stream_of,
    until,
)
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_a_snapshot_is_made_beside_the_steps(made: MakeCluster) -> None:
    async with made(snapshot_entries=10, trailing_entries=2) as cluster:
        leader = await cluster.leader()
        for number in range(30):
            await leader.replica.propose(b"%d" % number)
        await until(lambda: leader.replica.engine.journal.first_index > 10)
        assert (leader.directory / "snapshot").stat().st_size > 100


@virtual_time
async def test_a_node_that_stops_waits_for_the_snapshot_that_it_makes(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread can't be stopped, and would write into a store that another process has."""
    goes_on = asyncio.Event()
    steps: list[str] = []

    async def in_a_slow_thread(make: Callable[[], None]) -> None:
        steps.append("begun")
        await goes_on.wait()
        make()
        steps.append("made")

    async with made(1, snapshot_entries=10) as cluster:
        host = await cluster.leader()
        with monkeypatch.context() as patch:
            patch.setattr("asyncio.to_thread", in_a_slow_thread)
            await asyncio.gather(*(host.replica.propose(b"x") for _ in range(4)))
            for _ in range(12):
                await host.replica.propose(b"x")
            stopping = asyncio.ensure_future(host.stop())
            await asyncio.sleep(1)
            assert steps == ["begun"]
            assert not stopping.done()
            assert ("writer", "stops") not in host.trace
            goes_on.set()
            await stopping
            assert steps == ["begun", "made"]
            assert host.trace[-1] == ("writer", "stops")


@virtual_time
async def test_a_node_that_stops_answers_who_waits_and_refuses_the_rest(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        for host in cluster.others(leader):
            host.write_seconds = 100.0
        under_way = asyncio.ensure_future(leader.replica.propose(b"one"))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(leader.replica.propose(b"two"))
        await asyncio.sleep(0.1)
        tasks = [task for _, task in leader.replica._links.values()]
        await leader.stop()
        assert await reason_of(under_way) is Reason.UNKNOWN_OUTCOME
        assert await reason_of(waiting) is Reason.SHUTTING_DOWN
        assert await reason_of(leader.replica.propose(b"three")) is Reason.SHUTTING_DOWN
        for call in (
            leader.replica.add_voter(VoterId("x.1")),
            leader.replica.remove_voter(VoterId("x.1")),
            leader.replica.transfer_leadership(VoterId("x.1")),
        ):
            assert await reason_of(call) is Reason.SHUTTING_DOWN
        assert not leader.replica.is_leader
        assert not leader.replica.leads_for_sure
        assert all(task.done() for task in tasks)
        assert leader.trace[-1] == ("writer", "stops")
        answers = leader.replica.exchange(node("n9"), stream_of(hello("n9.1")))
        assert await reason_of(anext(answers)) is Reason.SHUTTING_DOWN
        beats = [task for task in asyncio.all_tasks() if task.get_name() == "raft-beat"]
        assert len(beats) == 2  # The others'.


@virtual_time
@pytest.mark.parametrize("writer_ended", [True, False])
async def test_a_node_that_stops_notes_what_it_knows_unless_its_writer_still_writes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer_ended: bool,  # noqa: FBT001
) -> None:
    """A disk that hangs: what its thread writes would be mixed with the note."""
    cluster = MemoryCluster(tmp_path, monkeypatch, count=1)
    [host] = cluster.hosts.values()
    host.writer_ends = writer_ended
    notes = tmp_path / "notes"
    host.replica._notes = notes
    host.replica.engine.close()
    host.replica.engine = host.replica._open(_disk(host))
    async with cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        before = (notes / NOTE_NAME).read_bytes()
        await leader.stop()
    if not writer_ended:
        assert (notes / NOTE_NAME).read_bytes() == before
        leader.replica.engine.close()
        return
    again = host.replica._open(_disk(host))
    assert again.mark_of(host.voter).index == leader.replica.commit_index
    again.close()


def _disk(host: MemoryHost) -> Any:

    return DirectoryDisk(host.directory)

"""A replica whose log can't be written: how long it waits between attempts, and what ends it."""

import asyncio
import errno
import itertools
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.journal import SegmentedJournal
from ipfs_cluster_node.adapters.raft.outages import PROBE_NAME, STEADY_SECONDS, Outage
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from tests.support.memory_replicas import (
    MakeCluster,
    MemoryCluster,
    MemoryHost,
    Stream,
    reason_of,
    until,
)
from tests.support.virtual_time import REAL_WAIT_SECONDS_MAX, virtual_time

FULL = OSError(errno.ENOSPC, "asked for")


def lacks_a_snapshot(host: MemoryHost) -> bool:
    return host.replica.snapshot_outage is not None


class Outages:
    """Outages of one replica, one after the other, each over at the n-th attempt."""

    def __init__(self, host: MemoryHost, patch: pytest.MonkeyPatch) -> None:
        self._host, self._left = host, 0
        self._at: list[float] = []
        reopened = Replica._reopened

        def attempt(replica: Replica) -> Engine:
            self._at.append(now())
            self._left -= 1
            if self._left > 0:
                raise FULL
            host.disk_error = None
            return reopened(replica)

        patch.setattr(Replica, "_reopened", attempt)

    async def pauses(self, attempts: int) -> list[float]:
        self._at.clear()
        self._left, self._host.disk_error = attempts, FULL
        with pytest.raises(ClusterError):
            await self._host.replica.propose(b"one")
        began = now()
        await until(lambda: self._host.replica.failed is None, seconds=100)
        await until(lambda: self._host.replica.leads_for_sure)
        times = [began, *self._at]
        return [round(b - a, 1) for a, b in itertools.pairwise(times)]


@virtual_time
async def test_attempts_come_ever_more_seldom_up_to_a_bound_and_begin_again_after_a_steady_time(
    tmp_path: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.virtual_time.VIRTUAL_SECONDS_MAX", 1000.0)
        async with MemoryCluster(tmp_path, patch, count=1, config=RaftConfig()) as cluster:
            host = await cluster.leader()
            outages = Outages(host, patch)
            host.replica.snapshot_outage = Outage(FULL, since=0.0)
            assert await outages.pauses(2) == [1.0, 2.0]
            assert not lacks_a_snapshot(host)  # It is tried again as well.
            # One soon after it goes on with its pauses: it is the same disk.
            assert await outages.pauses(4) == [4.0, 8.0, 15.0, 15.0]
            await asyncio.sleep(STEADY_SECONDS)
            assert await outages.pauses(2) == [1.0, 2.0]


@virtual_time
@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EIO, "asked for"), OSError(errno.EROFS, "asked for")]
)
async def test_after_what_may_have_lost_something_nothing_is_served(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with MemoryCluster(tmp_path, patch, count=1, config=RaftConfig()) as cluster:
            host = await cluster.leader()
            host.disk_error = error  # type: ignore[assignment]
            with pytest.raises(ClusterError) as caught:
                await host.replica.propose(b"one")
            assert caught.value.reason is Reason.UNKNOWN_OUTCOME
            assert host.task is not None
            with pytest.raises(ClusterError, match="restart the node") as caught:
                async with asyncio.timeout(5):
                    await host.task
            assert caught.value.reason is Reason.LOG_STORAGE_FAILED
            with pytest.raises(ClusterError) as caught:
                await host.replica.propose(b"two")
            assert caught.value.reason is Reason.LOG_STORAGE_FAILED


@virtual_time
async def test_attempts_in_vain_use_up_no_descriptors(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        async with MemoryCluster(tmp_path, patch, count=1, config=RaftConfig()) as cluster:
            host = await cluster.leader()
            open_at: list[int] = []

            def fails(_disk: DirectoryDisk, _name: str) -> None:
                open_at.append(len(list(Path("/proc/self/fd").iterdir())))
                raise FULL

            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(DirectoryDisk, "sync", fails)
                with pytest.raises(ClusterError):
                    await host.replica.propose(b"one")
                await asyncio.sleep(40)
            assert len(open_at) >= 4
            assert max(open_at) == open_at[0]
            await until(lambda: host.replica.failed is None, seconds=30)


@virtual_time
@pytest.mark.parametrize(("number", "goes_on"), [(errno.ENOSPC, True), (errno.EIO, False)])
async def test_a_snapshot_without_room_is_waited_for_and_a_failed_disk_is_not(
    tmp_path: Path, number: int, *, goes_on: bool
) -> None:
    config = RaftConfig(snapshot_entries=10, trailing_entries=1)

    def fails(*_: object) -> None:
        raise OSError(number, "asked for")

    with pytest.MonkeyPatch.context() as patch:
        async with MemoryCluster(tmp_path, patch, count=1, config=config) as cluster:
            host = await cluster.leader()
            assert host.task is not None
            patch.setattr("ipfs_cluster_node.adapters.raft.snapshotting.store_snapshot", fails)
            for _ in range(16):
                with suppress(ClusterError):
                    await host.replica.propose(b"x")
                    await asyncio.sleep(0.1)
            assert host.task.done() != goes_on
            if goes_on:
                assert lacks_a_snapshot(host)
                assert host.replica.failed is None
            else:
                with pytest.raises(ClusterError, match="asked for"):
                    async with asyncio.timeout(5):
                        await host.task


@virtual_time
async def test_a_leader_hears_at_once_that_it_leads_no_longer_as_its_disk_fails(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        changes: list[tuple[bool, int]] = []
        leader.replica.on_leadership = lambda leads, term: changes.append((leads, term))
        term = leader.replica.term
        leader.disk_error = FULL
        assert await reason_of(leader.replica.propose(b"one")) is Reason.UNKNOWN_OUTCOME
        assert changes == [(False, term)]


@virtual_time
async def test_what_no_disk_mends_ends_the_node(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        leader.disk_error = OSError(5, "input/output error")
        waiting = asyncio.ensure_future(leader.replica.propose(b"one"))
        assert leader.task is not None
        assert await reason_of(leader.task) is Reason.LOG_STORAGE_FAILED
        assert await reason_of(waiting) is Reason.UNKNOWN_OUTCOME
        assert await reason_of(leader.replica.propose(b"two")) is Reason.LOG_STORAGE_FAILED
        assert not leader.replica.is_leader
        await (await cluster.leader(but=leader)).replica.propose(b"three")


@virtual_time
async def test_what_came_before_an_outage_is_not_taken_and_uses_up_no_room_after_it(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Engine, "receive", lambda _self, _from, it: taken.append(it.term))
    async with made(1, inbox_bytes_max=1000) as cluster:
        host = await cluster.leader()
        before = await Stream(host, "x.1").opened()
        host.write_seconds, host.disk_error = 0.3, OSError(errno.ENOSPC, "asked for")
        waiting = asyncio.ensure_future(host.replica.propose(b"one"))
        await until(lambda: host.trace[-1] == ("write", "begins"))
        chunk = pb.SnapshotChunk(data=bytes(2000))
        before.say(pb.RaftMessage(term=1, snapshot_chunk=chunk))
        assert await reason_of(waiting) is Reason.UNKNOWN_OUTCOME
        await before.close()
        host.write_seconds, host.disk_error = 0.001, None
        await until(lambda: host.replica.failed is None)
        assert not (host.directory / PROBE_NAME).exists()
        (await Stream(host, "x.1").opened()).say(pb.RaftMessage(term=2, snapshot_chunk=chunk))
        await asyncio.sleep(0.5)
        assert taken == [2]
        assert host.replica._inbox_bytes == 0


@virtual_time
async def test_after_an_outage_a_follower_acknowledges_over_new_links(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower, other = cluster.others(leader)
        before = [link for link, _ in follower.replica._links.values()]
        follower.disk_error = FULL
        await leader.replica.propose(b"one")
        await until(lambda: follower.replica.outage is not None)
        follower.disk_error = None
        await until(lambda: follower.replica.failed is None)
        await other.stop()
        assert await leader.replica.propose(b"two") == (2, "two")  # By this one.
        after = [link for link, _ in follower.replica._links.values()]
        assert not any(link in before for link in after)


@virtual_time
async def test_a_log_that_still_cant_be_written_is_not_said_to_be(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be room for another file, and none in the log: it would flap."""
    async with made(1) as cluster:
        leader = await cluster.leader()
        full = OSError(errno.ENOSPC, "no space left on device")

        def fails(_journal: SegmentedJournal, pending: Any) -> None:
            if pending.records:
                raise full

        with monkeypatch.context() as patch:
            patch.setattr(SegmentedJournal, "write_and_sync", fails)
            assert await reason_of(leader.replica.propose(b"one")) is Reason.UNKNOWN_OUTCOME
            outage = leader.replica.outage
            assert outage is not None
            for _ in range(100):
                await asyncio.sleep(0.1)
                still = leader.replica.outage
                assert still is not None
                assert still.since == outage.since
        await until(lambda: leader.replica.leads_for_sure)
        await leader.replica.propose(b"two")


@virtual_time
async def test_a_disk_that_fails_for_good_while_it_is_full_ends_the_wait(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with made(1) as cluster:
        leader = await cluster.leader()
        leader.disk_error = OSError(errno.ENOSPC, "no space left on device")
        assert await reason_of(leader.replica.propose(b"one")) is Reason.UNKNOWN_OUTCOME

        def fails(*_: object) -> None:
            raise OSError(errno.EIO, "input/output error")

        monkeypatch.setattr(DirectoryDisk, "replace", fails)
        assert leader.task is not None
        async with asyncio.timeout(5):
            assert await reason_of(leader.task) is Reason.LOG_STORAGE_FAILED
        refused = leader.replica.failed
        assert refused is not None
        assert "restart the node" in refused.message


@virtual_time
async def test_a_log_that_is_opened_again_while_its_replica_stops_is_closed(
    made: MakeCluster,
) -> None:
    """Its thread can't be stopped; the log could be opened a second time beside it."""
    async with made(1) as cluster:
        host = await cluster.leader()
        reopened, opened, goes_on = Replica._reopened, list[Engine](), threading.Event()
        closed: list[Engine] = []
        loop, began = asyncio.get_running_loop(), asyncio.Event()

        def slow(replica: Replica) -> Engine:
            host.disk_error = None
            loop.call_soon_threadsafe(began.set)
            goes_on.wait(REAL_WAIT_SECONDS_MAX)
            opened.append(reopened(replica))
            opened[0].close = lambda: closed.append(opened[0])  # type: ignore[method-assign]
            return opened[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Replica, "_reopened", slow)
            host.disk_error = FULL
            assert await reason_of(host.replica.propose(b"one"))
            await began.wait()
            stopped = asyncio.create_task(host.stop())
            await asyncio.sleep(0)
            goes_on.set()
            await stopped
        assert opened
        assert closed == opened

"""A replica whose log can't be written: how long it waits between attempts, and what ends it."""

import asyncio
import errno
import itertools
from contextlib import suppress
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.outages import STEADY_SECONDS, Outage
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.memory_replicas import MemoryCluster, MemoryHost, until
from tests.support.virtual_time import virtual_time

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
            with pytest.raises(ClusterError, match="start the node again") as caught:
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
                    await host.task

"""A worker that is told to stop: its attempts do not count as lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.model import TaskState
from tests.support.clusters import cluster_of

pytestmark = pytest.mark.asyncio

LONG = "SELECT count(*) FROM range(100000000000) a"
SHORT = "SELECT count(*) FROM range({}) a WHERE hash(range) % 7 = 3"
WAIT = timedelta(seconds=60)


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with cluster_of(1, 2) as local:
        yield local


def node_of(cluster: LocalCluster, node_id: str | None) -> LocalNode:
    return next(node for node in cluster.nodes if node.node_id == node_id)


async def running(client: Client, task_id: str, *, since_attempt: int) -> str:
    """The node that runs the task, once it is this attempt or a later one."""
    async with asyncio.timeout(20):
        while True:
            task = await client.get_task(task_id)
            if task.status.state is TaskState.RUNNING and task.status.attempt >= since_attempt:
                assert task.status.node_id is not None
                return task.status.node_id
            await asyncio.sleep(0.02)


async def test_a_worker_that_is_told_to_stop_hands_its_attempts_back_at_once(
    cluster: LocalCluster,
) -> None:
    """Found by a tester: its tasks waited for its lease to end, and went to the end of the queue."""
    async with cluster.client() as client:
        task_id = await client.submit_task("data_processing", {"sql": LONG})
        first = node_of(cluster, await running(client, task_id, since_attempt=1))
        assert first.process is not None
        began = time.monotonic()
        first.process.terminate()
        second = await running(client, task_id, since_attempt=2)
        assert second != first.node_id
        assert time.monotonic() - began < 4.0, "no sooner than its lease of 5 s would have ended"
        await first.process.wait()
        assert first.process.returncode == 0
        await client.cancel_task(task_id)


async def test_a_worker_that_drains_lets_its_attempt_end_unless_it_is_told_twice(
    cluster: LocalCluster,
) -> None:
    async with cluster.client() as client:
        for worker in (node for node in cluster.nodes if node.role == "worker"):
            await cluster.kill(worker)
            worker.arguments = ("--drain", "30s")
            await cluster.start_node(worker)
        task_id = await client.submit_task("data_processing", {"sql": SHORT.format(600_000_000)})
        drained = node_of(cluster, await running(client, task_id, since_attempt=1))
        assert drained.process is not None
        drained.process.terminate()
        ended = (await client.wait_tasks([task_id], timeout=WAIT))[task_id]
        assert (ended.status.state, ended.status.attempt, ended.status.node_id) == (
            TaskState.SUCCEEDED,
            1,
            drained.node_id,
        )
        async with asyncio.timeout(10):
            await drained.process.wait()
        task_id = await client.submit_task("data_processing", {"sql": LONG})
        other = node_of(cluster, await running(client, task_id, since_attempt=1))
        assert other.process is not None
        other.process.terminate()
        await asyncio.sleep(1.0)
        assert other.runs
        other.process.terminate()
        async with asyncio.timeout(10):
            await other.process.wait()

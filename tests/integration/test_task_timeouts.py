"""No task waits for ever: its time from submission ends, whether it runs or not."""

from datetime import timedelta

import pytest

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TASK_TIMEOUT_MS_DEFAULT, TaskState
from tests.support.clusters import cluster_of
from tests.support.nodes import until

SOON = timedelta(seconds=30)
SHORT = timedelta(seconds=2)
ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"


@pytest.mark.asyncio
async def test_the_time_from_submission_ends_what_runs_and_what_nobody_takes() -> None:
    async with cluster_of(1, 1) as cluster, cluster.client() as client:
        running = await client.submit_task("data_processing", {"sql": ENDLESS}, task_timeout=SHORT)
        ended = (await client.wait_tasks([running], timeout=SOON))[running]
        assert ended.status.failure is not None
        assert ended.status.failure.reason is Reason.TASK_TIMED_OUT
        assert ended.status.attempt == 1
        assert 2000 <= ended.status.finished_at_ms - ended.status.submitted_at_ms < 6000
        # Its process is gone: the slots are free.
        other = await client.submit_task("echo", b"1")
        default = (await client.wait_tasks([other], timeout=SOON))[other]
        assert default.status.state is TaskState.SUCCEEDED
        assert default.spec.task_timeout_ms == TASK_TIMEOUT_MS_DEFAULT

        worker = next(node for node in cluster.nodes if node.role == "worker")
        await cluster.kill(worker)

        async def is_dead() -> bool:
            return any(node.liveness == "dead" for node in await client.list_nodes())

        await until(is_dead, seconds=30, what="the worker is dead")
        waiting = await client.submit_task("echo", task_timeout=SHORT)
        ended = (await client.wait_tasks([waiting], timeout=SOON))[waiting]
        assert ended.status.failure is not None
        assert ended.status.failure.reason is Reason.TASK_TIMED_OUT
        assert "no worker that is alive has a handler for 'echo'" in ended.status.failure.message
        assert ended.status.attempt == 0

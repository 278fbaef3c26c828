"""The leader finds tasks whose time is over, if its clock is trusted."""

import asyncio
from typing import Any

import pytest

from ipfs_cluster_node.cluster import task_timeouts
from ipfs_cluster_node.cluster.task_timeouts import TaskTimeouts
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import TaskSpec, TaskState
from ipfs_cluster_node.core.state import ClusterState
from tests.support.virtual_time import run_virtual
from tests.support.worlds import World


class Leader:
    """Consensus of one, whose clock is the world's."""

    def __init__(self) -> None:
        self.world = World()
        self.is_leader = True
        self.trusted = True
        self.proposed: list[c.TimeOutTasks] = []

    def leader_state(self) -> ClusterState:
        return self.world.state

    def now_ms(self) -> int:
        return self.world.now_ms

    async def propose(self, body: Any) -> tuple[str, ...]:
        self.proposed.append(body)
        self.world.do(body)
        return ()

    def check_clock(self) -> None:
        if not self.trusted:
            raise ClusterError(Reason.CLOCK_OFF, "it is wrong")


async def passes(leader: Any, seconds: float) -> None:
    running = asyncio.create_task(TaskTimeouts(leader, leader.check_clock).run())
    await asyncio.sleep(seconds)
    running.cancel()


def test_tasks_time_out_in_commands_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_timeouts, "TIMED_OUT_COUNT_MAX", 2)

    async def run() -> None:
        leader = Leader()
        spec = TaskSpec(task_type="echo", task_timeout_ms=1000)
        leader.world.submit("a", "b", "c", spec=spec)
        await passes(leader, 3)
        assert leader.proposed == []
        leader.world.now_ms += 2000
        await passes(leader, 1)
        assert [len(body.task_ids) for body in leader.proposed] == [2, 1]
        assert {task.state for task in leader.world.state.tasks} == {TaskState.FAILED}
        await passes(leader, 3)
        assert len(leader.proposed) == 2

    run_virtual(run())


def test_nothing_times_out_by_a_clock_that_is_not_trusted_or_at_a_follower() -> None:
    async def run() -> None:
        leader = Leader()
        leader.world.submit("a", spec=TaskSpec(task_type="echo", task_timeout_ms=1000))
        leader.world.now_ms += 2000
        leader.trusted = False
        await passes(leader, 3)
        leader.trusted, leader.is_leader = True, False
        await passes(leader, 3)
        assert leader.proposed == []
        leader.is_leader = True
        await passes(leader, 1)
        assert len(leader.proposed) == 1

    run_virtual(run())

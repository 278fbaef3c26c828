"""Watches of tasks: what wakes them, and what ends them."""

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest

from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import Task, TaskSpec, TaskState
from tests.support.dispatch import MemoryConsensus
from tests.support.virtual_time import monotonic, now_ms, virtual_time
from tests.support.worlds import CLIENT, DAY_MS, World


class Watched:
    """A leader with tasks `a` and `b`, both watched."""

    def __init__(self) -> None:
        self.world = World()
        self.leader = MemoryConsensus(self.world.state)
        self.tasks = Tasks(self.leader, Observations(monotonic))  # type: ignore[arg-type]
        self.leader.watchers.append(self.tasks.on_change)
        self.submit("a", "b")
        self.watch = self.tasks.watch_tasks([TaskId("a"), TaskId("b")])

    def submit(self, *names: str) -> None:
        body = c.SubmitTasks(
            task_ids=tuple(map(TaskId, names)),
            specs=(TaskSpec(task_type="echo"),) * len(names),
            fingerprint=b"",
        )
        self.leader.commit(body, caller=CLIENT)

    def cancel(self, name: str) -> None:
        self.leader.commit(c.CancelTask(task_id=TaskId(name)))

    async def next(self) -> dict[str, TaskState]:
        batch: list[Task] = await asyncio.wait_for(anext(self.watch), 1)
        return {task.task_id: task.state for task in batch}

    async def is_silent(self) -> bool:
        """Whether nothing comes for a while; ends the watch."""
        try:
            await self.next()
        except TimeoutError:
            return True
        return False


RUNNING = {"a": TaskState.PENDING, "b": TaskState.PENDING}


@virtual_time
async def test_a_watch_tells_what_changed_and_ends_with_its_last_task() -> None:
    its = Watched()
    assert await its.next() == RUNNING
    waiting = asyncio.ensure_future(its.next())
    await asyncio.sleep(0.1)
    its.submit("other")
    its.cancel("b")
    its.cancel("other")
    assert await waiting == {"b": TaskState.CANCELLED}
    its.cancel("a")
    assert await its.next() == {"a": TaskState.CANCELLED}
    with pytest.raises(StopAsyncIteration):
        await its.next()


@virtual_time
async def test_a_watch_goes_on_when_one_of_its_tasks_that_ended_is_forgotten() -> None:
    its = Watched()
    its.cancel("a")
    assert await its.next() == RUNNING | {"a": TaskState.CANCELLED}
    its.world.state.judged_at_ms = now_ms() + 8 * DAY_MS
    its.leader.commit(c.ExpireRecords(goes_on=True))
    assert its.world.state.tasks.get(TaskId("a")) is None
    its.cancel("b")
    assert await its.next() == {"b": TaskState.CANCELLED}


@virtual_time
async def test_after_a_reset_a_watch_tells_each_task_again() -> None:
    its = Watched()
    await its.next()
    its.tasks.on_progress(TaskId("a"), 0.5, "half")
    await its.next()
    its.tasks.on_change(9, None)
    assert its.tasks.progress == {}
    assert await its.next() == RUNNING


@virtual_time
async def test_a_watch_ends_when_the_leadership_is_lost() -> None:
    its = Watched()
    await its.next()
    waiting = asyncio.ensure_future(its.next())
    await asyncio.sleep(0.1)
    its.leader.is_leader = False
    its.tasks.on_leadership(False)
    with pytest.raises(ClusterError) as raised:
        await waiting
    assert raised.value.reason is Reason.NOT_LEADER


@virtual_time
async def test_a_watch_of_a_node_that_leads_again_at_once_tells_nothing_of_other_tasks() -> None:
    its = Watched()
    await its.next()
    other = its.tasks.watch_tasks([TaskId("a")])
    await anext(other)
    its.tasks.on_leadership(False)
    its.tasks.on_leadership(True)
    assert await its.is_silent()


@virtual_time
async def test_progress_is_told_until_the_task_changes() -> None:
    its = Watched()
    await its.next()
    its.tasks.on_progress(TaskId("a"), 0.5, "half")
    assert await its.next() == {"a": TaskState.PENDING}
    assert its.tasks.progress == {"a": (0.5, "half")}
    its.cancel("a")
    assert its.tasks.progress == {}


@virtual_time
async def test_a_watch_that_ends_leaves_others_of_its_tasks_to_go_on() -> None:
    its = Watched()
    await its.next()
    async with aclosing(cast("Any", its.tasks.watch_tasks([TaskId("a")]))) as other:
        await anext(other)
    waiting = asyncio.ensure_future(its.next())
    await asyncio.sleep(0.1)
    its.cancel("a")
    assert await waiting == {"a": TaskState.CANCELLED}

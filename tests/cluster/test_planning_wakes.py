"""When the leader plans: only after a change, and only with workers."""

import asyncio

import pytest

from ipfs_cluster_node.core.tables import TableName
from ipfs_cluster_node.core.tasks import TaskTable
from tests.support.dispatch import until
from tests.support.sessions import leading
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_an_assignment_is_followed_by_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[None] = []
    pending = TaskTable.pending

    def counted(table: TaskTable):  # type: ignore[no-untyped-def]
        plans.append(None)
        return pending(table)

    async with leading() as its:
        worker = await its.worker(credit=5)
        await asyncio.sleep(1)
        monkeypatch.setattr(TaskTable, "pending", counted)
        its.submit(1)
        await until(lambda: len(worker.assigned) == 1)
        await asyncio.sleep(1)
        assert len(plans) == 2


@virtual_time
async def test_what_changed_leads_to_a_plan_only_where_there_are_workers() -> None:
    async with leading() as its:
        tasks = {TableName.TASKS: {"t"}}
        its.sessions.on_change(1, tasks)
        its.sessions.on_change(2, None)
        assert not its.sessions.wake.is_set()
        await its.worker()
        await asyncio.sleep(1)
        its.sessions.on_change(3, {TableName.SETTINGS: {"user.a"}})
        assert not its.sessions.wake.is_set()
        its.sessions.on_change(4, tasks)
        assert its.sessions.wake.is_set()
        await asyncio.sleep(1)
        assert not its.sessions.wake.is_set()
        its.sessions.on_change(5, None)
        assert its.sessions.wake.is_set()

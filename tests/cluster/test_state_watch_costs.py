"""What watches keep, and what those without changes do."""

import asyncio
import gc
import time
import tracemalloc
from contextlib import aclosing
from typing import Any

import pytest

from ipfs_cluster_node.access.turns import set_turn
from ipfs_cluster_node.cluster.state_changes import StateChanges
from ipfs_cluster_node.cluster.state_watches import KEYS_PER_FRAME
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.changes import SORTED_AT_ONCE, Changes
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.members import MemberTable
from ipfs_cluster_node.core.state_events import Bookmark, Deletions, Rows, WatchedTable
from ipfs_cluster_node.core.tasks import TaskTable
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import (
    ALL,
    CONFIG,
    Rights,
    do,
    first_batch,
    in_cluster,
    submit,
    token_of,
    until_mark,
    with_settings,
)

CONTENT = [WatchedTable("content")]
TASKS = [WatchedTable("tasks")]


def counted(
    monkeypatch: pytest.MonkeyPatch, of: type, name: str, calls: list[str] | None = None
) -> list[str]:
    """A list that gets the name of a method at each call of it."""
    called = [] if calls is None else calls
    method = getattr(of, name)

    def call(self: Any) -> Any:
        called.append(name)
        return method(self)

    monkeypatch.setattr(of, name, call)
    return called


@virtual_time
async def test_a_watch_of_files_copies_no_table_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did so each second, without changes too, and a stopped reader kept the copy."""
    copied = counted(monkeypatch, TaskTable, "by_id")
    master = in_cluster()
    do(master, submit("t"))
    async with aclosing(master.watch(CONTENT, interval=1)) as events:
        for number in range(5):
            async for _ in until_mark(events):
                pass
            do(master, c.AddContent(cid=f"f{number}", name="", size_bytes=1, holders=()))
    assert not copied


@virtual_time
async def test_a_watch_without_changes_looks_at_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    master = in_cluster()
    async with aclosing(master.watch(ALL, interval=1)) as events:
        async for _ in until_mark(events):
            pass
        looked = counted(monkeypatch, MemberTable, "nodes")
        counted(monkeypatch, MemberTable, "principals", looked)
        for _ in range(5):
            async for _ in until_mark(events):
                pass
        assert not looked
        with_settings(master, "b")
        async for _ in until_mark(events):
            pass
        assert looked


@virtual_time
async def test_nothing_of_the_last_tick_is_kept_for_nobody() -> None:
    master = in_cluster()
    async with aclosing(master.watch(CONFIG)) as events:
        async for _ in until_mark(events):
            pass
        with_settings(master, "b")
        async for _ in until_mark(events):
            pass
        assert master.watches.changes.latest is not None
    await asyncio.sleep(0)
    assert master.watches.changes.latest is None


@virtual_time
async def test_what_a_limited_reader_was_sent_is_not_copied_for_each_batch() -> None:
    master, count = in_cluster(), 200
    for start in range(0, 100_000, 5_000):
        do(master, submit(*(f"{start + n:06}" for n in range(5_000))))
    rights = Rights(frozenset({"all"}), lambda _args: True)
    async with aclosing(master.watch(TASKS, rights=rights)) as events:
        async for _ in until_mark(events):
            pass
        spent = 0.0
        for number in range(count):
            do(master, c.CancelTask(task_id=TaskId(f"{number:06}")))
            began = time.process_time()
            async for _ in until_mark(events):
                pass
            spent += time.process_time() - began
    assert spent / count < 0.002


@virtual_time
async def test_a_reader_that_lags_keeps_no_encoded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed since its position is its own batch, of perhaps all rows."""
    of_no_tick = property(lambda _self: None, lambda _self, _batch: None)
    monkeypatch.setattr(StateChanges, "latest", of_no_tick, raising=False)
    master, readers = in_cluster(), 8
    watches = [master.watch(TASKS, interval=0.1) for _ in range(readers)]
    for events in watches:
        assert isinstance(await anext(events), Bookmark)
    for start in range(0, 20_000, 5_000):
        do(master, submit(*(f"{start + n:06}" for n in range(5_000))))
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for events in watches:
            assert isinstance(await anext(events), Rows)
        kept = (tracemalloc.get_traced_memory()[0] - before) / readers
    finally:
        tracemalloc.stop()
    for events in watches:
        await events.aclose()
    assert kept < 1_500_000, kept


@virtual_time
async def test_the_deletion_of_all_rows_comes_in_frames() -> None:
    master = in_cluster()
    ids = [f"{n:06}" for n in range(10_000)]
    for start in range(0, 10_000, 5_000):
        do(master, submit(*ids[start : start + 5_000]))
    do(master, *(c.CancelTask(task_id=TaskId(each)) for each in ids))
    deleted: list[str] = []
    prefix = [WatchedTable("tasks", key_prefix="00")]
    async with aclosing(master.watch(prefix)) as events:
        async for _ in until_mark(events):
            pass
        late = c.LogCommand(at_ms=1 + 8 * 86_400_000, body=c.ExpireRecords())
        while master.machine.state.tasks.copy():
            master.apply(master.applied_index + 1, late)
        while len(deleted) < len(ids):
            async for event in until_mark(events):
                if isinstance(event, Deletions):
                    assert len(event.keys) <= KEYS_PER_FRAME
                    deleted += event.keys
    assert sorted(deleted) == ids


@virtual_time
async def test_one_that_waited_in_vain_is_forgotten() -> None:
    changes = in_cluster().watches.changes
    for _ in range(3):
        await changes.wait(2, 0.1)
    waiting = asyncio.create_task(changes.wait(2, 60))
    await asyncio.sleep(0)
    assert len(changes._waiting) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not changes._waiting


@virtual_time
async def test_the_first_watch_sorts_what_changed_before_it_in_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once: list[int] = []
    sort = Changes.sort

    def noted(changes: Changes, keys_max: float = SORTED_AT_ONCE) -> bool:
        before = changes._new_keys
        left = sort(changes, keys_max)
        at_once.append(before - changes._new_keys)
        return left

    master = in_cluster()
    token = await token_of(master)
    keys = 1000
    for n in range(3 * SORTED_AT_ONCE // keys):
        do(master, c.ProposeConfig(values={f"user.{key}": str(n) for key in range(keys - 1)}))
    monkeypatch.setattr(Changes, "sort", noted)
    assert await first_batch(master.watch(CONFIG, token))
    assert sum(at_once) > 2 * SORTED_AT_ONCE
    assert max(at_once) <= SORTED_AT_ONCE + keys


@virtual_time
async def test_what_many_share_is_encoded_in_slices() -> None:
    class Over:
        over, count = True, 0

        async def next(self) -> None:
            self.count += 1

    master, turn = in_cluster(), Over()
    since = master.applied_index
    do(master, submit(*map(str, range(20))))
    batch = master.watches.changes.batch(["tasks"], since)
    set_turn(turn)  # type: ignore[arg-type]
    found = await asyncio.gather(*(batch.encoded(TASKS[0]) for _ in range(3)))
    assert turn.count == 20
    assert found[0] is found[1] is found[2]

"""Which rows a watch sends, and when."""

import asyncio
import math
from collections import Counter
from contextlib import aclosing
from typing import Any

import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass, Ending, set_ending
from ipfs_cluster_node.access.rules import TABLE_SECONDS_MAX
from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.cluster.state_watches import (
    SNAPSHOTS_EACH_MAX,
    SNAPSHOTS_MAX,
)
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    TaskInput,
    TaskResult,
)
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Reset,
    ResetCause,
    Rows,
    WatchedTable,
)
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import (
    CONFIG,
    WORKER,
    Rights,
    do,
    first_batch,
    follow,
    in_cluster,
    submit,
    until_mark,
    with_settings,
)


@virtual_time
async def test_those_who_watch_the_same_share_what_is_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ipfs_cluster_node.cluster import state_changes

    encoded = 0
    encode = state_changes._encode

    async def counted(*given: Any) -> Any:
        nonlocal encoded
        encoded += 1
        return await encode(*given)

    monkeypatch.setattr(state_changes, "_encode", counted)
    master = in_cluster()
    seen: Counter[int] = Counter()

    async def read(number: int) -> None:
        async for event in master.watch(CONFIG):
            if isinstance(event, Bookmark):
                seen[number] = event.revision

    readers = [asyncio.create_task(read(number)) for number in range(20)]
    await asyncio.sleep(0.1)
    for change in range(10):
        with_settings(master, f"k{change}")
        await asyncio.sleep(0.2)
    assert set(seen.values()) == {master.applied_index}
    assert encoded == 10
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


@virtual_time
async def test_a_prefix_shows_its_rows_and_their_deletions() -> None:
    master = in_cluster()
    with_settings(master, "b", "bb", "c")
    state = WatchedState()
    deleted: list[str] = []
    changed = False
    async with aclosing(
        master.watch([WatchedTable("config", ("key",), "user.b")], interval=0.1)
    ) as events:
        async for event in events:
            deleted += event.keys if isinstance(event, Deletions) else ()
            if state.apply(event) and not changed:
                assert sorted(row["key"] for row in state.rows("config")) == ["user.b", "user.bb"]
                assert all(row.keys() == {"key"} for row in state.rows("config"))
                body = c.ProposeConfig(values={"user.bb": "", "user.c": ""})
                master.apply(master.applied_index + 1, c.LogCommand(at_ms=1, body=body))
                changed = True
            elif state.revision == master.applied_index and changed:
                break
    assert deleted == ["user.bb"]


@virtual_time
async def test_a_count_that_was_another_between_two_ticks_is_sent_to_who_saw_it() -> None:
    """To a reader whose snapshot was made then, while others watch too."""
    master = in_cluster()
    do(master, submit("t"))
    tables = [WatchedTable("nodes")]
    early, late = WatchedState(), WatchedState()
    watching = [asyncio.create_task(follow(master.watch(tables), early))]
    await asyncio.sleep(0.5)
    do(master, c.AssignTasks(assignments=((TaskId("t"), WORKER.node_id),)))
    watching.append(asyncio.create_task(follow(master.watch(tables), late)))
    await asyncio.sleep(0.01)
    assert [row["running_attempt_count"] for row in late.rows("nodes")] == [1]
    do(master, c.CancelTask(task_id=TaskId("t")))
    await asyncio.sleep(0.5)
    for state in (early, late):
        assert [row["running_attempt_count"] for row in state.rows("nodes")] == [0]
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


@virtual_time
async def test_a_result_whose_task_is_deleted_is_no_longer_in_its_namespace() -> None:
    """It stays while another task needs it; nobody knows then whose it was."""
    master = in_cluster()
    node_id = WORKER.node_id
    do(
        master,
        submit("maker", namespace="team"),
        c.AssignTasks(assignments=((TaskId("maker"), node_id),)),
        c.AddContent(cid="r", name="", size_bytes=1, holders=(node_id,), goes_with=TaskId("maker")),
        c.FinishAttempts(
            node_id=node_id,
            outcomes=(
                AttemptOutcome(
                    id=AttemptId(TaskId("maker"), 1), result=TaskResult(cid="r", size_bytes=1)
                ),
            ),
        ),
        submit("user", inputs=(TaskInput("in", "r", ""),)),
    )
    team = Rights(frozenset({"team"}), lambda args: args["namespace"] == "team")
    state = WatchedState()
    tables = [WatchedTable("content"), WatchedTable("tasks")]
    watching = asyncio.create_task(follow(master.watch(tables, rights=team), state))
    whole = WatchedState()
    others = asyncio.create_task(follow(master.watch(tables), whole))
    await asyncio.sleep(0.5)
    assert state.get("content", "r")
    assert [row["namespaces"] for row in whole.get("content", "r")] == [["team"]]
    assert [row["task_id"] for row in state.rows("tasks")] == ["maker"]
    late = c.LogCommand(at_ms=1 + 8 * 86_400_000, body=c.ExpireRecords())
    master.apply(master.applied_index + 1, late)
    assert master.machine.state.tasks.get(TaskId("maker")) is None
    assert "r" in master.machine.state.contents
    await asyncio.sleep(0.5)
    assert not list(state.rows("tasks"))
    assert not state.get("content", "r")
    assert [row["namespaces"] for row in whole.get("content", "r")] == [[]]
    watching.cancel()
    others.cancel()
    await asyncio.gather(watching, others, return_exceptions=True)


@virtual_time
async def test_one_that_is_slower_than_the_ticks_misses_nothing() -> None:
    master = in_cluster()
    slow, fast = WatchedState(), WatchedState()
    watching = asyncio.create_task(follow(master.watch(CONFIG), fast))

    async def read_slowly() -> None:
        async for event in master.watch(CONFIG, interval=0.1):
            if slow.apply(event):
                await asyncio.sleep(1)

    reading = asyncio.create_task(read_slowly())
    for change in range(40):
        with_settings(master, f"s{change}")
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    for state in (slow, fast):
        keys = {row["key"] for row in state.rows("config")}
        assert keys >= {f"user.s{change}" for change in range(40)}
    for task in (watching, reading):
        task.cancel()
    await asyncio.gather(watching, reading, return_exceptions=True)


@virtual_time
async def test_files_are_no_longer_held_by_a_node_that_was_removed() -> None:
    master = in_cluster()
    do(
        master,
        c.AddContent(cid="f", name="", size_bytes=1, holders=(WORKER.node_id, NodeId("other"))),
    )
    state, causes = WatchedState(), list[ResetCause]()

    async def read() -> None:
        async for event in master.watch([WatchedTable("content"), WatchedTable("nodes")]):
            causes.extend([event.cause] if isinstance(event, Reset) else [])
            state.apply(event)

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.5)
    assert {row["node_id"] for row in state.rows("content")} == {WORKER.node_id, "other"}
    do(master, c.RemoveNode(node_id=WORKER.node_id))
    await asyncio.sleep(0.5)
    assert {row["node_id"] for row in state.rows("content")} == {"other"}
    assert not list(state.rows("nodes"))
    assert causes == [ResetCause.COMPACTED]
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


def rights_of(caller: int) -> Rights:
    return Rights(caller=Caller(Did(f"did:key:{caller}"), CallerClass.CLIENT))


@virtual_time
async def test_a_caller_that_reads_nothing_keeps_nobody_from_a_snapshot() -> None:
    """It once held all of them, for as long as it liked."""
    master = in_cluster()
    held = [master.watch(CONFIG, rights=rights_of(1)) for _ in range(SNAPSHOTS_EACH_MAX)]
    for events in held:
        await anext(events)
    more = asyncio.create_task(first_batch(master.watch(CONFIG, rights=rights_of(1))))
    await asyncio.sleep(1)
    assert not more.done()
    assert len(await first_batch(master.watch(CONFIG, rights=rights_of(2)))) == 2
    for events in held:
        await events.aclose()
    assert len(await more) == 2


@virtual_time
async def test_a_snapshot_that_is_not_read_is_ended_by_the_gate() -> None:
    """Nothing runs here meanwhile that could look at the time."""
    ending = Ending()
    set_ending(ending)
    events = in_cluster().watch(CONFIG)
    async with aclosing(events):
        await anext(events)
        assert ending.at == pytest.approx(TABLE_SECONDS_MAX, abs=1)
        while not isinstance(await anext(events), Bookmark):
            pass
        assert ending.at == math.inf


@virtual_time
async def test_more_snapshots_than_there_may_be_wait_and_are_refused_in_the_end() -> None:
    master = in_cluster()
    held = [master.watch(CONFIG, rights=rights_of(n)) for n in range(SNAPSHOTS_MAX)]
    for events in held:
        await anext(events)  # Its first rows: the rest is not read.
    waiting = asyncio.create_task(first_batch(master.watch(CONFIG)))
    await asyncio.sleep(1)
    assert not waiting.done()
    await held.pop().aclose()
    assert len(await waiting) == 2
    held.append(master.watch(CONFIG, rights=rights_of(SNAPSHOTS_MAX)))
    await anext(held[-1])
    with pytest.raises(ClusterError) as refused:
        await first_batch(master.watch(CONFIG))
    assert refused.value.reason is Reason.OVERLOADED
    assert refused.value.retry_after is not None
    await asyncio.sleep(TABLE_SECONDS_MAX)
    with pytest.raises(ClusterError) as ended:
        await first_batch(held[0])
    assert ended.value.reason is Reason.DEADLINE_EXCEEDED
    for events in held:
        await events.aclose()


async def batch_of(events: Any) -> list[Any]:
    return [event async for event in until_mark(events)]


@virtual_time
async def test_what_is_shared_is_of_the_same_tables_and_columns() -> None:
    master = in_cluster()
    tasks = [WatchedTable("tasks")]
    [mark] = await first_batch(master.watch(tasks))
    assert isinstance(mark, Bookmark)
    few = [WatchedTable("config", columns=("key", "default"))]
    async with aclosing(master.watch(CONFIG)) as whole, aclosing(master.watch(few)) as some:
        for events in (whole, some):
            await batch_of(events)
        reading = [asyncio.create_task(batch_of(events)) for events in (whole, some)]
        await asyncio.sleep(0.01)  # Both wait.
        with_settings(master, "b")
        of_whole, of_some = [
            [event.rows.to_pylist() for event in await each if isinstance(event, Rows)]
            for each in reading
        ]
        shown = {"key": "user.b", "default": ""}
        assert of_some == [[shown]]
        assert of_whole == [[shown | {"value": "1"}]]
        # The last tick had settings alone, and this reader is as far as that.
        async with aclosing(master.watch(tasks, mark.resume_token, interval=0.01)) as events:
            marks = [await anext(events), await anext(events)]
    assert [m.revision for m in marks if isinstance(m, Bookmark)] == [2, master.applied_index]

"""A watch whose caller's rights, or whose master's log, change while it is being sent."""

from contextlib import aclosing
from typing import Any

import pytest

from ipfs_cluster_node.client.watched_state import WatchedState
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Reset,
    ResetCause,
    Rows,
    StateEvent,
    WatchedTable,
)
from tests.support.virtual_time import virtual_time
from tests.support.watched_masters import (
    CONFIG,
    WORKER,
    Master,
    Rights,
    do,
    in_cluster,
    submit,
    token_of,
    until_mark,
    with_settings,
)

TASKS = [WatchedTable("tasks")]
BOTH = [WatchedTable("config"), WatchedTable("tasks")]


def only(namespace: str) -> Any:
    return lambda args: args["namespace"] == namespace or args["table"] == "config"


def of_two_teams(count: int) -> Master:
    master = in_cluster()
    for number in range(count):
        do(master, submit(f"{number:04}", namespace="team-b" if number % 2 else "team-a"))
    return master


def namespaces_in(event: StateEvent) -> set[str]:
    if not isinstance(event, Rows) or event.table != "tasks":
        return set()
    return set(event.rows.column("namespace").to_pylist())


@virtual_time
async def test_rights_that_shrink_during_a_snapshot_end_it_at_once() -> None:
    master, rights, state = of_two_teams(1600), Rights(), WatchedState()
    async with aclosing(master.watch(TASKS, rights=rights)) as events:
        assert namespaces_in(await anext(events)) == {"team-a", "team-b"}
        rights.rights, rights.allowed = frozenset({"a"}), only("team-a")
        later = [event async for event in until_mark(events)]
    assert isinstance(later[0], Reset)
    assert later[0].cause is ResetCause.RIGHTS_CHANGED
    for event in later:
        state.apply(event)
    assert {row["namespace"] for row in state.rows("tasks")} == {"team-a"}
    assert len(list(state.rows("tasks"))) == 800


@virtual_time
async def test_rights_that_shrink_during_a_batch_end_it_at_once() -> None:
    """Of a reader that was stopped: the rows would come minutes after the revocation."""
    master, rights, state = in_cluster(), Rights(), WatchedState()
    async with aclosing(master.watch(TASKS, rights=rights)) as events:
        assert isinstance(await anext(events), Bookmark)
        do(master, submit(*(f"{n:04}" for n in range(1600)), namespace="team-b"))
        assert namespaces_in(await anext(events)) == {"team-b"}
        rights.rights, rights.allowed = frozenset({"a"}), only("team-a")
        later = [event async for event in until_mark(events)]
    assert isinstance(later[0], Reset)
    for event in later:
        state.apply(event)
    assert not list(state.rows("tasks"))


@virtual_time
async def test_rights_that_were_others_for_a_while_leave_no_rows() -> None:
    """Between two tables of one batch, which a slow reader makes as long as it likes."""
    master, rights, state = in_cluster(), Rights(frozenset({"a"}), only("team-a")), WatchedState()
    async with aclosing(master.watch(BOTH, rights=rights)) as events:
        async for event in until_mark(events):
            state.apply(event)
        do(master, submit("hidden", namespace="team-b"))
        with_settings(master, "b")
        event = await anext(events)
        assert isinstance(event, Rows)
        assert event.table == "config"
        state.apply(event)
        rights.rights, rights.allowed = frozenset({"a", "b"}), lambda _args: True
        state.apply(await anext(events))
        rights.rights, rights.allowed = frozenset({"a"}), only("team-a")
        async for event in until_mark(events):
            state.apply(event)
    assert not state.get("tasks", "hidden")


@virtual_time
async def test_a_watch_does_not_go_on_in_another_log() -> None:
    """The node was demoted and promoted again while the reader was slow; it has another log now."""
    master = in_cluster()
    with_settings(master, "b", "c", "d")
    async with aclosing(master.watch(CONFIG)) as events:
        async for _ in until_mark(events):
            pass
        with_settings(master, "e")
        assert isinstance(await anext(events), Rows)
        replace_log(master)
        with pytest.raises(ClusterError) as ended:
            for _ in range(50):
                await anext(events)
    assert ended.value.reason is Reason.NO_LEADER


@virtual_time
async def test_a_snapshot_does_not_go_on_in_another_log() -> None:
    master = of_two_teams(1600)
    async with aclosing(master.watch(TASKS)) as events:
        assert isinstance(await anext(events), Rows)
        replace_log(master)
        with pytest.raises(ClusterError) as ended:
            for _ in range(50):
                await anext(events)
    assert ended.value.reason is Reason.NO_LEADER


@virtual_time
async def test_a_token_is_no_way_into_the_log_that_came_after() -> None:
    """A reader of the lost log begins again, and its revisions may be smaller then."""
    master = in_cluster()
    with_settings(master, "b", "c", "d")
    token = await token_of(master)
    replace_log(master)
    master._terms = lambda _index: 7
    master.leads_for_sure = True
    async with aclosing(master.watch(CONFIG, token)) as events:
        first = await anext(events)
    assert isinstance(first, Reset)
    assert first.cause is ResetCause.OTHER_CLUSTER


@virtual_time
async def test_a_deletion_names_no_row_that_the_reader_was_not_sent() -> None:
    master = in_cluster()
    rights = Rights(frozenset({"a"}), only("team-a"))
    do(master, submit("shown", namespace="team-a"), submit("hidden", namespace="team-b"))
    state, seen = WatchedState(), list[StateEvent]()
    async with aclosing(master.watch(TASKS, rights=rights)) as events:
        async for event in until_mark(events):
            state.apply(event)
        assert [row["task_id"] for row in state.rows("tasks")] == ["shown"]
        late = c.LogCommand(at_ms=1 + 8 * 86_400_000, body=c.ExpireRecords())
        do(master, *(c.CancelTask(task_id=TaskId(each)) for each in ("shown", "hidden")))
        master.apply(master.applied_index + 1, late)
        assert master.machine.state.tasks.get(TaskId("hidden")) is None
        async for event in until_mark(events):
            seen.append(event)
            state.apply(event)
    assert [event.keys for event in seen if isinstance(event, Deletions)] == [("shown",)]
    assert not [event for event in seen if isinstance(event, Rows)]
    assert not list(state.rows("tasks"))


def deleted(events: list[StateEvent]) -> list[str]:
    return [key for event in events if isinstance(event, Deletions) for key in event.keys]


def added(namespace: str) -> c.AddContent:
    return c.AddContent(
        cid="f", name="", size_bytes=1, holders=(WORKER.node_id,), namespace=namespace
    )


@virtual_time
async def test_a_row_that_leaves_what_may_be_read_is_deleted_once_and_comes_when_it_enters() -> (
    None
):
    """As one file in one namespace after another; of what is hidden no deletion tells."""
    master, rights, state = in_cluster(), Rights(frozenset({"a"}), only("team-a")), WatchedState()
    steps: list[tuple[object, int, list[str]]] = [
        (added("team-b"), 0, []),
        (added("team-a"), 1, []),
        (c.RemoveContent(cid="f", namespace="team-a"), 0, ["f"]),
        (added("team-b"), 0, []),
        (c.RemoveContent(cid="f"), 0, []),
        (added("team-a"), 1, []),
    ]
    async with aclosing(master.watch([WatchedTable("content")], rights=rights)) as events:
        async for event in until_mark(events):
            state.apply(event)
        for command, count, gone in steps:
            do(master, command)
            seen = [event async for event in until_mark(events)]
            for event in seen:
                state.apply(event)
            rows = state.get("content", "f")
            assert len(rows) == count, command
            assert all(row["namespaces"] == ["team-a"] for row in rows)
            assert deleted(seen) == gone, command


@virtual_time
async def test_what_was_sent_under_other_rights_is_not_heard_of_again() -> None:
    master, rights = in_cluster(), Rights(frozenset({"a", "b"}), lambda _args: True)
    do(master, submit("hidden", namespace="team-b"))
    async with aclosing(master.watch(TASKS, rights=rights)) as events:
        assert namespaces_in(await anext(events)) == {"team-b"}
        assert isinstance(await anext(events), Bookmark)
        rights.rights, rights.allowed = frozenset({"a"}), only("team-a")
        assert [type(event) async for event in until_mark(events)] == [Reset, Bookmark]
        do(master, c.CancelTask(task_id=TaskId("hidden")))
        late = c.LogCommand(at_ms=1 + 8 * 86_400_000, body=c.ExpireRecords())
        master.apply(master.applied_index + 1, late)
        assert master.machine.state.tasks.get(TaskId("hidden")) is None
        assert not deleted([event async for event in until_mark(events)])


def replace_log(master: Master) -> None:
    """Take the node's log away, and give it another that has come less far."""
    changes = master.watches.changes
    changes.unfollow()
    other = in_cluster()
    master.machine, master.applied_index = ReplicatedStateMachine(), 0
    changes.follow(master.machine, master)  # type: ignore[arg-type]
    master.install(other)

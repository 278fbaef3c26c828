"""The details of a task: its attempts, its payload, and what it waits for."""

from dataclasses import replace
from typing import Any

import pytest

from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core import task_details
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import (
    ATTEMPT_MESSAGE_CHARS_MAX,
    ATTEMPTS_KEPT_MAX,
    PAYLOAD_KEPT_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
    Task,
    TaskFailure,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.task_details import TaskDetails, details_of, ordinal, waiting_words
from ipfs_cluster_node.core.views import TaskWaiting
from tests.support.worlds import OTHER, WORKER, World


@pytest.fixture
def world() -> World:
    return World()


def submit(world: World, *task_ids: str, with_history: bool = True, **spec: Any) -> None:
    world.do(
        c.SubmitTasks(
            task_ids=tuple(map(TaskId, task_ids)),
            specs=(replace(TaskSpec(task_type="echo", payload=b"x"), **spec),) * len(task_ids),
            fingerprint=b"f",
            with_history=with_history,
        ),
        request_id="of-" + task_ids[0],
    )


def end(world: World, failure: TaskFailure | None, node: NodeId = WORKER, **how: Any) -> None:
    attempt = AttemptId(TaskId("t"), world.task().attempt)
    result = None if failure else TaskResult(data=b"r")
    outcome = AttemptOutcome(id=attempt, failure=failure, result=result, **how)
    world.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))


def details(world: World, task_id: str = "t") -> TaskDetails:
    return details_of(world.task(task_id), world.state.members, world.state.tasks)


def attempts(world: World) -> list[tuple[Any, ...]]:
    return [
        (each.attempt, each.node_name, each.ended_at_ms - each.assigned_at_ms, each.reason)
        for each in details(world).attempts
    ]


def test_each_attempt_is_told_with_where_when_and_why_it_ended(world: World) -> None:
    submit(world, "t")
    assert (world.task().request_id, attempts(world)) == ("of-t", [])
    world.assign("t", OTHER)
    world.now_ms += 5
    end(world, TaskFailure(Reason.HANDLER_FAILED, "m" * 999), OTHER, retryable=True)
    assert attempts(world) == [(1, "n2", 5, Reason.HANDLER_FAILED)]
    assert len(details(world).attempts[0].message) == ATTEMPT_MESSAGE_CHARS_MAX
    world.assign()
    back = TaskFailure(Reason.WORKER_LOST, "its worker gave it back")
    end(world, back, retryable=True, handed_back=True)
    world.assign()
    world.do(c.SetLiveness(dead=(WORKER,)))
    world.assign("t", OTHER)
    assert [each.message for each in details(world).attempts[1:]] == [
        "its worker gave it back",
        "its worker was lost",
        "",
    ]
    assert attempts(world)[-1] == (4, "n2", -world.now_ms, None)
    world.now_ms += 7
    end(world, None, OTHER)
    assert attempts(world)[-1] == (4, "n2", 7, None)
    assert details(world).node_name == "n2"
    again = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert again.tasks.get(TaskId("t")) == world.task()


def test_the_last_attempt_says_why_the_task_ended(world: World) -> None:
    submit(world, "t")
    world.assign()
    end(world, TaskFailure(Reason.SQL_FAILED, "no such table"))
    [last] = details(world).attempts
    assert (last.reason, last.message) == (Reason.SQL_FAILED, "no such table")
    submit(world, "t2")
    world.assign("t2")
    world.do(c.CancelTask(task_id=TaskId("t2")))
    [last] = details(world, "t2").attempts
    assert last.reason is Reason.TASK_CANCELLED


def test_only_the_latest_attempts_are_kept(world: World) -> None:
    submit(world, "t")
    for _ in range(ATTEMPTS_KEPT_MAX + 3):
        world.assign()
        back = TaskFailure(Reason.WORKER_LOST, "back")
        end(world, back, retryable=True, handed_back=True)
    assert [each[0] for each in attempts(world)] == list(range(4, ATTEMPTS_KEPT_MAX + 4))


def test_a_small_payload_stays_after_the_end_and_a_large_one_goes(world: World) -> None:
    submit(world, "t", payload=b"x" * PAYLOAD_KEPT_BYTES_MAX)
    submit(world, "large", payload=b"x" * (PAYLOAD_KEPT_BYTES_MAX + 1))
    assert world.task("large").kept_payload is None
    for task_id in ("t", "large"):
        world.do(c.CancelTask(task_id=TaskId(task_id)))
    assert world.task().kept_payload == b"x" * PAYLOAD_KEPT_BYTES_MAX
    assert (world.task("large").spec.payload, world.task("large").kept_payload) == (b"", None)
    assert world.state.tasks.stored_bytes == PAYLOAD_KEPT_BYTES_MAX


def test_a_task_of_an_older_log_has_no_history(world: World) -> None:
    submit(world, "t", with_history=False)
    world.assign()
    end(world, TaskFailure(Reason.HANDLER_FAILED, "m"), retryable=True)
    task: Task = world.task()
    assert (task.request_id, task.ended_attempts) == ("", ())
    world.assign()
    end(world, None)
    assert (world.task().spec.payload, world.task().kept_payload) == (b"", None)


def waiting(world: World, task_id: str = "t") -> TaskWaiting:
    found = details(world, task_id).waiting
    assert found is not None
    return found


def test_a_pending_task_says_that_no_live_worker_has_its_type(world: World) -> None:
    submit(world, "t")
    world.do(c.SetLiveness(dead=(WORKER, OTHER)))
    assert waiting(world) == TaskWaiting()
    node = c.RegisterNode(
        node_id=OTHER, endpoints=(), task_types=("sum", "a"), slot_count=2, version="1"
    )
    world.do(node)
    world.do(c.SetLiveness(alive=(OTHER,)))
    assert waiting(world) == TaskWaiting(live_task_types=("a", "sum"))
    assert waiting_words("echo", waiting(world)) == (
        "no live worker runs echo: those that are alive run a, sum; start one"
    )


def test_workers_that_a_caller_may_not_list_are_not_told_of(world: World) -> None:
    submit(world, "t")
    for node_id, task_types in ((WORKER, ("a",)), (OTHER, ("b",))):
        node = c.RegisterNode(
            node_id=node_id, endpoints=(), task_types=task_types, slot_count=2, version="1"
        )
        world.do(node)
    world.do(c.SetLiveness(alive=(WORKER, OTHER)))

    def told(*listed: str) -> TaskWaiting:
        task, members = world.task("t"), world.state.members
        found = details_of(task, members, world.state.tasks, lambda node: node.node_id in listed)
        assert found.waiting is not None
        return found.waiting

    assert told(OTHER) == TaskWaiting(live_task_types=("b",), has_unlisted_workers=True)
    assert told() == TaskWaiting(has_unlisted_workers=True)
    assert waiting_words("echo", told()) == (
        "no live worker runs echo: you may list none; start one"
    )
    assert waiting_words("echo", told(OTHER)) == (
        "no live worker runs echo: those that are alive run b, besides those you may not list; "
        "start one"
    )


def test_a_pending_task_says_its_place_among_those_that_its_workers_run(world: World) -> None:
    node = c.RegisterNode(
        node_id=WORKER, endpoints=(), task_types=("echo", "sum"), slot_count=3, version="1"
    )
    world.do(node)
    world.do(c.SetLiveness(alive=(WORKER, OTHER)))
    submit(world, "runs")
    world.assign("runs")
    submit(world, "before", "other", task_type="sum")
    submit(world, "t")
    submit(world, "later")
    submit(world, "urgent", priority=1)
    submit(world, "last", priority=0, task_type="sum")
    assert waiting(world) == TaskWaiting(
        worker_count=2, slot_count=5, assigned_count=1, position=4, pending_count=6
    )
    assert waiting(world, "urgent").position == 1
    assert waiting_words("echo", waiting(world)) == (
        "4th of 6 waiting tasks for 5 slots of 2 workers, with 1 attempt assigned"
    )
    # Of this type only one of them; but that one's other type competes.
    assert (waiting(world, "last").worker_count, waiting(world, "last").position) == (1, 6)
    assert details(world, "runs").waiting is None


def test_no_more_than_so_many_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_details, "COUNTED_MAX", 3)
    world.do(c.SetLiveness(alive=(WORKER, OTHER)))
    submit(world, *(f"t{n}" for n in range(6)))
    assert [waiting(world, f"t{n}").position for n in range(6)] == [1, 2, 3, 4, None, None]
    assert waiting_words("echo", waiting(world, "t5")) == (
        "one of 6 tasks that wait for 4 slots of 2 workers"
    )


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 101, 112)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 101st 112th".split()
    )

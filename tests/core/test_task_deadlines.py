"""A task's time from submission ends once, on every replica alike."""

import pytest

from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import AttemptsRevoked
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, TaskResult, TaskSpec, TaskState
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.task_deadlines import TaskDeadlines
from tests.support.worlds import OTHER, WORKER, World

MINUTE_MS = 60_000
SPEC = TaskSpec(task_type="echo", payload=b"x", task_timeout_ms=MINUTE_MS)


def time_out(world: World, *task_ids: str) -> None:
    world.do(c.TimeOutTasks(task_ids=tuple(map(TaskId, task_ids))))


def overdue(world: World, now_ms: int, count_max: int = 10) -> tuple[str, ...]:
    return world.state.tasks.overdue(now_ms, count_max)


def test_a_task_is_overdue_once_its_time_is_over_and_no_longer_when_it_ended(world: World) -> None:
    world.now_ms = 1_300
    world.submit("a", "b", "c", spec=SPEC)
    world.submit("never")
    assert overdue(world, 1_300 + MINUTE_MS - 1) == ()
    assert overdue(world, 2_000 + MINUTE_MS) == ("a", "b", "c")
    assert overdue(world, 2_000 + MINUTE_MS, count_max=2) == ("a", "b")
    world.do(c.CancelTask(task_id=TaskId("a")))
    world.assign("b")
    outcome = AttemptOutcome(id=AttemptId(TaskId("b"), 1), result=TaskResult(data=b"r"))
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))
    assert overdue(world, 2_000 + MINUTE_MS) == ("c",)
    again = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert again.tasks.overdue(2_000 + MINUTE_MS, 10) == ("c",)
    world.now_ms += MINUTE_MS
    time_out(world, "c")
    assert overdue(world, 10 * MINUTE_MS) == ()


def test_those_longest_overdue_come_first(world: World) -> None:
    deadlines = TaskDeadlines()
    for name, timeout_ms in (("b", 9_000), ("a", 2_000), ("c", 10_500)):
        world.submit(name, spec=TaskSpec(task_type="echo", task_timeout_ms=timeout_ms))
        deadlines.add(world.task(name))
    assert deadlines.overdue(20_000, 10) == ("a", "b", "c")
    assert deadlines.overdue(11_999, 10) == ("a", "b")
    deadlines.remove(world.task("b"))
    assert deadlines.overdue(20_000, 10) == ("a", "c")


def test_a_pending_task_fails_and_says_what_it_waited_for(world: World) -> None:
    world.submit("t", spec=SPEC)
    world.do(c.SetLiveness(dead=(WORKER, OTHER)))
    world.now_ms += MINUTE_MS
    time_out(world, "t")
    task = world.task("t")
    assert (task.state, task.finished_at_ms) == (TaskState.FAILED, world.now_ms)
    assert task.final_failure is not None
    assert task.final_failure.reason is Reason.TASK_TIMED_OUT
    assert "no worker that is alive has a handler for 'echo'" in task.final_failure.message


def test_a_task_whose_attempts_failed_keeps_what_the_last_one_said(world: World) -> None:
    world.submit("t", spec=SPEC)
    world.assign("t")
    world.finish(1, failure=True)
    world.now_ms += MINUTE_MS
    time_out(world, "t")
    failure = world.task("t").final_failure
    assert failure is not None
    assert failure.reason is Reason.TASK_TIMED_OUT
    assert "no [HANDLER_FAILED]" in failure.message


def test_a_running_attempt_is_revoked_and_its_outcome_refused(world: World) -> None:
    world.submit("t", spec=SPEC)
    world.assign("t")
    world.now_ms += MINUTE_MS
    command = c.LogCommand(at_ms=world.now_ms, body=c.TimeOutTasks(task_ids=(TaskId("t"),)))
    applied = world.state.apply(command)
    assert applied.effects == (AttemptsRevoked(WORKER, (AttemptId(TaskId("t"), 1),)),)
    ended = world.task("t")
    world.finish(1)
    assert world.task("t") == ended
    assert ended.state is TaskState.FAILED
    assert world.state.tasks.running_count(WORKER) == 0


@pytest.mark.parametrize("early_ms", [1, MINUTE_MS])
def test_each_replica_judges_by_the_time_of_the_command(world: World, early_ms: int) -> None:
    """A leader whose clock was ahead when it looked ends nothing early."""
    world.submit("t", spec=SPEC)
    world.submit("never")
    world.now_ms += MINUTE_MS - early_ms
    time_out(world, "t", "never", "unknown")
    assert world.task("t").state is TaskState.PENDING
    world.now_ms += early_ms
    time_out(world, "t", "never")
    assert world.task("t").state is TaskState.FAILED
    assert world.task("never").state is TaskState.PENDING

"""Tasks and contents in the replicated state: what commands do, and what they refuse."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ipfs_cluster_node.codec.errors import status_of
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted
from ipfs_cluster_node.core.errors import LOCAL_REASONS, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    ATTEMPT_LOST_MAX,
    AttemptId,
    AttemptOutcome,
    TaskFailure,
    TaskResult,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.scheduler import WorkerOffer, plan
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.tasks import TaskTable
from ipfs_cluster_node.v1 import errors_pb2
from tests.support.worlds import CLIENT, MASTER, OTHER, WORKER, T, World, config


def test_a_task_goes_from_pending_over_running_to_its_result(world: World) -> None:
    assert world.submit("t") == Accepted(("t",))
    assert world.task().state is TaskState.PENDING
    world.assign()
    assert (world.task().state, world.task().attempt) == (TaskState.RUNNING, 1)
    world.finish(1)
    assert world.task().state is TaskState.SUCCEEDED
    assert world.task().spec.payload == b""  # Of no more use.


def test_a_late_result_of_an_old_attempt_is_refused(world: World) -> None:
    world.submit("t")
    world.assign()
    world.do(c.SetLiveness(dead=(WORKER,)))
    assert world.task().state is TaskState.PENDING
    world.assign(node=OTHER)
    world.finish(1)
    assert (world.task().state, world.task().attempt) == (TaskState.RUNNING, 2)
    world.finish(2, WORKER)  # The right attempt, from a node that does not hold it.
    assert world.task().state is TaskState.RUNNING
    world.finish(2, OTHER)
    assert world.task().state is TaskState.SUCCEEDED
    world.finish(2, OTHER, failure=True)
    assert world.task().state is TaskState.SUCCEEDED


def test_a_failure_is_repeated_as_often_as_was_asked(world: World) -> None:
    world.submit("t")
    for attempt in (1, 2, 3):
        world.assign()
        world.finish(attempt, failure=True)
    assert world.task().state is TaskState.FAILED
    assert world.task().failure == TaskFailure(Reason.HANDLER_FAILED, "no")


def test_a_task_that_loses_each_worker_stops(world: World) -> None:
    world.submit("t")
    for attempt in range(1, ATTEMPT_LOST_MAX + 1):
        world.assign()
        world.do(c.RequeueAttempts(ids=(AttemptId(T, attempt),)))
    assert world.task().failure is not None
    assert world.task().failure.reason is Reason.WORKER_LOST


def test_no_task_is_given_to_a_dead_or_removed_node(world: World) -> None:
    world.submit("t")
    world.do(c.SetLiveness(dead=(WORKER,)))
    world.assign()
    assert world.task().state is TaskState.PENDING
    world.do(c.RemoveNode(node_id=OTHER))
    world.assign(node=OTHER)
    assert world.task().state is TaskState.PENDING


def test_the_removal_of_a_node_goes_through_no_files(world: World) -> None:
    """That blocked every master for as long as it took: 0.4 s for 250,000 files."""
    world.do(c.AddContent(cid="a", size_bytes=1, holders=(MASTER, WORKER), name=""))
    before = world.state.contents["a"]
    world.do(c.RemoveNode(node_id=WORKER))
    assert world.state.contents["a"] is before
    assert world.state.contents.holders_of(before) == (MASTER,)
    again = ClusterState(decode_snapshot(encode_snapshot(world.state.data())))
    assert again.contents.holders_of(again.contents["a"]) == (MASTER,)
    # The next worker of the task does not keep the name of the removed one.
    world.do(c.AddContent(cid="a", size_bytes=1, holders=(OTHER,), name=""))
    assert world.state.contents["a"].holders == (MASTER, OTHER)
    assert list(world.state.contents.cids.after("")) == ["a"]


def test_bounds_refuse_and_say_so(world: World) -> None:
    world.do(config("task_count_max", "1"))
    world.submit("t")
    assert world.submit("u").reason is Reason.TOO_MANY_TASKS
    assert world.submit("u", spec=TaskSpec(task_type="none")).reason is Reason.TOO_MANY_TASKS
    world.do(config("task_count_max", "9"))
    assert world.submit("u", spec=TaskSpec(task_type="none")).reason is Reason.TASK_TYPE_UNKNOWN
    assert world.do(config("node_lease", "1h")).reason is Reason.INVALID_ARGUMENT


def test_a_result_names_the_worker_as_a_holder(world: World) -> None:
    world.do(c.AddContent(cid="b", size_bytes=1, holders=(MASTER,), name=""))
    world.submit("t")
    world.assign()
    outcome = AttemptOutcome(id=AttemptId(T, 1), result=TaskResult(cid="b", size_bytes=1))
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))
    assert list(world.state.contents.holders_of(world.state.contents["b"])) == [MASTER, WORKER]
    world.do(c.RemoveNode(node_id=WORKER))
    assert list(world.state.contents.holders_of(world.state.contents["b"])) == [MASTER]


def test_a_master_that_works_holds_only_what_was_put_on_it(world: World) -> None:
    """Named as a holder of its task's result, it let the last master that had it be removed."""
    world.do(c.AddContent(cid="b", size_bytes=1, holders=(OTHER,), name=""))
    world.submit("t")
    works = c.RegisterNode(
        node_id=MASTER, endpoints=(), task_types=("echo",), slot_count=2, version="1"
    )
    world.do(works)
    world.assign(node=MASTER)
    outcome = AttemptOutcome(id=AttemptId(T, 1), result=TaskResult(cid="b", size_bytes=1))
    world.do(c.FinishAttempts(node_id=MASTER, outcomes=(outcome,)))
    assert world.task().state is TaskState.SUCCEEDED
    assert world.state.contents["b"].holders == (OTHER,)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "assign", "finish", "fail", "lose", "cancel", "dead", "alive"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


def step(world: World, kind: str, number: int) -> None:
    task_id = TaskId(f"t{number}")
    task = world.state.tasks.get(task_id)
    attempt = AttemptId(task_id, task.attempt if task else 1)
    node = (WORKER, OTHER)[number % 2]
    world.now_ms += 1
    match kind:
        case "submit":
            if task is None:
                world.submit(task_id, request_id=f"r{number}")
        case "assign":
            world.assign(task_id, node)
        case "finish" | "fail":
            good = kind == "finish"
            outcome = AttemptOutcome(
                id=attempt,
                result=TaskResult(data=b"r") if good else None,
                failure=None if good else TaskFailure(Reason.HANDLER_FAILED, "no"),
                retryable=not good,
            )
            world.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))
        case "lose":
            world.do(c.RequeueAttempts(ids=(attempt,)))
        case "cancel":
            world.do(c.CancelTask(task_id=task_id))
        case "dead":
            world.do(c.SetLiveness(dead=(node,)))
        case "alive":
            world.do(c.SetLiveness(alive=(node,)))


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 60))
def test_a_replica_restored_from_a_snapshot_goes_on_alike(
    steps: list[tuple[str, int]], restart_after: int
) -> None:
    always, restored = World(), World()
    for position, (kind, number) in enumerate(steps):
        if position == restart_after:
            restored.state = ClusterState(decode_snapshot(encode_snapshot(restored.state.data())))
        step(always, kind, number)
        step(restored, kind, number)
    assert list(encode_snapshot(always.state.data())) == list(
        encode_snapshot(restored.state.data())
    )
    counts = dict.fromkeys(TaskState, 0)
    for task in always.state.tasks:
        counts[task.state] += 1
        assert (task.result is not None) == (task.state is TaskState.SUCCEEDED)
    assert counts == always.state.tasks.counts
    fresh = TaskTable(always.state.tasks.copy())
    assert fresh.stored_bytes == always.state.tasks.stored_bytes


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 5), st.integers(0, 5))
def test_a_plan_keeps_to_credit_priority_and_types(
    priorities: list[int], credit_a: int, credit_b: int
) -> None:
    table = TaskTable()
    for number, priority in enumerate(priorities):
        spec = TaskSpec(task_type="echo" if number % 3 else "other", priority=priority)
        table.submit(TaskId(f"t{number}"), spec, CLIENT, 0)
    offers = {
        WORKER: WorkerOffer(WORKER, frozenset({"echo"}), credit_a),
        OTHER: WorkerOffer(OTHER, frozenset({"echo", "other"}), credit_b),
    }
    planned = plan(table, offers, count_max=100)
    assert len({task_id for task_id, _ in planned}) == len(planned)
    for node, credit in ((WORKER, credit_a), (OTHER, credit_b)):
        mine = [table.get(task_id) for task_id, where in planned if where == node]
        assert len(mine) <= credit
        assert all(t is not None and t.spec.task_type in offers[node].task_types for t in mine)
    echo = [p for n, p in enumerate(priorities) if n % 3]
    if credit_a + credit_b and echo:
        assert planned, "somebody is free and something waits"


def test_one_list_of_reasons_holds_everywhere() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}
    assert names - {"UNSPECIFIED"} == set(Reason) - LOCAL_REASONS.keys()
    assert all(status_of(reason).name == reason.status for reason in Reason)


def test_an_attempt_that_its_worker_gave_up_is_lost_and_not_failed(world: World) -> None:
    """Found by killing leaders: a worker whose lease ran out left its tasks assigned for ever."""
    world.submit("t")
    world.assign()
    gave_up = TaskFailure(Reason.WORKER_LOST, "the worker's lease ran out")
    outcome = AttemptOutcome(id=AttemptId(T, 1), failure=gave_up, retryable=True)
    world.do(c.FinishAttempts(node_id=WORKER, outcomes=(outcome,)))
    assert (world.task().state, world.task().failed_count) == (TaskState.PENDING, 0)
    assert world.task().lost_count == 1

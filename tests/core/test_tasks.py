"""Tasks in the replicated state: their place in the queue, handing back, deletion of ended ones."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core import state as state_module
from ipfs_cluster_node.core.effects import Accepted, AttemptsRevoked, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
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
from ipfs_cluster_node.core.tables import TableName
from ipfs_cluster_node.core.tasks import TaskTable
from tests.support.worlds import CLIENT, MASTER, OTHER, WORKER, World, config

HANDED_BACK = TaskFailure(Reason.WORKER_LOST, "its worker gave it back")


@pytest.fixture
def world() -> World:
    return World()


def end(world: World, task_id: str, data: bytes = b"r", node: NodeId = WORKER) -> None:
    world.assign(task_id, node)
    attempt = world.task(task_id).attempt
    outcome = AttemptOutcome(id=AttemptId(TaskId(task_id), attempt), result=TaskResult(data=data))
    world.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))


def hand_back(world: World, task_id: str, node: NodeId = WORKER, attempt: int = 0) -> None:
    outcome = AttemptOutcome(
        id=AttemptId(TaskId(task_id), attempt or world.task(task_id).attempt),
        failure=HANDED_BACK,
        retryable=True,
        handed_back=True,
    )
    world.do(c.FinishAttempts(node_id=node, outcomes=(outcome,)))


def waiting(world: World) -> list[str]:
    queues = (queue for by_type in world.state.tasks.pending() for queue in by_type.values())
    return [task_id for queue in queues for _, task_id in queue]


def kept(world: World) -> list[str]:
    return [task.task_id for task in world.state.tasks]


# The queue.


@pytest.mark.parametrize("how", ["dead", "hello", "handed back", "failed", "given up"])
def test_a_task_that_comes_back_keeps_its_place(world: World, how: str) -> None:
    """Found by a tester: a task whose worker was lost went to the end of the queue, 30 of 32."""
    names = [f"t{number}" for number in range(8)]
    world.submit(*names)
    for name in ("t1", "t4", "t2"):
        world.assign(name)
    assert waiting(world) == ["t0", "t3", "t5", "t6", "t7"]
    attempts = [AttemptId(TaskId(name), 1) for name in ("t4", "t1", "t2")]
    match how:
        case "dead":
            world.do(c.SetLiveness(dead=(WORKER,)))
        case "hello":
            world.do(c.RequeueAttempts(ids=tuple(attempts)))
        case _:
            reason = Reason.HANDLER_FAILED if how == "failed" else Reason.WORKER_LOST
            outcomes = tuple(
                AttemptOutcome(
                    id=attempt,
                    failure=TaskFailure(reason, "no"),
                    retryable=True,
                    handed_back=how == "handed back",
                )
                for attempt in attempts
            )
            world.do(c.FinishAttempts(node_id=WORKER, outcomes=outcomes))
    assert waiting(world) == names
    restored = TaskTable(world.state.tasks.copy())
    assert [
        task_id for [by_type] in [restored.pending()] for _, task_id in by_type["echo"]
    ] == names


def test_one_type_that_is_always_submitted_keeps_no_other_waiting() -> None:
    table = TaskTable()
    for number in range(20):
        kind = "other" if number % 10 == 5 else "echo"
        table.submit(TaskId(f"t{number}"), TaskSpec(task_type=kind), CLIENT, 0)
    offers = {WORKER: WorkerOffer(WORKER, frozenset({"echo", "other"}), 16)}
    planned = [task_id for task_id, _ in plan(table, offers, count_max=100)]
    assert planned == [f"t{number}" for number in range(16)]


def test_a_type_without_a_free_worker_holds_up_no_other() -> None:
    table = TaskTable()
    for number in range(9):
        kind = "echo" if number < 6 else "other"
        table.submit(TaskId(f"t{number}"), TaskSpec(task_type=kind, priority=9), CLIENT, 0)
    table.submit(TaskId("low"), TaskSpec(task_type="other"), CLIENT, 0)
    offers = {
        WORKER: WorkerOffer(WORKER, frozenset({"echo"}), 2),
        OTHER: WorkerOffer(OTHER, frozenset({"other"}), 9),
        MASTER: WorkerOffer(MASTER, frozenset({"none"}), 9),
    }
    assert plan(table, offers, count_max=100) == [
        (TaskId("t0"), WORKER),
        (TaskId("t1"), WORKER),
        (TaskId("t6"), OTHER),
        (TaskId("t7"), OTHER),
        (TaskId("t8"), OTHER),
        (TaskId("low"), OTHER),
    ]
    assert len(plan(table, offers, count_max=3)) == 3


def test_each_task_goes_to_the_worker_with_the_most_credit_whatever_types_share_it() -> None:
    table = TaskTable()
    for number in range(6):
        kind = "echo" if number % 2 else "other"
        table.submit(TaskId(f"t{number}"), TaskSpec(task_type=kind), CLIENT, 0)
    both = frozenset({"echo", "other"})
    offers = {WORKER: WorkerOffer(WORKER, both, 3), OTHER: WorkerOffer(OTHER, both, 2)}
    nodes = [node for _, node in plan(table, offers, count_max=100)]
    assert nodes[0] == WORKER
    assert (nodes.count(WORKER), nodes.count(OTHER)) == (3, 2)
    assert set(nodes[1:3]) == {WORKER, OTHER}


def test_what_a_removed_worker_ran_goes_to_another_one(world: World) -> None:
    world.submit("t")
    world.assign()
    applied = world.state.apply(c.LogCommand(at_ms=1, body=c.RemoveNode(node_id=WORKER)))
    assert (world.task().state, world.task().lost_count) == (TaskState.PENDING, 1)
    assert applied.touched[TableName.TASKS] == {"t"}
    assert world.state.tasks.running_on(WORKER) == ()


# What is handed back.


def test_what_is_handed_back_is_neither_a_failure_nor_a_loss(world: World) -> None:
    world.submit("t")
    for _ in range(ATTEMPT_LOST_MAX + 5):
        world.assign()
        hand_back(world, "t")
    task = world.task()
    assert (task.state, task.failed_count, task.lost_count) == (TaskState.PENDING, 0, 0)
    assert (task.attempt, task.failure) == (ATTEMPT_LOST_MAX + 5, None)


def test_what_is_handed_back_goes_to_the_next_worker_at_once(world: World) -> None:
    world.submit("t")
    world.assign()
    outcome = AttemptOutcome(
        id=AttemptId(TaskId("t"), 1), failure=HANDED_BACK, retryable=True, handed_back=True
    )
    body = c.FinishAttempts(node_id=WORKER, outcomes=(outcome,))
    applied = world.state.apply(c.LogCommand(at_ms=1, body=body))
    assert applied.touched == {TableName.TASKS: {"t"}}
    assert world.task().state is TaskState.PENDING


@pytest.mark.parametrize(("node", "attempt"), [(OTHER, 2), (WORKER, 1), (WORKER, 3)])
def test_only_its_worker_hands_an_attempt_back_and_only_the_present_one(
    world: World, node: NodeId, attempt: int
) -> None:
    world.submit("t")
    world.assign()
    hand_back(world, "t")
    world.assign()
    hand_back(world, "t", node, attempt)
    assert (world.task().state, world.task().attempt) == (TaskState.RUNNING, 2)


# Lost workers.


def test_a_lost_worker_wakes_who_gives_out_its_tasks_and_is_told_to_kill_them(
    world: World,
) -> None:
    world.submit("t", "u")
    world.assign("t")
    command = c.LogCommand(at_ms=5, body=c.SetLiveness(dead=(WORKER, OTHER)))
    applied = world.state.apply(command)
    assert applied.touched[TableName.TASKS] == {"t"}
    assert applied.effects == (AttemptsRevoked(WORKER, (AttemptId(TaskId("t"), 1),)),)


def test_a_stale_attempt_number_of_the_same_node_does_not_count(world: World) -> None:
    world.submit("t")
    world.assign()
    world.do(c.RequeueAttempts(ids=(AttemptId(TaskId("t"), 1),)))
    world.assign()
    for attempt in (1, 3):
        world.finish(attempt)
        assert world.task().state is TaskState.RUNNING
        assert not world.state.tasks.is_current(AttemptId(TaskId("t"), attempt), WORKER)
    world.do(c.RequeueAttempts(ids=(AttemptId(TaskId("t"), 1),)))
    assert world.task().state is TaskState.RUNNING
    world.finish(2)
    assert world.task().state is TaskState.SUCCEEDED


# Room.


def test_ended_tasks_make_room_the_oldest_first(world: World) -> None:
    """Found by a tester: ended tasks counted for 7 days, so every submission was refused."""
    world.do(config("task_count_max", "10"))
    world.do(config("task_ended_keep_min", "3"))
    for number in range(500):
        assert isinstance(world.submit(f"t{number}"), Accepted)
        end(world, f"t{number}")
        world.now_ms += 1
    assert kept(world) == [f"t{number}" for number in range(490, 500)]
    assert world.state.tasks.counts[TaskState.SUCCEEDED] == 10


def test_ended_tasks_make_no_room_below_the_number_that_is_kept(world: World) -> None:
    world.do(config("task_count_max", "10"))
    world.do(config("task_ended_keep_min", "3"))
    for number in range(5):
        world.submit(f"e{number}")
        end(world, f"e{number}")
    for number in range(7):
        assert isinstance(world.submit(f"t{number}"), Accepted), number
    assert kept(world)[:3] == ["e2", "e3", "e4"]
    refused = world.submit("more")
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOO_MANY_TASKS
    assert "7 tasks wait or run and 3 that ended are kept" in refused.message
    assert "task_count_max (10)" in refused.message
    assert len(world.state.tasks) == 10


def test_at_most_half_of_all_tasks_are_kept_ended_ones(world: World) -> None:
    """Otherwise a cluster with a small limit would accept nothing once that many had ended."""
    world.do(config("task_count_max", "4"))  # The default keeps 10,000.
    for number in range(20):
        world.submit(f"e{number}")
        end(world, f"e{number}")
    assert isinstance(world.submit("t", "u"), Accepted)
    assert kept(world) == ["e18", "e19", "t", "u"]
    assert world.submit("v").reason is Reason.TOO_MANY_TASKS


def test_a_submission_that_is_refused_makes_nobody_forget(world: World) -> None:
    world.do(config("task_count_max", "4"))
    for number in range(4):
        world.submit(f"e{number}")
        end(world, f"e{number}")
    assert world.submit("a", "b", "c").reason is Reason.TOO_MANY_TASKS
    unknown = world.submit("a", spec=TaskSpec(task_type="none"))
    assert unknown.reason is Reason.TASK_TYPE_UNKNOWN
    assert kept(world) == ["e0", "e1", "e2", "e3"]


def test_results_of_ended_tasks_make_room_for_payloads(world: World) -> None:
    kib = 1024
    world.do(config("task_bytes_max", str(1024 * kib)))
    for number in range(16):
        world.submit(f"e{number}", spec=TaskSpec(task_type="echo", payload=b"p" * kib))
        end(world, f"e{number}", b"r" * 64 * kib)
    assert world.state.tasks.stored_bytes == world.state.tasks.ended_bytes == 1024 * kib
    half = TaskSpec(task_type="echo", payload=b"p" * 512 * kib)
    assert isinstance(world.submit("t", spec=half), Accepted)
    assert kept(world) == [*(f"e{number}" for number in range(8, 16)), "t"]
    refused = world.submit("u")
    assert refused.reason is Reason.TOO_MANY_TASKS
    assert f"hold {512 * kib} bytes" in refused.message
    assert f"keep {512 * kib}" in refused.message
    assert "task_bytes_max" in refused.message


def test_results_make_room_for_results(world: World) -> None:
    kib = 1024
    world.do(config("task_bytes_max", str(1024 * kib)))
    names = [f"t{number}" for number in range(40)]
    world.submit(*names)
    for name in names:
        end(world, name, b"r" * 64 * kib)
        assert world.state.tasks.stored_bytes <= 1024 * kib
    assert kept(world) == names[-16:]


def test_a_lowered_number_leaves_the_ended_tasks_that_are_kept_in_any_case(world: World) -> None:
    """Running tasks were accepted already, and stay: they displace no more than a submission would."""
    world.submit(*(f"e{number}" for number in range(4)), *(f"t{number}" for number in range(9)))
    for number in range(4):
        end(world, f"e{number}")
    world.do(config("task_ended_keep_min", "3"))
    world.do(config("task_count_max", "8"))
    end(world, "t0")
    assert kept(world) == ["e2", "e3", *(f"t{number}" for number in range(9))]


def test_lowered_bytes_leave_the_results_that_are_kept_in_any_case(world: World) -> None:
    kib = 1024
    large = TaskSpec(task_type="echo", payload=b"p" * 512 * kib)
    world.submit("a", "b", "c")
    world.submit("d", spec=large)
    world.submit("e", spec=large)
    end(world, "a", b"r" * 64 * kib)
    world.do(config("task_bytes_max", str(1024 * kib)))
    end(world, "b", b"r" * 64 * kib)
    assert world.state.tasks.stored_bytes > 1024 * kib
    assert kept(world) == ["a", "b", "c", "d", "e"]


def test_one_command_forgets_a_bounded_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit(*(f"e{number}" for number in range(30)))
    for number in range(30):
        end(world, f"e{number}")
    world.do(config("task_count_max", "4"))
    monkeypatch.setattr(state_module, "EXPIRED_MAX", 5)
    for number in range(2):
        assert isinstance(world.submit(f"t{number}"), Accepted)
        assert world.state.tasks.ended_count == 25 - 5 * number
    assert isinstance(world.submit("t"), Rejected)


def test_what_ended_at_the_same_time_goes_in_the_order_of_submission(world: World) -> None:
    world.do(config("task_count_max", "4"))
    world.submit("a", "b", "c")
    for name in ("c", "a", "b"):
        end(world, name)
    world.submit("d", "e")
    assert kept(world) == ["b", "c", "d", "e"]


def test_expiry_forgets_what_ended_before_and_nothing_else(world: World) -> None:
    world.submit("a", "b", "c", "d")
    for at_ms, name in ((30, "a"), (10, "b"), (20, "c")):  # Clocks of leaders go back.
        world.now_ms = at_ms
        end(world, name)
    table = world.state.tasks
    assert table.expire(20, 10) == 1
    assert kept(world) == ["a", "c", "d"]
    assert table.expire(1000, 1) == 1
    assert kept(world) == ["a", "d"]
    assert (table.ended_count, table.unfinished_count) == (1, 1)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("submit", "end", "end", "cancel", "back", "dead", "alive")),
        st.integers(0, 12),
        st.integers(-2, 2),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.integers(0, 80))
def test_a_restored_replica_makes_the_same_room(
    changes: list[tuple[str, int, int]], restart_after: int
) -> None:
    worlds = (World(), World())
    for world in worlds:
        world.do(config("task_count_max", "6"))
        world.do(config("task_ended_keep_min", "2"))
    for position, (kind, number, milliseconds) in enumerate(changes):
        if position == restart_after:
            frozen = encode_snapshot(worlds[1].state.data())
            worlds[1].state = ClusterState(decode_snapshot(frozen))
        for world in worlds:
            world.now_ms += milliseconds
            change(world, kind, TaskId(f"t{number}"))
    always, restored = (world.state.tasks for world in worlds)
    assert always.copy() == restored.copy()
    assert waiting(worlds[0]) == waiting(worlds[1])
    for table in (always, restored):
        check_indexes(table)


def change(world: World, kind: str, task_id: TaskId) -> None:
    task = world.state.tasks.get(task_id)
    match kind:
        case "submit":
            if task is None:
                world.submit(task_id)
        case "end":
            if task is not None:
                end(world, task_id)
        case "cancel":
            world.do(c.CancelTask(task_id=task_id))
        case "back":
            if task is not None:
                world.assign(task_id)
                hand_back(world, task_id)
        case "dead":
            world.do(c.SetLiveness(dead=(WORKER,)))
        case "alive":
            world.do(c.SetLiveness(alive=(WORKER,)))


def check_indexes(table: TaskTable) -> None:
    def having(*states: TaskState) -> Iterator[str]:
        return (task.task_id for task in table if task.state in states)

    unfinished = list(having(TaskState.PENDING, TaskState.RUNNING))
    assert table.unfinished_count == len(unfinished)
    assert table.ended_count == len(table) - len(unfinished)
    assert table.stored_bytes == sum(task.stored_bytes for task in table)
    assert table.ended_bytes == sum(t.stored_bytes for t in table if t.state.is_terminal)
    assert sum(table.counts.values()) == len(table)
    pending = [t for by_type in table.pending() for queue in by_type.values() for _, t in queue]
    assert pending == list(having(TaskState.PENDING))
    running = [a.task_id for node in (WORKER, OTHER) for a in table.running_on(node)]
    assert sorted(running) == sorted(having(TaskState.RUNNING))


# Answers.


def test_answers_below_request_count_max_are_all_kept_and_the_oldest_goes_first() -> None:
    world = World()
    world.do(config("request_count_max", "1000"))
    for number in range(1000):
        world.do(config("user.n", str(number)), f"r{number}")
    world.do(config("user.n", "now"))
    for number in (0, 1, 999):
        assert isinstance(world.do(config("user.n", str(number)), f"r{number}"), Accepted)
        assert world.state.settings.text("user.n") == "now", "it was carried out again"
    world.do(config("user.n", "now"), "one more")
    world.do(config("user.n", "1"), "r1")
    assert world.state.settings.text("user.n") == "now"
    world.do(config("user.n", "0"), "r0")
    assert world.state.settings.text("user.n") == "0", "the oldest answer was kept"

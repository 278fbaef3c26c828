"""Which worker gets a task: one with a free slot comes first."""

from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import TaskSpec
from ipfs_cluster_node.core.scheduler import WorkerOffer, plan
from ipfs_cluster_node.core.tasks import TaskTable
from tests.support.worlds import CLIENT

A, B, C = map(NodeId, "abc")
ECHO = frozenset({"echo"})


def waiting(count: int) -> TaskTable:
    table = TaskTable()
    for number in range(count):
        table.submit(TaskId(f"t{number}"), TaskSpec(task_type="echo"), CLIENT, 0)
    return table


def given_to(count: int, *offers: WorkerOffer) -> list[NodeId]:
    by_id = {offer.node_id: offer for offer in offers}
    return [node for _, node in plan(waiting(count), by_id, count_max=10_000)]


def test_no_task_waits_behind_taken_slots_while_another_worker_has_free_ones() -> None:
    """Found by a tester: 4 tasks of 10 s went to one worker with 2 slots, beside an idle one."""
    ahead = WorkerOffer(A, ECHO, credit=200, free_slots=2)
    idle = WorkerOffer(B, ECHO, credit=2, free_slots=2)
    assert sorted(given_to(4, ahead, idle)) == [A, A, B, B]
    busy = WorkerOffer(A, ECHO, credit=200, free_slots=0)
    assert given_to(4, busy, idle) == [B, B, A, A]
    beyond = WorkerOffer(A, ECHO, credit=200, free_slots=-50)
    assert given_to(4, beyond, idle) == [B, B, A, A]


def test_among_workers_with_free_slots_the_one_with_the_most_comes_first_then_credit() -> None:
    assert given_to(1, WorkerOffer(A, ECHO, 9, 1), WorkerOffer(B, ECHO, 3, 2)) == [B]
    assert given_to(1, WorkerOffer(A, ECHO, 3, 2), WorkerOffer(B, ECHO, 9, 2)) == [B]
    assert given_to(1, WorkerOffer(B, ECHO, 9, 2), WorkerOffer(A, ECHO, 9, 2)) == [A]


def test_without_free_slots_anywhere_tasks_are_read_ahead_by_credit() -> None:
    offers = WorkerOffer(A, ECHO, 5, 0), WorkerOffer(B, ECHO, 3, -2)
    assert given_to(8, *offers).count(A) == 5
    assert given_to(2, *offers) == [A, A]


@given(
    st.lists(st.tuples(st.integers(-3, 5), st.integers(-3, 4)), min_size=1, max_size=5),
    st.integers(0, 30),
)
def test_every_step_of_a_plan_takes_a_free_slot_as_long_as_there_is_one(
    workers: list[tuple[int, int]], count: int
) -> None:
    credit = {NodeId(f"w{n}"): each for n, (each, _) in enumerate(workers)}
    free = {NodeId(f"w{n}"): each for n, (_, each) in enumerate(workers)}
    planned = given_to(count, *(WorkerOffer(n, ECHO, credit[n], free[n]) for n in credit))
    assert len(planned) == min(count, sum(max(0, each) for each in credit.values()))
    for node in planned:
        able = [each for each in credit if credit[each] > 0]
        best = max(able, key=lambda each: (max(0, free[each]), credit[each]))
        assert (max(0, free[node]), credit[node]) == (max(0, free[best]), credit[best])
        credit[node] -= 1
        free[node] -= 1

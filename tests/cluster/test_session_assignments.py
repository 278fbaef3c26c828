"""Credit and assignments of a session. Simulated time; log and gRPC in memory."""

import asyncio

from ipfs_cluster_node.cluster.dispatch import ASSIGNMENTS_PER_COMMAND_MAX, RETRY_SECONDS
from ipfs_cluster_node.cluster.outbox import ASSIGNMENT_BYTES_MAX, ASSIGNMENTS_PER_MESSAGE_MAX
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.credit import CREDIT_MAX
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import TaskSpec, TaskState
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import attempt, until
from tests.support.sessions import failure, leading, proposals, result
from tests.support.virtual_time import virtual_time
from tests.support.worlds import CLIENT, OTHER, WORKER

# Credit.


@virtual_time
async def test_credit_that_is_taken_back_is_not_used_and_has_a_bound() -> None:
    async with leading() as its:
        worker = await its.worker(credit=5)
        await worker.credit(-3)
        its.submit(1, 2, 3)
        await until(lambda: len(worker.assigned) == 2)
        await worker.credit(-(2**31))
        await worker.credit(0)
        await worker.credit(CREDIT_MAX)
        await asyncio.sleep(1)
        assert len(worker.assigned) == 2
        await worker.credit(1)
        await until(lambda: len(worker.assigned) == 3)
        assert worker.ended is None


@virtual_time
async def test_credit_adds_up_is_used_up_and_has_a_bound() -> None:
    async with leading() as its:
        its.submit(*range(10))
        worker = await its.worker(credit=2)
        await until(lambda: len(worker.assigned) == 2)
        await worker.credit(1)
        await worker.credit(2)
        await until(lambda: len(worker.assigned) == 5)
        await asyncio.sleep(1)
        assert len(worker.assigned) == 5
        await worker.credit(2**31 - 1)
        await until(lambda: len(worker.assigned) == 10)
        assert its.sessions._sessions[WORKER].credit == CREDIT_MAX - 5


@virtual_time
async def test_a_worker_that_said_goodbye_gets_nothing_and_is_still_heard() -> None:
    async with leading() as its:
        its.submit(1, 2)
        worker = await its.worker(credit=1)
        await until(lambda: len(worker.assigned) == 1)
        await worker.credit(5)
        await until(lambda: len(worker.assigned) == 2)
        await worker.say(goodbye=pb.WorkerGoodbye())
        await worker.tell(
            result(1, data=b"r"),
            failure(
                2, reason=errors_pb2.ERROR_REASON_WORKER_LOST, retryable=True, handed_back=True
            ),
        )
        await until(lambda: set(worker.confirmed) == {attempt(1), attempt(2)})
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.SUCCEEDED
        assert (its.task(2).state, its.task(2).lost_count) == (TaskState.PENDING, 0)
        other = await its.worker(node=OTHER, credit=1)
        await until(lambda: attempt(2, 2) in other.assigned)


@virtual_time
async def test_assignments_go_in_messages_of_bounded_number_and_bytes() -> None:
    async with leading() as its:
        its.submit(*range(600))
        worker = await its.worker(credit=CREDIT_MAX)
        await until(lambda: len(worker.assigned) == 600)
        assert max(len(b.assignments) for b in worker.batches) == ASSIGNMENTS_PER_MESSAGE_MAX
        assert [len(body.assignments) for body in proposals(its, c.AssignTasks)] == [
            ASSIGNMENTS_PER_COMMAND_MAX,
            600 - ASSIGNMENTS_PER_COMMAND_MAX,
        ]
        worker.batches.clear()
        third = b"x" * (ASSIGNMENT_BYTES_MAX // 3)
        its.submit(*range(1000, 1010), payload=third)
        await until(lambda: len(worker.assigned) == 610)
        assert [len(b.assignments) for b in worker.batches] == [3, 3, 3, 1]
        assert worker.assigned[attempt(1000)].payload == third
        worker.batches.clear()
        its.submit(*range(1010, 1020), payload=b"x" * (ASSIGNMENT_BYTES_MAX // 4))
        await until(lambda: len(worker.assigned) == 620)
        assert [len(b.assignments) for b in worker.batches] == [4, 4, 2]  # To the last byte.
        its.submit(*range(2000, 2003), payload=b"x" * ASSIGNMENT_BYTES_MAX)
        worker.batches.clear()
        await until(lambda: len(worker.assigned) == 623)
        assert [len(b.assignments) for b in worker.batches] == [1, 1, 1]


@virtual_time
async def test_an_assignment_that_is_not_committed_is_tried_again_after_a_moment() -> None:
    async with leading() as its:
        worker = await its.worker(credit=1)
        refusals = [ClusterError(Reason.OVERLOADED, "later")] * 3
        tried = 0

        def refuses(body: object) -> ClusterError | None:
            nonlocal tried
            tried += isinstance(body, c.AssignTasks)
            return refusals.pop() if refusals else None

        its.consensus.refuses = refuses
        its.submit(1)
        await asyncio.sleep(2.5 * RETRY_SECONDS)
        assert tried == 3
        await until(lambda: bool(worker.assigned), 1.0)


@virtual_time
async def test_a_dead_node_gets_nothing_and_work_again_once_it_is_alive() -> None:
    """Nothing else wakes the planner: the credit was granted before."""
    async with leading() as its:
        worker = await its.worker(credit=2)
        its.consensus.commit(c.SetLiveness(dead=(WORKER,)))
        its.submit(1)
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.PENDING
        assert its.consensus.proposed == []  # Otherwise it would try for ever.
        its.consensus.commit(c.SetLiveness(alive=(WORKER,)))
        await until(lambda: bool(worker.assigned), 1.0)


@virtual_time
async def test_a_lost_worker_has_others_woken_and_is_told_to_kill() -> None:
    async with leading() as its:
        its.submit(1, 2)
        worker = await its.worker(credit=2)
        await until(lambda: len(worker.assigned) == 2)
        other = await its.worker(node=OTHER, credit=2)
        await asyncio.sleep(1)
        its.consensus.commit(c.SetLiveness(dead=(WORKER,)))
        await until(lambda: set(other.assigned) == {attempt(1, 2), attempt(2, 2)}, 1.0)
        await until(lambda: set(worker.cancelled) == {attempt(1), attempt(2)}, 1.0)


@virtual_time
async def test_a_task_that_is_cancelled_is_killed_at_its_worker() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.consensus.commit(c.CancelTask(task_id=TaskId("t1")))
        await until(lambda: worker.cancelled == [attempt(1)], 1.0)
        its.consensus.committed.tasks.submit(TaskId("t7"), TaskSpec(task_type="echo"), CLIENT, 0)
        its.consensus.commit(c.CancelTask(task_id=TaskId("t7")))


@virtual_time
async def test_a_worker_gets_the_types_that_it_has_handlers_for() -> None:
    async with leading() as its:
        register = c.RegisterNode(
            node_id=OTHER, endpoints=(), task_types=("other",), slot_count=1, version="1"
        )
        its.consensus.commit(register)
        other = await its.worker(node=OTHER, credit=5)
        its.submit(1)
        await asyncio.sleep(1)
        assert not other.assigned

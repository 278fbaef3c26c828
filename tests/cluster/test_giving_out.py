"""How a leader assigns attempts: to which workers, and what it buffers for slow readers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ipfs_cluster_node.access.turns import Turn, Turns, set_turn
from ipfs_cluster_node.cluster.outbox import ASSIGNMENT_BYTES_MAX, Outbox
from ipfs_cluster_node.codec.sessions import hello_to_proto
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.backoff import BACKOFF_SECONDS, BACKOFF_SECONDS_MAX
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import attempt, until
from tests.support.sessions import ScriptedWorker, failure, leading, proposals, result
from tests.support.virtual_time import monotonic, virtual_time
from tests.support.worlds import OTHER, WORKER

LOST = errors_pb2.ERROR_REASON_WORKER_LOST


def handed_back(number: int, count: int = 1) -> pb.AttemptOutcome:
    return failure(number, count, reason=LOST, retryable=True, handed_back=True)


class Silent:
    """A worker that sends and reads only what the test does."""

    def __init__(self, its: Any, node: NodeId = WORKER) -> None:
        self.requests: asyncio.Queue[pb.WorkerSessionRequest] = asyncio.Queue()
        self.session = its.sessions.worker_session(node, self._said())

    async def _said(self) -> AsyncIterator[pb.WorkerSessionRequest]:
        while True:
            yield await self.requests.get()

    def say(self, **message: Any) -> None:
        self.requests.put_nowait(pb.WorkerSessionRequest(**message))

    async def begin(self, credit: int) -> None:
        self.say(hello=hello_to_proto((), 0))
        await anext(self.session)
        self.say(credit=pb.WorkerCredit(attempt_count=credit))


# What is buffered for a worker.


@virtual_time
async def test_payloads_are_not_held_for_a_worker_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by a tester: the leader buffered thousands of messages of 1 MiB each."""
    made = 0
    assignments = Outbox._assignments

    def counted(self: Outbox) -> pb.WorkerSessionResponse | None:
        nonlocal made
        made += 1
        return assignments(self)

    monkeypatch.setattr(Outbox, "_assignments", counted)
    async with leading() as its:
        worker = Silent(its)
        await worker.begin(100)
        its.submit(*range(100), payload=bytes(ASSIGNMENT_BYTES_MAX))
        first = await anext(worker.session)
        await asyncio.sleep(5)
        assert len(first.assignments.assignments) == 1
        assert its.state.tasks.running_count(WORKER) == 100
        assert made == 1
        held = its.sessions._sessions[WORKER].outbox._queue
        assert len(held) == 99
        assert all(
            attempt == which
            for (_, which), attempt in zip(held, map(attempt, range(1, 100)), strict=True)
        )
        await worker.session.aclose()


@virtual_time
async def test_what_is_not_current_any_longer_is_left_out_and_its_credit_is_not_lost() -> None:
    async with leading() as its:
        worker = Silent(its)
        await worker.begin(2)
        its.submit(0, payload=bytes(ASSIGNMENT_BYTES_MAX))
        await anext(worker.session)
        its.submit(1, 2, payload=bytes(ASSIGNMENT_BYTES_MAX))
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.RUNNING
        its.consensus.commit(c.CancelTask(task_id=TaskId("t1")))
        message = await anext(worker.session)
        assert message.WhichOneof("message") == "cancellations"
        # Otherwise a worker with one slot would wait for ever.
        message = await asyncio.wait_for(anext(worker.session), 1)
        assert [each.id.task_id for each in message.assignments.assignments] == ["t2"]
        await worker.session.aclose()


@virtual_time
async def test_others_have_their_turn_between_messages_that_copy_much() -> None:
    """Found by a tester: 240 payloads of 1 MiB were copied at once, and blocked the loop for 0.5 s."""

    class Spent(Turn):
        waited = 0

        @property
        def over(self) -> bool:
            return True

        async def next(self) -> None:
            Spent.waited += 1
            await asyncio.sleep(0)

    async with leading() as its:
        set_turn(Spent(Turns(monotonic), "worker"))
        worker = Silent(its)
        await worker.begin(100)
        its.submit(*range(10), payload=bytes(ASSIGNMENT_BYTES_MAX))
        for _ in range(10):
            await anext(worker.session)
        assert Spent.waited == 10
        its.submit(10)
        await anext(worker.session)
        assert Spent.waited == 10  # Short messages do not wait.
        await worker.session.aclose()


# Workers that hand back what they get.


async def give_back(worker: ScriptedWorker, at: list[float], reason: dict[str, Any]) -> None:
    told: set[Any] = set()
    while True:
        for which in [each for each in worker.assigned if each not in told]:
            told.add(which)
            at.append(monotonic())
            number = int(which.task_id[1:])
            await worker.tell(failure(number, which.attempt, reason=LOST, retryable=True, **reason))
            await worker.credit(1)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("reason", [{"handed_back": True}, {}], ids=["handed back", "lost"])
@virtual_time
async def test_a_worker_that_hands_back_all_it_gets_backs_off_ever_longer_and_others_get_the_tasks(
    reason: dict[str, Any],
) -> None:
    """Found by a tester: 23,674 assignments in 15 s, and none of 20 tasks ended."""
    async with leading() as its:
        bad = await its.worker(credit=20)
        at: list[float] = []
        back = asyncio.create_task(give_back(bad, at, reason))
        its.submit(1)
        await asyncio.sleep(40)
        back.cancel()
        assert len(at) == 6  # After 1, 2, 4, 8 and 16 s.
        assert its.task(1).state is TaskState.PENDING
        good = await its.worker(node=OTHER, credit=1)
        await until(lambda: bool(good.assigned), 1.0)


@virtual_time
async def test_what_a_worker_hands_back_goes_to_another_at_once() -> None:
    async with leading() as its:
        bad = await its.worker(credit=30)
        its.submit(*range(20))
        await until(lambda: len(bad.assigned) == 20)
        good = await its.worker(node=OTHER, credit=20)
        await bad.tell(*map(handed_back, range(20)))
        await until(lambda: len(good.assigned) == 20, BACKOFF_SECONDS / 2)
        assert len(bad.assigned) == 20


@virtual_time
async def test_a_worker_that_handed_back_is_given_tasks_again_after_its_rest_though_nothing_else_happens() -> (
    None
):
    async with leading() as its:
        worker = await its.worker(credit=5)
        its.submit(1)
        await until(lambda: bool(worker.assigned))
        before = monotonic()
        await worker.tell(handed_back(1))
        await until(lambda: attempt(1, 2) in worker.assigned, 2 * BACKOFF_SECONDS)
        assert monotonic() - before >= BACKOFF_SECONDS
        await worker.tell(result(1, 2))
        await until(lambda: its.task(1).state is TaskState.SUCCEEDED)
        its.submit(2)
        await until(lambda: attempt(2) in worker.assigned, 0.1)


@virtual_time
async def test_neither_a_new_session_nor_outcomes_of_what_it_does_not_have_end_a_rest() -> None:
    async with leading() as its:
        worker = await its.worker(credit=5)
        its.submit(1)
        for count in range(1, 6):
            which = attempt(1, count)
            while which not in worker.assigned:
                await asyncio.sleep(0.01)
            before = monotonic()
            await worker.tell(result(9), handed_back(1, count))
            while len(worker.confirmed) < 2:
                await asyncio.sleep(0.01)
            worker = await its.worker(credit=5)
        await until(lambda: attempt(1, 6) in worker.assigned, BACKOFF_SECONDS_MAX)
        assert monotonic() - before > 15.0
        assert len(proposals(its, c.AssignTasks)) == 6


# Free slots.


@virtual_time
async def test_long_tasks_go_to_the_free_slots_and_not_behind_taken_ones() -> None:
    """Found by a tester: all 4 tasks of 10 s went to a worker that had granted much credit."""
    async with leading() as its:
        for node in (WORKER, OTHER):
            its.consensus.commit(
                c.RegisterNode(
                    node_id=node, endpoints=(), task_types=("echo",), slot_count=2, version="1"
                )
            )
        ahead = await its.worker(credit=200)
        its.submit(1)
        await until(lambda: len(ahead.assigned) == 1)
        idle = await its.worker(node=OTHER, credit=2)
        await asyncio.sleep(0.1)
        its.submit(2, 3, 4)
        await until(lambda: len(ahead.assigned) + len(idle.assigned) == 4)
        assert len(idle.assigned) == 2

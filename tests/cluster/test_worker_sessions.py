"""The leader's side of workers' sessions. Time is simulated; the log and gRPC are memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.protobuf.message import Message

from ipfs_cluster_node.access.turns import Turn, set_turn
from ipfs_cluster_node.cluster import outbox as outbox_module
from ipfs_cluster_node.cluster.outbox import ASSIGNMENT_BYTES_MAX, ASSIGNMENTS_PER_MESSAGE_MAX
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.cluster.worker_sessions import (
    ASSIGNMENTS_PER_COMMAND_MAX,
    HELLO_ATTEMPTS_MAX,
    OUTCOME_BYTES_MAX,
    OUTCOMES_PER_COMMAND_MAX,
    RETRY_SECONDS,
    Sessions,
)
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.tasks import attempt_from_proto, attempt_to_proto
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.credit import CREDIT_MAX
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import (
    NOTE_CHARS_MAX,
    OUTPUT_TAIL_BYTES_MAX,
    RESULT_INLINE_BYTES_MAX,
    AttemptId,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from tests.support.dispatch import MemoryCall, MemoryLeadership, attempt, rpc_error, until
from tests.support.virtual_time import virtual_time
from tests.support.worlds import CLIENT, OTHER, WORKER, World

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


class ScriptedWorker:
    """The other side of a session, in a test's hand."""

    def __init__(self, sessions: Sessions, node_id: NodeId) -> None:
        self.call = MemoryCall(lambda requests: sessions.worker_session(node_id, requests))
        self.assigned: dict[AttemptId, pb.TaskSpec] = {}
        self.batches: list[pb.Assignments] = []
        self.confirmed: list[AttemptId] = []
        self.cancelled: list[AttemptId] = []
        self.stale: list[AttemptId] | None = None
        self.ended: ClusterError | None = None
        self.reads = True
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while isinstance(message := await self.call.read(), Message):
                assert isinstance(message, pb.WorkerSessionResponse)
                match message.WhichOneof("message"):
                    case "welcome":
                        self.stale = [attempt_from_proto(a) for a in message.welcome.stale]
                    case "assignments":
                        self.batches.append(message.assignments)
                        for each in message.assignments.assignments:
                            self.assigned[attempt_from_proto(each.id)] = each.spec
                    case "confirmed":
                        self.confirmed += [attempt_from_proto(a) for a in message.confirmed.ids]
                    case "cancellations":
                        self.cancelled += map(attempt_from_proto, message.cancellations.ids)
        except Exception as error:
            self.ended = error_from_rpc(error)  # type: ignore[arg-type]

    async def say(self, **message: Any) -> None:
        await self.call.write(pb.WorkerSessionRequest(**message))

    async def hello(self, *attempts: AttemptId, boot: int = 0) -> None:
        hello = pb.WorkerHello(attempts=map(attempt_to_proto, attempts), boot=boot)
        with suppress(asyncio.InvalidStateError):  # It was refused at once.
            await self.say(hello=hello)
        await until(lambda: self.stale is not None or self.ended is not None)

    async def credit(self, count: int) -> None:
        await self.say(credit=pb.WorkerCredit(attempt_count=count))

    async def tell(self, *outcomes: pb.AttemptOutcome) -> None:
        await self.say(outcomes=pb.AttemptOutcomes(outcomes=outcomes))


@asynccontextmanager
async def leading() -> AsyncIterator[Any]:
    """A leader without workers in a session."""
    world = World()
    leadership = MemoryLeadership(world.state)
    tasks = Tasks(leadership)  # type: ignore[arg-type]
    sessions = Sessions(leadership, tasks)  # type: ignore[arg-type]
    leadership.listeners += [tasks.on_effect, sessions.on_effect]
    running = asyncio.create_task(sessions.run())

    async def worker(*held: AttemptId, node: NodeId = WORKER, credit: int = 0) -> ScriptedWorker:
        made = ScriptedWorker(sessions, node)
        await made.hello(*held)
        if credit:
            await made.credit(credit)
        return made

    def submit(*numbers: int, payload: bytes = b"x") -> None:
        spec = TaskSpec(task_type="echo", payload=payload)
        ids = tuple(TaskId(f"t{number}") for number in numbers)
        body = c.SubmitTasks(
            task_ids=ids, specs=(spec,) * len(ids), fingerprint=sha256(payload).digest()
        )
        leadership.commit(body, caller=CLIENT)

    def task(number: int) -> Any:
        return world.state.tasks.get(TaskId(f"t{number}"))

    try:
        yield SimpleNamespace(
            leadership=leadership,
            tasks=tasks,
            sessions=sessions,
            worker=worker,
            submit=submit,
            task=task,
            state=world.state,
        )
    finally:
        assert not running.done(), "the loop that plans must not end"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def result(number: int, count: int = 1, **fields: Any) -> pb.AttemptOutcome:
    return pb.AttemptOutcome(
        id=attempt_to_proto(attempt(number, count)), result=pb.TaskResult(**fields)
    )


def failure(number: int, count: int = 1, **fields: Any) -> pb.AttemptOutcome:
    return pb.AttemptOutcome(
        id=attempt_to_proto(attempt(number, count)), failure=pb.AttemptFailure(**fields)
    )


def proposals(its: Any, kind: type) -> list[Any]:
    return [body for body in its.leadership.proposed if isinstance(body, kind)]


# How a session begins and ends.


@virtual_time
async def test_a_session_begins_with_hello_and_only_of_a_member() -> None:
    async with leading() as its:
        early = ScriptedWorker(its.sessions, WORKER)
        await early.credit(1)
        await until(lambda: early.ended is not None)
        assert early.ended is not None
        assert early.ended.reason is Reason.INVALID_ARGUMENT
        stranger = ScriptedWorker(its.sessions, NodeId("stranger"))
        await stranger.hello()
        assert stranger.ended is not None
        assert stranger.ended.reason is Reason.MEMBER_NOT_FOUND
        twice = await its.worker()
        await twice.say(hello=pb.WorkerHello())
        await until(lambda: twice.ended is not None)
        assert twice.ended.reason is Reason.INVALID_ARGUMENT


@virtual_time
async def test_a_hello_names_a_bounded_number_of_attempts_and_takes_turns_with_others() -> None:
    """One with 450,000 was read, looked up and answered at once, and the leader changed."""
    turns: list[int] = []

    class Over:
        over = True

        async def next(self) -> None:
            turns.append(1)

    async with leading() as its:
        held = [attempt(number) for number in range(HELLO_ATTEMPTS_MAX + 1)]
        many = ScriptedWorker(its.sessions, WORKER)
        await many.hello(*held)
        assert many.ended is not None
        assert many.ended.reason is Reason.INVALID_ARGUMENT
        assert str(HELLO_ATTEMPTS_MAX) in str(many.ended)
        set_turn(cast("Turn", Over()))
        legal = ScriptedWorker(its.sessions, WORKER)
        await legal.hello(*held[1:])
        assert legal.stale is not None
        assert set(legal.stale) == set(held[1:])
        # Each was read in its turn, and looked up in another.
        assert len(turns) == 2 * HELLO_ATTEMPTS_MAX


@virtual_time
async def test_what_a_worker_lost_goes_to_others_and_what_is_stale_is_named() -> None:
    """A mutant that nobody noticed: attempts lost at a worker's hello were not requeued."""
    async with leading() as its:
        its.submit(1, 2, 3)
        first = await its.worker(credit=3)
        await until(lambda: len(first.assigned) == 3)
        first.call.cut()
        other = await its.worker(node=OTHER, credit=5)
        await asyncio.sleep(1)
        assert not other.assigned
        again = await its.worker(attempt(1), attempt(1, 7), attempt(9))
        assert set(again.stale) == {attempt(1, 7), attempt(9)}
        await until(lambda: set(other.assigned) == {attempt(2, 2), attempt(3, 2)})
        assert proposals(its, c.RequeueAttempts) == [
            c.RequeueAttempts(ids=(attempt(2), attempt(3)))
        ]
        assert (its.task(1).state, its.task(1).attempt) == (TaskState.RUNNING, 1)
        assert its.task(2).lost_count == 1


@virtual_time
async def test_a_worker_that_lost_nothing_makes_no_entry_in_the_log() -> None:
    async with leading() as its:
        its.submit(1)
        first = await its.worker(credit=1)
        await until(lambda: bool(first.assigned))
        its.leadership.proposed.clear()
        await its.worker(attempt(1))
        assert its.leadership.proposed == []


@virtual_time
async def test_a_newer_session_takes_the_place_of_the_older_one_and_gets_its_work() -> None:
    async with leading() as its:
        old = await its.worker(credit=5)
        new = await its.worker(credit=2)
        await until(lambda: old.ended is not None)
        assert old.ended.reason is Reason.SHUTTING_DOWN
        await asyncio.sleep(0.1)
        its.submit(1, 2, 3)
        await until(lambda: len(new.assigned) == 2)
        assert not old.assigned
        await asyncio.sleep(1)
        assert its.task(3).state is TaskState.PENDING  # The old credit is void.


@virtual_time
async def test_another_process_of_the_same_worker_waits_until_the_session_has_ended() -> None:
    """A copied worker is refused; a worker that was started again is not."""
    async with leading() as its:
        first = ScriptedWorker(its.sessions, WORKER)
        await first.hello(boot=5)
        copy = ScriptedWorker(its.sessions, WORKER)
        await copy.hello(boot=6)
        assert copy.ended is not None
        assert copy.ended.reason is Reason.MEMBER_RUNS_TWICE
        assert first.ended is None
        first.call.cut()
        await asyncio.sleep(1)
        again = ScriptedWorker(its.sessions, WORKER)
        await again.hello(boot=6)
        assert again.ended is None


@virtual_time
async def test_nobody_reads_a_session_that_has_ended() -> None:
    async with leading() as its:
        old = await its.worker(credit=1)
        await its.worker()
        await until(lambda: old.ended is not None)
        await asyncio.sleep(0)
        readers = [t for t in asyncio.all_tasks() if t.get_name() == f"session-{WORKER}"]
        assert len(readers) == 1


@virtual_time
async def test_an_assignment_under_way_goes_to_the_newer_session() -> None:
    async with leading() as its:
        await its.worker(credit=1)
        its.leadership.commit_seconds = 0.5
        its.submit(1)
        await asyncio.sleep(0.1)
        new = await its.worker()
        await until(lambda: set(new.assigned) == {attempt(1)})
        await new.credit(1)  # Its own count went down by one as well.
        its.submit(2)
        await asyncio.sleep(2)
        assert its.task(2).state is TaskState.PENDING
        await new.credit(1)
        await until(lambda: attempt(2) in new.assigned)


@virtual_time
async def test_a_hello_that_can_not_be_committed_leaves_no_session_behind() -> None:
    async with leading() as its:
        its.submit(1)
        first = await its.worker(credit=1)
        await until(lambda: bool(first.assigned))
        its.leadership.refuses = lambda _: ClusterError(Reason.OVERLOADED, "later")
        second = await its.worker()
        assert second.ended is not None
        assert second.ended.reason is Reason.OVERLOADED
        assert its.sessions._sessions == {}
        its.leadership.refuses = lambda _: None
        third = await its.worker(credit=1)
        await until(lambda: attempt(1, 2) in third.assigned)


@virtual_time
async def test_a_session_whose_worker_is_gone_gets_nothing() -> None:
    async with leading() as its:
        worker = await its.worker(credit=5)
        worker.call.cancel()
        await asyncio.sleep(0.01)
        assert its.sessions._sessions == {}
        its.submit(1)
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.PENDING


@virtual_time
async def test_a_worker_that_ends_its_session_has_its_confirmations_first() -> None:
    async with leading() as its:
        its.submit(1)
        requests: asyncio.Queue[pb.WorkerSessionRequest | None] = asyncio.Queue()

        async def said() -> AsyncIterator[pb.WorkerSessionRequest]:
            while (message := await requests.get()) is not None:
                yield message

        requests.put_nowait(pb.WorkerSessionRequest(hello=pb.WorkerHello()))
        credit = pb.WorkerCredit(attempt_count=1)
        requests.put_nowait(pb.WorkerSessionRequest(credit=credit))
        heard = []
        with pytest.raises(ClusterError) as ended:
            async for message in its.sessions.worker_session(WORKER, said()):
                heard.append(message.WhichOneof("message"))
                if heard[-1] == "assignments":
                    outcomes = pb.AttemptOutcomes(outcomes=[result(1)])
                    requests.put_nowait(pb.WorkerSessionRequest(outcomes=outcomes))
                    requests.put_nowait(None)
        assert heard == ["welcome", "assignments", "confirmed"]
        assert ended.value.reason is Reason.SHUTTING_DOWN


@virtual_time
async def test_a_leader_that_follows_ends_every_session_and_gives_nothing_out() -> None:
    async with leading() as its:
        workers = [await its.worker(credit=3), await its.worker(node=OTHER, credit=3)]
        its.leadership.is_leader = False
        its.sessions.on_leadership(False)
        await until(lambda: all(worker.ended for worker in workers))
        assert {worker.ended.reason for worker in workers} == {Reason.NOT_LEADER}
        its.submit(1)
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.PENDING
        late = await its.worker()
        assert late.ended is not None
        its.leadership.is_leader = True
        its.sessions.on_leadership(True)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))


@virtual_time
async def test_a_new_leader_gives_out_what_waited_under_the_old_one() -> None:
    async with leading() as its:
        its.leadership.is_leader = False
        its.submit(1)
        await asyncio.sleep(0.1)
        its.leadership.is_leader = True
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.submit(2)
        await worker.tell(result(1))
        await until(lambda: its.task(1).state is TaskState.SUCCEEDED)


@virtual_time
async def test_leadership_lost_while_an_assignment_was_under_way_sends_nothing() -> None:
    async with leading() as its:
        worker = await its.worker(credit=2)
        its.leadership.commit_seconds = 0.5
        its.submit(1)
        await asyncio.sleep(0.1)
        its.leadership.is_leader = False
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.RUNNING  # Committed all the same.
        assert not worker.assigned


@virtual_time
async def test_a_worker_that_reads_too_slowly_loses_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "OUTBOX_ATTEMPTS_MAX", 3)
    async with leading() as its:
        requests: asyncio.Queue[pb.WorkerSessionRequest] = asyncio.Queue()

        async def said() -> AsyncIterator[pb.WorkerSessionRequest]:
            while True:
                yield await requests.get()

        requests.put_nowait(pb.WorkerSessionRequest(hello=pb.WorkerHello()))
        session = its.sessions.worker_session(WORKER, said())
        await anext(session)
        for number in range(3):
            outcomes = pb.AttemptOutcomes(outcomes=[failure(number)])
            requests.put_nowait(pb.WorkerSessionRequest(outcomes=outcomes))
        begun = asyncio.create_task(anext(session))
        await begun  # The reader runs; from here on nobody takes what it answers.
        await asyncio.sleep(1)
        for number in range(3, 5):
            outcomes = pb.AttemptOutcomes(outcomes=[failure(number)])
            requests.put_nowait(pb.WorkerSessionRequest(outcomes=outcomes))
        await asyncio.sleep(1)
        with pytest.raises(ClusterError) as ended:
            await anext(session)
        assert ended.value.reason is Reason.OVERLOADED


@virtual_time
async def test_a_defect_of_the_leaders_ends_the_session_instead_of_leaving_it_deaf() -> None:
    async with leading() as its:
        worker = await its.worker()
        its.tasks.on_progress = None
        its.submit(1)
        await worker.credit(1)
        await until(lambda: bool(worker.assigned))
        await worker.say(progress=pb.AttemptProgress(id=attempt_to_proto(attempt(1))))
        await until(lambda: worker.ended is not None)
        assert worker.ended.reason is Reason.INTERNAL


@virtual_time
async def test_a_message_of_a_newer_release_is_passed_over() -> None:
    async with leading() as its:
        worker = await its.worker()
        await worker.say()
        await worker.credit(1)
        its.submit(1)
        await until(lambda: bool(worker.assigned))


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


# Assignments.


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

        its.leadership.refuses = refuses
        its.submit(1)
        await asyncio.sleep(2.5 * RETRY_SECONDS)
        assert tried == 3
        await until(lambda: bool(worker.assigned), 1.0)


@virtual_time
async def test_a_dead_node_gets_nothing_and_work_again_once_it_is_alive() -> None:
    """Nothing else woke the planner: its credit had come before."""
    async with leading() as its:
        worker = await its.worker(credit=2)
        its.leadership.commit(c.SetLiveness(dead=(WORKER,)))
        its.submit(1)
        await asyncio.sleep(1)
        assert its.task(1).state is TaskState.PENDING
        assert its.leadership.proposed == []  # Else it would try for ever.
        its.leadership.commit(c.SetLiveness(alive=(WORKER,)))
        await until(lambda: bool(worker.assigned), 1.0)


@virtual_time
async def test_a_lost_worker_has_others_woken_and_is_told_to_kill() -> None:
    async with leading() as its:
        its.submit(1, 2)
        worker = await its.worker(credit=2)
        await until(lambda: len(worker.assigned) == 2)
        other = await its.worker(node=OTHER, credit=2)
        await asyncio.sleep(1)
        its.leadership.commit(c.SetLiveness(dead=(WORKER,)))
        await until(lambda: set(other.assigned) == {attempt(1, 2), attempt(2, 2)}, 1.0)
        await until(lambda: set(worker.cancelled) == {attempt(1), attempt(2)}, 1.0)


@virtual_time
async def test_a_task_that_is_cancelled_is_killed_at_its_worker() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.leadership.commit(c.CancelTask(task_id=TaskId("t1")))
        await until(lambda: worker.cancelled == [attempt(1)], 1.0)
        its.leadership.committed.tasks.submit(TaskId("t7"), TaskSpec(task_type="echo"), CLIENT, 0)
        its.leadership.commit(c.CancelTask(task_id=TaskId("t7")))


@virtual_time
async def test_a_worker_gets_the_types_that_it_has_handlers_for() -> None:
    async with leading() as its:
        register = c.RegisterNode(
            node_id=OTHER, endpoints=(), task_types=("other",), slot_count=1, version="1"
        )
        its.leadership.commit(register)
        other = await its.worker(node=OTHER, credit=5)
        its.submit(1)
        await asyncio.sleep(1)
        assert not other.assigned


# Outcomes.


@virtual_time
async def test_an_outcome_is_confirmed_once_it_is_committed_and_not_before() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.leadership.commit_seconds = 1.0
        await worker.tell(result(1, data=b"data", content_type="text/plain"))
        await asyncio.sleep(0.9)
        assert worker.confirmed == []
        assert its.task(1).state is TaskState.RUNNING
        await until(lambda: worker.confirmed == [attempt(1)])
        ended = its.task(1)
        assert ended.state is TaskState.SUCCEEDED
        assert (ended.result.data, ended.result.content_type) == (b"data", "text/plain")
        assert ended.result.size_bytes == 4


@virtual_time
async def test_a_stale_outcome_is_confirmed_and_changes_nothing() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        await worker.tell(result(1, 2), result(1, 0), result(5))
        await until(lambda: worker.confirmed == [attempt(1, 2), attempt(1, 0), attempt(5)])
        assert its.task(1).state is TaskState.RUNNING
        other = await its.worker(node=OTHER)
        await other.tell(result(1))
        await until(lambda: other.confirmed == [attempt(1)])
        assert its.task(1).state is TaskState.RUNNING


BAD = {
    "a result that is too long": (
        result(1, data=b"x" * (RESULT_INLINE_BYTES_MAX + 1)),
        Reason.PAYLOAD_TOO_LARGE,
    ),
    "too long beside a file": (
        result(1, data=b"x" * (RESULT_INLINE_BYTES_MAX + 1), cid=CID, size_bytes=9),
        Reason.PAYLOAD_TOO_LARGE,
    ),
    "a content type that is too long": (
        result(1, content_type="x" * 129),
        Reason.INVALID_ARGUMENT,
    ),
    "no CID": (result(1, cid="x" * 100_000), Reason.MALFORMED_CID),
    "a negative size": (result(1, cid=CID, size_bytes=-1), Reason.INVALID_ARGUMENT),
    "a file that nobody holds": (result(1, cid=CID, size_bytes=1), Reason.CONTENT_NOT_FOUND),
    "neither result nor failure": (
        pb.AttemptOutcome(id=attempt_to_proto(attempt(1))),
        Reason.INVALID_ARGUMENT,
    ),
    "a reason that there is not": (failure(1, reason=9999), Reason.INTERNAL),
    "no reason": (failure(1), Reason.INTERNAL),
}


@pytest.mark.parametrize("name", BAD)
@virtual_time
async def test_an_outcome_that_can_not_be_accepted_is_refused_by_itself(name: str) -> None:
    """Found from outside: it killed every session of its worker, and nobody's tasks ended there."""
    outcome, reason = BAD[name]
    async with leading() as its:
        its.submit(1, 2)
        worker = await its.worker(credit=2)
        await until(lambda: len(worker.assigned) == 2)
        await worker.tell(outcome, result(2, data=b"good"))
        await until(lambda: set(worker.confirmed) == {attempt(1), attempt(2)})
        assert worker.ended is None
        assert its.task(2).result.data == b"good"
        assert its.task(1).result is None
        assert its.task(1).failure.reason is reason
        again = its.task(1).state is TaskState.PENDING
        assert again == (name in ("a file that nobody holds", "neither result nor failure"))
        await worker.credit(1)
        its.submit(3)
        await until(lambda: len(worker.assigned) == 3)  # The session goes on.


@virtual_time
async def test_a_long_message_of_a_failure_is_cut() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        reason = errors_pb2.ERROR_REASON_SQL_FAILED
        await worker.tell(failure(1, reason=reason, message="\U0001f600" * 100_000))
        await until(lambda: bool(worker.confirmed))
        assert its.task(1).failure.message == "\U0001f600" * 1024


@virtual_time
async def test_only_a_lost_attempt_is_handed_back() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        reason = errors_pb2.ERROR_REASON_HANDLER_FAILED
        await worker.tell(failure(1, reason=reason, retryable=True, handed_back=True))
        await until(lambda: bool(worker.confirmed))
        assert its.task(1).failed_count == 1


@virtual_time
async def test_a_result_may_be_a_file_that_the_cluster_holds_however_its_cid_is_spelt() -> None:
    async with leading() as its:
        add = c.AddContent(cid=CID, size_bytes=7, holders=(OTHER,), name="")
        its.leadership.commit(add)
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        await worker.tell(result(1, cid=CID, size_bytes=7))
        await until(lambda: bool(worker.confirmed))
        assert (its.task(1).result.cid, its.task(1).result.size_bytes) == (CID, 7)


@virtual_time
async def test_many_outcomes_and_long_ones_are_committed_in_parts() -> None:
    async with leading() as its:
        count = OUTCOMES_PER_COMMAND_MAX + 40
        its.submit(*range(count + 36))
        worker = await its.worker(credit=count + 36)
        await until(lambda: len(worker.assigned) == count + 36)
        await worker.tell(*(result(n, data=b"r") for n in range(count)))
        await until(lambda: len(worker.confirmed) == count)
        await worker.tell(
            *(result(n, data=b"x" * RESULT_INLINE_BYTES_MAX) for n in range(count, count + 36))
        )
        await until(lambda: len(worker.confirmed) == count + 36)
        long = failure(0, message="\U0001f600" * 1024)
        await worker.tell(*[long] * 300)
        await until(lambda: len(worker.confirmed) == count + 336)
        assert (
            max(
                len(encode_command(c.Command(at_ms=0, body=b)))
                for b in its.leadership.proposed
                if isinstance(b, c.FinishAttempts)
            )
            < 1.2 * OUTCOME_BYTES_MAX
        )
        parts = [len(body.outcomes) for body in proposals(its, c.FinishAttempts)]
        each = OUTCOME_BYTES_MAX // RESULT_INLINE_BYTES_MAX
        assert parts == [OUTCOMES_PER_COMMAND_MAX, 40, each, each, 4, 256, 44]
        assert all(its.task(n).state is TaskState.SUCCEEDED for n in range(count + 36))


@virtual_time
async def test_long_messages_and_long_results_weigh_together() -> None:
    async with leading() as its:
        worker = await its.worker()
        long = failure(0, message="\U0001f600" * 1024)
        big = result(1, data=b"x" * RESULT_INLINE_BYTES_MAX)
        await worker.tell(*[long] * 200, *[big] * 16)
        await until(lambda: len(worker.confirmed) == 216)
        entries = [encode_command(c.Command(at_ms=0, body=b)) for b in its.leadership.proposed]
        assert max(map(len, entries)) < 1.2 * OUTCOME_BYTES_MAX


@virtual_time
async def test_what_failed_attempts_printed_weighs_too() -> None:
    async with leading() as its:
        worker = await its.worker()
        words = "\U0001f600" * 1024
        chatty = failure(0, message=words, output_tail="x" * OUTPUT_TAIL_BYTES_MAX)
        await worker.tell(*[chatty] * 250)
        await until(lambda: len(worker.confirmed) == 250)
        entries = [encode_command(c.Command(at_ms=0, body=b)) for b in its.leadership.proposed]
        assert max(map(len, entries)) < 1.2 * OUTCOME_BYTES_MAX


@virtual_time
async def test_an_outcome_that_is_not_committed_is_not_confirmed() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.leadership.refuses = lambda _: ClusterError(Reason.UNKNOWN_OUTCOME, "not known")
        await worker.tell(result(1))
        await until(lambda: worker.ended is not None)
        assert worker.ended.reason is Reason.UNKNOWN_OUTCOME
        assert worker.confirmed == []
        its.leadership.refuses = lambda _: None
        again = await its.worker(attempt(1))
        await again.tell(result(1))
        await until(lambda: again.confirmed == [attempt(1)])
        assert its.task(1).state is TaskState.SUCCEEDED


@virtual_time
async def test_a_leader_that_was_replaced_and_does_not_know_it_confirms_and_kills_nothing() -> None:
    """What it does not know may be newer than it: the worker would forget the outcome."""
    async with leading() as its:
        its.leadership.refuses = lambda _: ClusterError(Reason.UNKNOWN_OUTCOME, "no majority")
        worker = await its.worker()
        await worker.tell(result(8))
        await until(lambda: worker.ended is not None)
        assert worker.confirmed == []
        its.leadership.leads_for_sure = False
        again = await its.worker(attempt(8))
        assert again.stale is None
        assert again.ended is not None
        assert again.ended.reason is Reason.NOT_LEADER


@virtual_time
async def test_what_no_attempt_can_be_called_fills_no_log() -> None:
    async with leading() as its:
        worker = await its.worker()
        name = "x" * 1_000_000
        await worker.tell(pb.AttemptOutcome(id=pb.AttemptId(task_id=name, attempt=1)))
        await until(lambda: bool(worker.confirmed))
        assert worker.ended is None
        [body] = proposals(its, c.FinishAttempts)
        assert body.outcomes[0].id.task_id == ""


# Progress.


@pytest.mark.parametrize(
    ("said", "shown"),
    [(0.5, 0.5), (-1.0, 0.0), (2.0, 1.0), (float("nan"), 0.0), (float("inf"), 1.0)],
)
@virtual_time
async def test_progress_is_kept_within_its_bounds(said: float, shown: float) -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        await worker.say(
            progress=pb.AttemptProgress(
                id=attempt_to_proto(attempt(1)), ratio=said, note="n" * 1000
            )
        )
        await until(lambda: bool(its.tasks.progress))
        assert its.tasks.progress == {TaskId("t1"): (shown, "n" * NOTE_CHARS_MAX)}


@pytest.mark.parametrize("how", ["finish", "cancel", "lose"])
@virtual_time
async def test_progress_is_forgotten_with_its_attempt(how: str) -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        await worker.say(progress=pb.AttemptProgress(id=attempt_to_proto(attempt(1)), ratio=0.5))
        await until(lambda: bool(its.tasks.progress))
        match how:
            case "finish":
                await worker.tell(result(1))
            case "cancel":
                its.leadership.commit(c.CancelTask(task_id=TaskId("t1")))
            case "lose":
                its.leadership.commit(c.SetLiveness(dead=(WORKER,)))
        await until(lambda: not its.tasks.progress)


@virtual_time
async def test_progress_of_what_is_not_its_own_is_passed_over() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        other = await its.worker(node=OTHER)
        for session, at in ((other, attempt(1)), (worker, attempt(1, 2)), (worker, attempt(9))):
            await session.say(progress=pb.AttemptProgress(id=attempt_to_proto(at), ratio=0.5))
        await asyncio.sleep(1)
        assert its.tasks.progress == {}
        assert worker.ended is other.ended is None


def test_an_error_of_a_session_arrives_as_it_was() -> None:
    error = error_from_rpc(rpc_error(ClusterError(Reason.NOT_LEADER, "ask another")))
    assert (error.reason, error.message) == (Reason.NOT_LEADER, "ask another")

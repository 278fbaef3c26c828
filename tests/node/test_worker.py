"""The worker: what it asks for, runs, reports and kills. Time is simulated; gRPC is memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.adapters.clock import monotonic
from ipfs_cluster_node.cluster.worker_sessions import HELLO_ATTEMPTS_MAX
from ipfs_cluster_node.codec.tasks import outcome_from_proto
from ipfs_cluster_node.core.credit import CREDIT_MAX, HELD_MAX
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import (
    RESULT_INLINE_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
    TaskFailure,
    TaskResult,
)
from ipfs_cluster_node.node import worker as worker_module
from ipfs_cluster_node.node.worker import (
    FENCE_MARGIN_SECONDS,
    FENCE_SECONDS,
    GATHER_SECONDS,
    HAND_BACK_SECONDS_MAX,
    OUTCOMES_PER_MESSAGE_MAX,
    PROGRESS_SECONDS,
    RECONNECT_SECONDS_MAX,
    RECONNECT_SECONDS_MIN,
    REFUSALS_MAX,
    WAIT_SECONDS_MAX,
    WRITER_SECONDS_MAX,
    Worker,
    sendable,
)
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from tests.support.dispatch import (
    FakeRunner,
    FakeUplink,
    MemoryConnection,
    ScriptedLeader,
    attempt,
    succeeded,
    until,
)
from tests.support.virtual_time import virtual_loop, virtual_time


@asynccontextmanager
async def working(
    slots: int = 2,
    *,
    leader: ScriptedLeader | None = None,
    runner: FakeRunner | None = None,
    has_room: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Any]:
    """A worker in a session with a leader of the test's."""
    leader, runner = leader or ScriptedLeader(), runner or FakeRunner()
    uplink = FakeUplink(MemoryConnection(leader.open))
    worker = Worker(
        uplink=uplink,  # type: ignore[arg-type]
        runner=runner,  # type: ignore[arg-type]
        slots=slots,
        has_room=has_room,
    )
    running = asyncio.create_task(worker.run())
    try:
        yield SimpleNamespace(
            leader=leader, runner=runner, uplink=uplink, worker=worker, running=running
        )
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def failure_of(leader: ScriptedLeader, at: AttemptId) -> pb.AttemptFailure:
    return leader.outcomes[at][-1].failure


# Credit.


@pytest.mark.parametrize("slots", range(1, 9))
@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1, 0.15, 1.0, 10.0])
@virtual_time
async def test_all_slots_are_taken_however_long_tasks_are(slots: int, seconds: float) -> None:
    """Found from outside: N-1 slots were used once tasks took longer than N * 0.1 s, of one none."""
    async with working(slots) as its:
        its.leader.assign(*((attempt(n), seconds) for n in range(12 * slots)))
        await until(lambda: len(its.runner.began) >= 8 * slots, 200.0)
        busy = 0.0
        began = monotonic()
        while len(its.runner.began) < 12 * slots:
            assert monotonic() - began < 200.0, "what was asked for never began"
            await asyncio.sleep(seconds / 20)
            busy += len(its.runner.alive) * seconds / 20
        assert its.runner.most_at_once == slots
        if seconds >= 0.1:  # Else the hops of the session are no little part of it.
            assert busy / (monotonic() - began) > 0.9 * slots


@virtual_time
async def test_short_tasks_are_taken_ahead_and_long_ones_end_that() -> None:
    async with working(2) as its:
        its.leader.assign(*((attempt(n), 0.001) for n in range(2000)))
        await until(lambda: not its.leader.pending and not its.runner.alive)
        assert its.leader.credit_most > 50
        its.leader.assign(*((attempt(5000 + n), 3600.0) for n in range(100)))
        await asyncio.sleep(0.5)
        assert its.worker.running_count > 2  # They came on the credit of the short ones.
        its.leader.pending.clear()
        await asyncio.sleep(WAIT_SECONDS_MAX + 1)
        assert its.worker.running_count == 2
        back = [at for at in its.leader.outcomes if failure_of(its.leader, at).handed_back]
        assert back
        assert not set(back) & set(its.runner.began)
        assert its.leader.credit == 0  # Else what was handed back would come here again.
        kinds = its.leader.kinds()
        assert kinds[-2:] == ["credit", "outcomes"]
        await asyncio.sleep(60)
        assert its.leader.credit == 0
        assert its.worker.running_count == 2


@virtual_time
async def test_reading_ahead_goes_on_while_the_youngest_has_just_begun() -> None:
    async with working(2) as its:
        await asyncio.sleep(100)
        its.worker._seconds_mean = 0.001
        its.worker._running = {attempt(1): 0.0, attempt(2): monotonic() - 0.001}
        assert its.worker._credit() > 10


@virtual_time
async def test_one_long_task_does_not_end_reading_ahead_for_ever() -> None:
    async with working(1) as its:
        its.leader.assign((attempt(0), 3600.0), *((attempt(n), 0.001) for n in range(1, 400)))
        await asyncio.sleep(3600)
        await until(lambda: attempt(399) in its.leader.outcomes)
        assert its.leader.credit > 50


@virtual_time
async def test_after_a_hand_back_short_tasks_are_asked_for_many_at_a_time_again() -> None:
    async with working(1) as its:
        its.leader.assign(*((attempt(n), 0.001) for n in range(300)))
        its.leader.assign((attempt(300), 20.0), (attempt(301), 0.001), (attempt(302), 0.001))
        await until(lambda: attempt(300) in its.leader.outcomes)
        assert any(failure_of(its.leader, at).handed_back for at in its.leader.outcomes)
        its.leader.assign(*((attempt(n), 0.001) for n in range(400, 800)))
        await until(lambda: attempt(799) in its.leader.outcomes)
        its.leader.messages.clear()
        its.leader.assign(*((attempt(n), 0.001) for n in range(1000, 2000)))
        await until(lambda: attempt(1999) in its.leader.outcomes)
        assert its.leader.kinds().count("credit") < 1000 / 40


@virtual_time
async def test_what_waits_for_its_confirmation_alone_takes_no_credit_back() -> None:
    """Only attempts that waited for a slot say that too many were asked for."""
    async with working(1) as its:
        its.leader.assign(*((attempt(n), 0.001) for n in range(1000)))
        await until(lambda: len(its.leader.outcomes) == 1000)
        its.leader.assign((attempt(2000), WAIT_SECONDS_MAX + 1.0))
        await until(lambda: bool(its.runner.alive))
        its.leader.confirms = False
        granted = its.leader.credit
        assert granted > 50
        await until(lambda: attempt(2000) in its.leader.outcomes)
        await asyncio.sleep(2 * WRITER_SECONDS_MAX)
        assert its.leader.credit == granted


@virtual_time
async def test_credit_is_no_more_than_the_leader_takes_and_none_is_lost() -> None:
    async with working(CREDIT_MAX) as its:
        await until(lambda: its.leader.credit == CREDIT_MAX)
        its.leader.assign(*((attempt(n), 0.001) for n in range(5000)))
        await until(lambda: not its.leader.pending and its.worker.running_count == 0)
        await asyncio.sleep(2)
        assert its.leader.credit == its.leader.credit_most == CREDIT_MAX


@virtual_time
async def test_what_was_granted_to_one_leader_is_granted_anew_to_the_next() -> None:
    async with working(3) as its:
        await until(lambda: its.leader.credit == 3)
        its.leader.calls[-1].cut()
        await until(lambda: len(its.leader.hellos) == 2)
        await until(lambda: its.leader.credit == 3)


@virtual_time
async def test_nothing_is_asked_for_while_the_lease_does_not_hold() -> None:
    leader = ScriptedLeader()
    async with working(2, leader=leader) as its:
        its.uplink.lease_ends = 0.0
        await asyncio.sleep(5)
        assert leader.hellos == [[]]
        assert leader.credit == 0
        its.uplink.lease_ends = float("inf")
        await until(lambda: leader.credit == 2, 2.0)  # Nobody has to wake the writer.


@virtual_time
async def test_an_assignment_that_comes_too_late_for_the_lease_is_handed_back() -> None:
    async with working(2) as its:
        await until(lambda: its.leader.credit == 2)
        its.uplink.lease_ends = 0.0
        its.leader.assign((attempt(1), 1.0))
        await until(lambda: attempt(1) in its.leader.outcomes, WRITER_SECONDS_MAX / 2)
        failure = failure_of(its.leader, attempt(1))
        assert failure.handed_back
        assert failure.retryable  # For a leader that does not know of handing back.
        assert its.runner.began == []


# Outcomes.


@virtual_time
async def test_an_outcome_is_kept_until_it_is_confirmed_and_told_in_the_next_session() -> None:
    async with working() as its:
        its.leader.confirms = False
        its.leader.assign((attempt(1), 0.1))
        await until(lambda: attempt(1) in its.leader.outcomes)
        await asyncio.sleep(30)
        assert len(its.leader.outcomes[attempt(1)]) == 1  # Once a session.
        its.leader.calls[-1].cut()
        await until(lambda: len(its.leader.outcomes[attempt(1)]) == 2)
        assert its.leader.hellos == [[], [attempt(1)]]
        assert its.leader.outcomes[attempt(1)][0] == its.leader.outcomes[attempt(1)][1]
        its.leader.confirm(attempt(1))
        await asyncio.sleep(0.1)
        its.leader.calls[-1].cut()
        await until(lambda: len(its.leader.hellos) == 3)
        assert its.leader.hellos[-1] == []


@virtual_time
async def test_a_message_is_confirmed_before_the_next_and_takes_all_that_ended_meanwhile() -> None:
    async with working(8) as its:
        its.leader.confirms = False
        its.leader.assign((attempt(0), 0.1), *((attempt(n), 0.2) for n in range(1, 6)))
        await until(lambda: attempt(0) in its.leader.outcomes)
        # The writer looks by itself once a second: half of one before it would, that is no help.
        await asyncio.sleep(0.6 + WRITER_SECONDS_MAX)
        assert list(its.leader.outcomes) == [attempt(0)]
        its.leader.confirm(attempt(0))
        await asyncio.sleep(0.1)
        assert its.leader.kinds().count("outcomes") == 2
        assert len(its.leader.outcomes) == 6


@virtual_time
async def test_short_tasks_are_reported_and_asked_for_many_at_a_time() -> None:
    """Each message is an entry of the log: one for every few tasks kept three masters busy."""
    async with working(2) as its:
        its.leader.assign(*((attempt(n), 0.001) for n in range(1000)))
        await until(lambda: len(its.leader.outcomes) == 1000)
        messages = its.leader.kinds()
        assert messages.count("outcomes") < 1000 / 10
        assert messages.count("credit") < 1000 / 50


@virtual_time
async def test_a_worker_whose_outcomes_nobody_confirms_takes_a_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its next hello would be refused, for ever."""
    assert 2 * HELD_MAX <= HELLO_ATTEMPTS_MAX
    monkeypatch.setattr(worker_module, "HELD_MAX", 50)
    async with working(2) as its:
        its.leader.confirms = False
        its.leader.assign(*((attempt(n), 0.01) for n in range(500)))
        await asyncio.sleep(60)
        assert 50 <= len(its.worker._held) < 50 + 2 * CREDIT_MAX
        assert its.leader.credit == 0
        assert its.leader.pending


@virtual_time
async def test_an_outcome_is_not_held_back_where_nothing_waits_for_a_slot() -> None:
    async with working(2) as its:
        its.leader.assign((attempt(0), 60.0))
        for n in range(1, 10):
            its.leader.assign((attempt(n), 0.001))
            await until(lambda: attempt(n) in its.leader.outcomes)  # noqa: B023
            began = monotonic()
            its.leader.assign((attempt(100 + n), 0.001))
            await until(lambda: attempt(100 + n) in its.leader.outcomes)  # noqa: B023
            assert monotonic() - began < GATHER_SECONDS


@virtual_time
async def test_a_message_has_a_bounded_number_of_outcomes_and_bytes() -> None:
    big = b"x" * RESULT_INLINE_BYTES_MAX
    runner = FakeRunner(
        outcome_of=lambda at: succeeded(at, big if int(at.task_id[1:]) >= 300 else b"")
    )
    async with working(600, runner=runner) as its:
        its.leader.assign(*((attempt(n), 1.0) for n in range(600)))
        await until(lambda: len(its.leader.outcomes) == 600)
        sizes = [m.outcomes for m in its.leader.messages if m.WhichOneof("message") == "outcomes"]
        assert max(len(message.outcomes) for message in sizes) == OUTCOMES_PER_MESSAGE_MAX
        largest = max(sum(each.ByteSize() for each in message.outcomes) for message in sizes)
        assert 900_000 < largest <= 1024 * 1024


@virtual_time
async def test_what_the_leader_would_not_take_is_told_as_a_failure() -> None:
    def bad(at: AttemptId) -> AttemptOutcome | None:
        match at.task_id:
            case "t1":
                return succeeded(at, b"x" * (RESULT_INLINE_BYTES_MAX + 1))
            case "t2":
                return AttemptOutcome(id=at, result=TaskResult(content_type="lone \ud800"))
            case "t3":
                return AttemptOutcome(id=at, result=TaskResult(data="text"))  # type: ignore[arg-type]
            case "t4":
                return AttemptOutcome(id=at, result=TaskResult(cid="none"))
            case "t5":
                return AttemptOutcome(id=at)
            case "t6":
                failure = TaskFailure(Reason.HANDLER_FAILED, "no")
                return AttemptOutcome(id=at, failure=failure, retryable=None)  # type: ignore[arg-type]
        return None

    async with working(8, runner=FakeRunner(outcome_of=bad)) as its:
        its.leader.assign(*((attempt(n), 0.1) for n in range(8)))
        await until(lambda: len(its.leader.outcomes) == 8)
        for n in range(8):
            [message] = its.leader.outcomes[attempt(n)]
            outcome_from_proto(message)  # The leader takes it.
            assert message.HasField("failure") == (n in range(1, 7)), n
        reasons = [failure_of(its.leader, attempt(n)).reason for n in range(1, 5)]
        assert reasons[0] == errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE
        assert reasons[1] == reasons[2] == errors_pb2.ERROR_REASON_HANDLER_FAILED
        assert reasons[3] == errors_pb2.ERROR_REASON_MALFORMED_CID
        # What the handler's code returns, it will return again.
        assert not any(failure_of(its.leader, attempt(n)).retryable for n in (2, 3, 6))
        assert its.leader.hellos == [[]]


def test_what_can_be_sent_is_sent_as_it_is() -> None:
    good = succeeded(attempt(1), b"data")
    assert outcome_from_proto(sendable(good)) == good
    lost = TaskFailure(Reason.SQL_FAILED, "no such column")
    failed = AttemptOutcome(id=attempt(2), failure=lost, retryable=True)
    assert outcome_from_proto(sendable(failed)) == failed


@virtual_time
async def test_an_outcome_that_ends_each_session_is_found_told_as_a_failure_and_let_go() -> None:
    """A worker must not say the same for ever to a leader that ends its session for it."""

    def refuses(outcomes: list[pb.AttemptOutcome]) -> ClusterError | None:
        poison = any(o.id.task_id == "t3" for o in outcomes)
        return ClusterError(Reason.INVALID_ARGUMENT, "bad request") if poison else None

    async with working(8) as its:
        its.leader.refuses = refuses
        its.leader.assign(*((attempt(n), 1.0) for n in range(8)))
        await until(lambda: len(its.leader.outcomes) == 7, 120.0)
        await asyncio.sleep(120)
        assert its.worker.running_count == 0
        told = [o for m in its.leader.messages for o in m.outcomes.outcomes if o.id.task_id == "t3"]
        assert [o.HasField("result") for o in told] == [True] * (1 + REFUSALS_MAX) + [False]
        assert told[-1].failure.reason == errors_pb2.ERROR_REASON_INTERNAL
        assert not told[-1].failure.retryable
        # It is not held any longer: the leader gives the task to another worker.
        assert len(its.leader.hellos) <= REFUSALS_MAX + 3
        its.leader.calls[-1].cut()
        await asyncio.sleep(10)
        assert its.leader.hellos[-1] == []


@virtual_time
async def test_an_outcome_survives_sessions_that_end_for_other_reasons() -> None:
    async with working() as its:
        ends = iter([Reason.SHUTTING_DOWN, Reason.NO_LEADER, Reason.OVERLOADED] * 4)
        its.leader.refuses = lambda _: (
            ClusterError(reason, "later") if (reason := next(ends, None)) else None
        )
        its.leader.assign((attempt(1), 0.1))
        await until(lambda: attempt(1) in its.leader.outcomes, 120.0)
        assert its.leader.outcomes[attempt(1)][0].HasField("result")


@virtual_time
async def test_an_outcome_that_was_refused_a_few_times_is_still_told_as_it_is() -> None:
    async with working() as its:
        left = [ClusterError(Reason.INTERNAL, "a defect")] * (REFUSALS_MAX - 1)
        its.leader.refuses = lambda _: left.pop() if left else None
        its.leader.assign((attempt(1), 0.1))
        await until(lambda: attempt(1) in its.leader.outcomes, 120.0)
        assert its.leader.outcomes[attempt(1)][0].HasField("result")


@virtual_time
async def test_after_a_refusal_outcomes_go_together_again() -> None:
    async with working(64) as its:
        left = [ClusterError(Reason.INTERNAL, "a defect")]
        its.leader.refuses = lambda _: left.pop() if left else None
        its.leader.assign(*((attempt(n), 1.0) for n in range(20)))
        await until(lambda: len(its.leader.outcomes) == 20, 120.0)
        one_by_one = its.leader.kinds().count("outcomes")
        assert one_by_one == 21
        its.leader.assign(*((attempt(n), 1.0) for n in range(20, 60)))
        await until(lambda: len(its.leader.outcomes) == 60, 120.0)
        assert its.leader.kinds().count("outcomes") <= one_by_one + 3


@virtual_time
async def test_two_outcomes_that_are_refused_together_are_told_one_by_one() -> None:
    async with working(2) as its:
        left = [ClusterError(Reason.INTERNAL, "a defect")]
        its.leader.refuses = lambda _: left.pop() if left else None
        its.leader.assign((attempt(1), 1.0), (attempt(2), 1.0))
        await until(lambda: len(its.leader.outcomes) == 2)
        told = [len(m.outcomes.outcomes) for m in its.leader.messages if m.HasField("outcomes")]
        assert told == [2, 1, 1]


@virtual_time
async def test_a_session_that_ends_for_good_with_nothing_told_is_followed_by_another() -> None:
    async with working() as its:
        await until(lambda: its.leader.credit == 2)
        its.leader.end(ClusterError(Reason.INVALID_ARGUMENT, "bad request"))
        its.leader.credit = 0
        await until(lambda: its.leader.credit == 2, 1.0)
        its.leader.assign(*((attempt(n), 1.0) for n in range(2)))
        await until(lambda: len(its.leader.outcomes) == 2)
        assert its.leader.kinds().count("outcomes") == 1  # None is under suspicion.


@virtual_time
async def test_the_pause_between_sessions_doubles_up_to_its_bound_and_begins_again() -> None:
    async with working() as its:
        pauses = []
        for _ in range(8):
            await until(lambda: its.leader.credit > 0)
            its.leader.credit = 0
            its.leader.end(ClusterError(Reason.CALLER_NOT_ALLOWED, "no"))
            before, count = monotonic(), len(its.leader.hellos)
            await until(lambda: len(its.leader.hellos) > count)  # noqa: B023
            pauses.append(monotonic() - before)
        doubled = [RECONNECT_SECONDS_MIN * 2**n for n in range(8)]
        assert pauses == pytest.approx([min(p, RECONNECT_SECONDS_MAX) for p in doubled], rel=0.1)
        its.leader.assign((attempt(1), 0.1))
        await until(lambda: attempt(1) in its.leader.outcomes)
        await asyncio.sleep(0.1)  # It is confirmed: this session was of use.
        its.leader.end(ClusterError(Reason.CALLER_NOT_ALLOWED, "no"))
        count = len(its.leader.hellos)
        await until(lambda: len(its.leader.hellos) > count, RECONNECT_SECONDS_MIN + 0.02)


@virtual_time
async def test_sessions_that_end_at_once_begin_ever_more_seldom() -> None:
    async with working() as its:
        its.leader.refuses = lambda _: ClusterError(Reason.INVALID_ARGUMENT, "bad request")
        its.leader.confirms = False
        its.leader.assign(*((attempt(n), 0.1) for n in range(30)))
        await asyncio.sleep(300)
        assert len(its.leader.hellos) < 200


# The fence.


@virtual_time
async def test_the_fence_kills_all_that_runs_before_the_lease_is_over() -> None:
    async with working(3) as its:
        its.leader.assign(*((attempt(n), 100.0) for n in range(3)))
        await until(lambda: len(its.runner.alive) == 3)
        its.uplink.lease_ends = ends = monotonic() + 5.0
        await asyncio.sleep(4.5)
        assert len(its.runner.alive) == 3
        await until(lambda: not its.runner.alive)
        assert monotonic() <= ends + 0.01
        assert len(its.runner.killed) == 3
        await until(lambda: len(its.leader.outcomes) == 3)
        for n in range(3):
            told = failure_of(its.leader, attempt(n))
            assert told.reason == errors_pb2.ERROR_REASON_WORKER_LOST
            assert told.retryable
            assert not told.handed_back


@virtual_time
async def test_what_runs_is_dead_at_the_lease_s_end_wherever_the_fence_s_looks_fall() -> None:
    """Found by the simulation: looks fell up to a whole period after the moment to kill."""
    kill_seconds = 0.9 * FENCE_MARGIN_SECONDS
    for tenths in range(10):
        async with working(1, runner=FakeRunner(kill_seconds=kill_seconds)) as its:
            its.leader.assign((attempt(1), 100.0))
            await until(lambda: bool(its.runner.alive))
            its.uplink.lease_ends = ends = monotonic() + 1.0 + tenths * FENCE_SECONDS / 10
            await until(lambda: not its.runner.alive)
            assert monotonic() < ends


@virtual_time
async def test_nothing_begins_when_too_little_of_the_lease_is_left_to_kill_it() -> None:
    async with working(1) as its:
        await until(lambda: its.leader.credit == 1)
        its.uplink.lease_ends = monotonic() + 0.9 * FENCE_MARGIN_SECONDS
        its.leader.assign((attempt(1), 1.0))
        await until(lambda: attempt(1) in its.leader.outcomes)
        assert failure_of(its.leader, attempt(1)).handed_back
        assert its.runner.began == []


@virtual_time
async def test_nothing_is_told_of_an_attempt_before_its_process_is_dead() -> None:
    async with working(1, runner=FakeRunner(kill_seconds=3.0)) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        its.uplink.lease_ends = 0.0
        await until(lambda: attempt(1) in its.leader.outcomes)
        assert its.runner.killed == [attempt(1)]
        assert not its.runner.alive
        its.uplink.lease_ends = float("inf")
        its.leader.assign((attempt(2), 100.0))
        await until(lambda: bool(its.runner.alive))


@virtual_time
async def test_a_lease_that_lapsed_between_two_looks_still_kills() -> None:
    async with working(1) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        its.uplink.lapse_count += 1
        await asyncio.sleep(2 * FENCE_SECONDS)
        assert its.runner.killed == [attempt(1)]
        its.leader.assign((attempt(2), 100.0))
        await asyncio.sleep(30)
        assert its.runner.killed == [attempt(1)]  # Once a lapse.
        assert its.runner.alive == {attempt(2)}


@virtual_time
async def test_an_outcome_from_before_the_lease_ended_stays() -> None:
    async with working(1) as its:
        its.leader.confirms = False
        its.leader.assign((attempt(1), 0.1))
        await until(lambda: attempt(1) in its.leader.outcomes)
        its.uplink.lease_ends = 0.0
        await asyncio.sleep(1)
        its.leader.calls[-1].cut()
        await until(lambda: len(its.leader.outcomes[attempt(1)]) == 2)
        assert its.leader.outcomes[attempt(1)][1].HasField("result")


# What the leader says.


@virtual_time
async def test_what_is_cancelled_is_killed_and_not_told_and_its_slot_is_free() -> None:
    async with working(1) as its:
        its.leader.assign((attempt(1), 100.0), (attempt(2), 0.1))
        await until(lambda: bool(its.runner.alive))
        its.leader.cancel(attempt(1), attempt(77))
        await until(lambda: attempt(2) in its.leader.outcomes)
        assert its.runner.killed == [attempt(1)]
        assert list(its.leader.outcomes) == [attempt(2)]


@virtual_time
async def test_the_place_of_what_is_cancelled_is_asked_for_at_once() -> None:
    async with working(1) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        assert its.leader.credit == 0
        its.leader.cancel(attempt(1))
        await until(lambda: its.leader.credit == 1, WRITER_SECONDS_MAX / 2)


@virtual_time
async def test_what_was_handed_back_unbegun_may_be_cancelled() -> None:
    async with working(1) as its:
        await until(lambda: its.leader.credit == 1)
        its.leader.confirms = False
        its.uplink.lease_ends = 0.0
        its.leader.assign((attempt(1), 1.0))
        await until(lambda: attempt(1) in its.leader.outcomes)
        its.leader.cancel(attempt(1))
        await asyncio.sleep(1.0)
        assert len(its.leader.hellos) == 1
        its.leader.calls[-1].cut()
        await until(lambda: len(its.leader.hellos) == 2)
        assert its.leader.hellos[-1] == []


@virtual_time
async def test_what_the_next_leader_calls_stale_is_killed_and_the_rest_goes_on() -> None:
    async with working(2) as its:
        its.leader.assign((attempt(1), 50.0), (attempt(2), 50.0))
        await until(lambda: len(its.runner.alive) == 2)
        its.leader.stale = [attempt(1)]
        its.leader.calls[-1].cut()
        await until(lambda: len(its.leader.hellos) == 2)
        assert set(its.leader.hellos[1]) == {attempt(1), attempt(2)}
        await until(lambda: attempt(2) in its.leader.outcomes)
        assert its.runner.killed == [attempt(1)]
        assert list(its.leader.outcomes) == [attempt(2)]


@virtual_time
async def test_an_attempt_that_is_assigned_twice_runs_once() -> None:
    async with working(4) as its:
        await until(lambda: its.leader.credit == 4)
        its.leader.assign((attempt(1), 1.0), (attempt(1), 1.0))
        await until(lambda: attempt(1) in its.leader.outcomes)
        await asyncio.sleep(5)
        assert its.runner.began == [attempt(1)]
        assert its.leader.credit == 4  # Neither of the two is lost.


@virtual_time
async def test_a_session_whose_writer_fails_ends_and_another_begins() -> None:
    async with working() as its:
        await until(lambda: its.leader.credit == 2)
        credit = its.worker._credit
        its.worker._credit = lambda: 1 // 0  # A defect.
        its.worker._wake.set()
        await until(lambda: len(its.leader.calls) == 2)
        its.worker._credit = credit
        await until(lambda: its.leader.credit == 2)
        assert not its.running.done()


@virtual_time
async def test_a_session_that_the_leader_ends_well_is_followed_by_another() -> None:
    leader = ScriptedLeader()
    opened = 0
    serve = leader.serve

    async def ends_at_once(requests: Any) -> AsyncIterator[pb.WorkerSessionResponse]:
        nonlocal opened
        opened += 1
        if opened < 3:
            await anext(requests)
            return
        async for response in serve(requests):
            yield response

    leader.serve = ends_at_once  # type: ignore[method-assign]
    async with working(leader=leader):
        await until(lambda: leader.credit == 2)
        assert opened == 3


@virtual_time
async def test_no_session_begins_before_the_node_is_registered() -> None:
    leader = ScriptedLeader()
    async with working(leader=leader) as its:
        its.uplink.registered.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(10)
        assert leader.hellos == []
        its.uplink.registered.set()
        await until(lambda: bool(leader.hellos))


@virtual_time
async def test_a_session_that_was_not_welcomed_ends_with_its_worker() -> None:
    leader = ScriptedLeader()

    async def says_nothing(requests: Any) -> AsyncIterator[pb.WorkerSessionResponse]:
        async for _ in requests:
            leader.hellos.append([])
        yield pb.WorkerSessionResponse()

    leader.serve = says_nothing  # type: ignore[method-assign]
    async with working(leader=leader):
        await until(lambda: bool(leader.hellos))
        assert not leader.calls[-1]._server.done()
    await asyncio.sleep(0.1)
    assert leader.calls[-1]._server.cancelled()


@virtual_time
async def test_a_worker_that_is_cancelled_kills_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    async with working(2, runner=FakeRunner(kill_seconds=1.0)) as its:
        its.leader.assign((attempt(1), 100.0), (attempt(2), 100.0), (attempt(3), 100.0))
        await until(lambda: len(its.runner.alive) == 2)
        its.running.cancel()
        await asyncio.gather(its.running, return_exceptions=True)
        assert len(its.runner.killed) == 2
        assert not its.runner.alive
        assert its.leader.outcomes == {}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# Progress.


@virtual_time
async def test_progress_is_told_the_newest_of_each_attempt_and_keeps_no_outcome_waiting() -> None:
    async with working(2) as its:
        await until(lambda: its.leader.credit == 2)
        its.leader.assign((attempt(1), 0.5))
        for step in range(500):
            its.worker.on_progress(attempt(1).task_id, 1, step / 1000, f"step {step}")
            its.worker.on_progress(attempt(2).task_id, 1, 0.0, "other")
            await asyncio.sleep(0.002)
        news = [m.progress for m in its.leader.messages if m.HasField("progress")]
        mine = [p for p in news if p.id.task_id == "t1"]
        assert 3 <= len(mine) <= 1.0 / PROGRESS_SECONDS + 2
        assert [p.ratio for p in mine] == sorted(p.ratio for p in mine)
        assert mine[0].note == "step 0"
        assert attempt(1) in its.leader.outcomes
        await asyncio.sleep(2 * PROGRESS_SECONDS)
        last = [m.progress for m in its.leader.messages if m.HasField("progress")]
        assert [p.note for p in last if p.id.task_id == "t1"][-1] == "step 499"


@virtual_time
async def test_the_first_news_is_told_at_once() -> None:
    async with working() as its:
        await until(lambda: its.leader.credit == 2)
        await asyncio.sleep(0.1)
        its.worker.on_progress(attempt(1).task_id, 1, 0.5, "half")
        await asyncio.sleep(0.05)
        assert its.leader.kinds()[-1] == "progress"


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), None, "half", 1 << 2000])
@pytest.mark.parametrize("note", ["lone \ud800", None, b"\xff", "x" * 100_000])
@virtual_time
async def test_news_that_no_message_can_hold_end_no_session(ratio: Any, note: Any) -> None:
    async with working(2) as its:
        its.leader.assign((attempt(1), 2.0))
        await until(lambda: bool(its.runner.alive))
        its.worker.on_progress(attempt(1).task_id, 1, ratio, note)
        its.worker.on_progress(attempt(2).task_id, 1, 0.5, "good")
        await until(lambda: attempt(1) in its.leader.outcomes)
        assert its.leader.hellos == [[]]
        news = [m.progress for m in its.leader.messages if m.HasField("progress")]
        assert "good" in [p.note for p in news]


# Leaving.


@virtual_time
async def test_a_worker_that_leaves_says_goodbye_and_hands_back_what_it_has() -> None:
    """Found from outside: SIGTERM of a worker was a loss of all its attempts, a lease later."""
    async with working(2, runner=FakeRunner(kill_seconds=0.3)) as its:
        its.leader.assign(*((attempt(n), 0.01) for n in range(20)))
        await until(lambda: not its.leader.pending and not its.worker.running_count)
        its.leader.assign(*((attempt(50 + n), 100.0) for n in range(6)))
        await until(lambda: its.worker.running_count == 6)
        before = monotonic()
        its.leader.messages.clear()
        await its.worker.leave(timedelta(0))
        assert monotonic() - before < 1.0
        for n in range(6):
            told = failure_of(its.leader, attempt(50 + n))
            assert told.reason == errors_pb2.ERROR_REASON_WORKER_LOST
            assert told.handed_back
        assert not its.runner.alive
        kinds = its.leader.kinds()
        assert kinds[0] == "goodbye"
        assert kinds.count("goodbye") == 1
        assert "credit" not in kinds


@virtual_time
async def test_a_worker_that_drains_lets_attempts_end_and_hands_back_what_waits() -> None:
    async with working(2) as its:
        its.leader.assign(*((attempt(n), 0.01) for n in range(20)))
        await until(lambda: not its.leader.pending and not its.worker.running_count)
        its.leader.assign((attempt(51), 3.0), (attempt(52), 60.0), (attempt(53), 1.0))
        await until(lambda: its.worker.running_count == 3)
        before = monotonic()
        await its.worker.leave(timedelta(seconds=30))
        assert 30.0 <= monotonic() - before < 30.0 + HAND_BACK_SECONDS_MAX
        assert its.leader.outcomes[attempt(51)][0].HasField("result")
        assert failure_of(its.leader, attempt(52)).handed_back
        assert failure_of(its.leader, attempt(53)).handed_back
        assert attempt(53) not in its.runner.began


@virtual_time
async def test_a_drain_is_over_once_all_has_ended() -> None:
    async with working(2) as its:
        its.leader.assign((attempt(1), 3.0))
        await until(lambda: bool(its.runner.alive))
        before = monotonic()
        await its.worker.leave(timedelta(seconds=30))
        assert 2.5 < monotonic() - before < 3.5
        assert its.leader.outcomes[attempt(1)][0].HasField("result")


@virtual_time
async def test_a_worker_with_nothing_in_hand_leaves_at_once() -> None:
    async with working(2) as its:
        await until(lambda: its.leader.credit == 2)
        before = monotonic()
        await its.worker.leave(timedelta(seconds=30))
        assert monotonic() == before


@virtual_time
async def test_a_worker_without_a_leader_does_not_wait_for_long() -> None:
    async with working(2) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        its.leader.confirms = False
        before = monotonic()
        await its.worker.leave(timedelta(0))
        assert HAND_BACK_SECONDS_MAX <= monotonic() - before < HAND_BACK_SECONDS_MAX + 0.5
        assert not its.runner.alive


@virtual_time
async def test_what_is_assigned_to_a_worker_that_leaves_is_handed_back_unbegun() -> None:
    async with working(2) as its:
        its.leader.assign((attempt(1), 2.0))
        await until(lambda: bool(its.runner.alive))
        leaving = asyncio.create_task(its.worker.leave(timedelta(seconds=10)))
        await asyncio.sleep(0.01)
        assert its.leader.kinds()[-1] == "goodbye"  # At once.
        its.leader.credit = 1
        its.leader.assign((attempt(2), 1.0))
        await leaving
        assert failure_of(its.leader, attempt(2)).handed_back
        assert its.runner.began == [attempt(1)]


@virtual_time
async def test_what_the_lease_s_end_kills_is_killed_once_and_told_as_lost_though_its_node_leaves() -> (
    None
):
    """A second kill would end the wait for the first, and tell of a process that still runs."""
    async with working(1, runner=FakeRunner(kill_seconds=1.0)) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        its.uplink.lease_ends = 0.0
        await until(lambda: bool(its.runner.killed))
        before = monotonic()
        await its.worker.leave(timedelta(0))
        assert monotonic() - before > 0.9
        told = failure_of(its.leader, attempt(1))
        assert told.reason == errors_pb2.ERROR_REASON_WORKER_LOST
        assert not told.handed_back


@virtual_time
async def test_what_was_handed_back_and_is_not_confirmed_is_left_as_it_is() -> None:
    async with working(1) as its:
        await until(lambda: its.leader.credit == 1)
        its.leader.confirms = False
        its.uplink.lease_ends = 0.0
        its.leader.assign((attempt(1), 1.0))
        await until(lambda: attempt(1) in its.leader.outcomes)
        before = monotonic()
        await its.worker.leave(timedelta(0))
        assert monotonic() - before < HAND_BACK_SECONDS_MAX + 0.1
        assert len(its.leader.outcomes[attempt(1)]) == 1


@virtual_time
async def test_a_second_signal_ends_the_wait_and_hands_back_what_runs() -> None:
    """Found from outside: all that ran stayed with the node that was gone, until its lease ended."""
    async with working(2, runner=FakeRunner(kill_seconds=0.3)) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        leaving = asyncio.create_task(its.worker.leave(timedelta(seconds=90)))
        await asyncio.sleep(1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert failure_of(its.leader, attempt(1)).handed_back
        assert its.worker.running_count == 0
        assert virtual_loop().time() < 2


@virtual_time
async def test_after_a_second_signal_a_leader_that_does_not_answer_is_not_waited_for_long() -> None:
    async with working(2) as its:
        its.leader.confirms = False
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        leaving = asyncio.create_task(its.worker.leave(timedelta(seconds=90)))
        await asyncio.sleep(1)
        before = monotonic()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert HAND_BACK_SECONDS_MAX <= monotonic() - before < HAND_BACK_SECONDS_MAX + 0.1


@virtual_time
async def test_a_third_signal_stops_at_once() -> None:
    async with working(2, runner=FakeRunner(kill_seconds=1.5)) as its:
        its.leader.assign((attempt(1), 100.0))
        await until(lambda: bool(its.runner.alive))
        leaving = asyncio.create_task(its.worker.leave(timedelta(seconds=90)))
        await asyncio.sleep(1)
        leaving.cancel()
        await asyncio.sleep(0.1)
        assert not leaving.done()
        before = monotonic()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert monotonic() == before

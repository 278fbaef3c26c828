"""What a worker reports: outcomes and progress. Simulated time; gRPC in memory."""

import asyncio
from typing import Any

import pytest

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
    GATHER_SECONDS,
    OUTCOMES_PER_MESSAGE_MAX,
    PROGRESS_SECONDS,
    RECONNECT_SECONDS_MAX,
    RECONNECT_SECONDS_MIN,
    REFUSALS_MAX,
    WRITER_SECONDS_MAX,
    encoded_or_failure,
)
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import FakeRunner, attempt, succeeded, until
from tests.support.virtual_time import monotonic, virtual_time
from tests.support.workers import failure_of, working


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
    """Each message is a log entry: one for every few tasks kept three masters busy."""
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
    assert outcome_from_proto(encoded_or_failure(good)) == good
    lost = TaskFailure(Reason.SQL_FAILED, "no such column")
    failed = AttemptOutcome(id=attempt(2), failure=lost, retryable=True)
    assert outcome_from_proto(encoded_or_failure(failed)) == failed


@virtual_time
async def test_an_outcome_that_ends_each_session_is_found_told_as_a_failure_and_let_go() -> None:
    """A worker must not repeat for ever an outcome for which the leader ends its session."""

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

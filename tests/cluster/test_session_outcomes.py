"""Outcomes and progress sent to the leader. Simulated time; log and gRPC in memory."""

import asyncio

import pytest

from ipfs_cluster_node.cluster.worker_sessions import OUTCOME_BYTES_MAX, OUTCOMES_PER_COMMAND_MAX
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.codec.tasks import attempt_to_proto
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    NOTE_CHARS_MAX,
    OUTPUT_TAIL_BYTES_MAX,
    RESULT_INLINE_BYTES_MAX,
    TaskState,
)
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import attempt, until
from tests.support.sessions import failure, leading, proposals, result
from tests.support.virtual_time import virtual_time
from tests.support.worlds import OTHER, WORKER

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


@virtual_time
async def test_an_outcome_is_confirmed_once_it_is_committed_and_not_before() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.consensus.commit_seconds = 1.0
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
    """Found by a tester: it ended every session of its worker, and no task ended there."""
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
        its.consensus.commit(add)
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
                len(encode_command(c.LogCommand(at_ms=0, body=b)))
                for b in its.consensus.proposed
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
        entries = [encode_command(c.LogCommand(at_ms=0, body=b)) for b in its.consensus.proposed]
        assert max(map(len, entries)) < 1.2 * OUTCOME_BYTES_MAX


@virtual_time
async def test_what_failed_attempts_printed_weighs_too() -> None:
    async with leading() as its:
        worker = await its.worker()
        words = "\U0001f600" * 1024
        chatty = failure(0, message=words, output_tail="x" * OUTPUT_TAIL_BYTES_MAX)
        await worker.tell(*[chatty] * 250)
        await until(lambda: len(worker.confirmed) == 250)
        entries = [encode_command(c.LogCommand(at_ms=0, body=b)) for b in its.consensus.proposed]
        assert max(map(len, entries)) < 1.2 * OUTCOME_BYTES_MAX


@virtual_time
async def test_an_outcome_that_is_not_committed_is_not_confirmed() -> None:
    async with leading() as its:
        its.submit(1)
        worker = await its.worker(credit=1)
        await until(lambda: bool(worker.assigned))
        its.consensus.refuses = lambda _: ClusterError(Reason.UNKNOWN_OUTCOME, "not known")
        await worker.tell(result(1))
        await until(lambda: worker.ended is not None)
        assert worker.ended.reason is Reason.UNKNOWN_OUTCOME
        assert worker.confirmed == []
        its.consensus.refuses = lambda _: None
        again = await its.worker(attempt(1))
        await again.tell(result(1))
        await until(lambda: again.confirmed == [attempt(1)])
        assert its.task(1).state is TaskState.SUCCEEDED


@virtual_time
async def test_a_leader_that_was_replaced_and_does_not_know_it_confirms_and_kills_nothing() -> None:
    """An unknown reason may be newer than the leader: the worker would forget the outcome."""
    async with leading() as its:
        its.consensus.refuses = lambda _: ClusterError(Reason.UNKNOWN_OUTCOME, "no majority")
        worker = await its.worker()
        await worker.tell(result(8))
        await until(lambda: worker.ended is not None)
        assert worker.confirmed == []
        its.consensus.leads_for_sure = False
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
                its.consensus.commit(c.CancelTask(task_id=TaskId("t1")))
            case "lose":
                its.consensus.commit(c.SetLiveness(dead=(WORKER,)))
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

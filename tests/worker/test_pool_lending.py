"""Which process is lent, which answers are accepted, and what becomes of it: with simulated processes.

What real ones do is in `test_pool.py`, `test_confinement.py` and `test_hostile_handlers.py`.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker import pool as pool_module
from ipfs_cluster_node.adapters.worker.answers import (
    FailureSaid,
    ProgressSaid,
    ProtocolError,
    ResultSaid,
)
from ipfs_cluster_node.adapters.worker.builtin.data_processing import data_processing
from ipfs_cluster_node.adapters.worker.builtin.echo import echo
from ipfs_cluster_node.adapters.worker.pool import (
    AttemptFailed,
    AttemptSucceeded,
)
from ipfs_cluster_node.adapters.worker.processes import ConfinementError, Ended
from ipfs_cluster_node.adapters.worker.registry import kept_types
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import RESULT_INLINE_BYTES_MAX
from ipfs_cluster_node.tasks import task_handler
from tests.support.handler_processes import (
    GOOD,
    UNCLEAN,
    FakeProcess,
    attempt_of,
    one,
    run,
    run_with,
    soon,
)

pytestmark = pytest.mark.asyncio


async def test_a_pool_without_slots_starts_nothing(make: Any, tmp_path: Path) -> None:
    pool = make(slots=0)
    await pool.start()
    assert FakeProcess.made == []
    assert pool.task_types == frozenset()
    assert not (tmp_path / "pool").exists()
    await pool.close()


async def test_a_pool_starts_its_slots_in_an_empty_directory_and_kills_them(
    make: Any, tmp_path: Path
) -> None:
    scratch = tmp_path / "pool" / "scratch"
    scratch.mkdir(parents=True)
    (scratch / "old").write_text("x")
    pool = make(slots=3)
    await pool.start()
    assert len(pool._idle) == len(FakeProcess.made) == 3
    assert all(each.confined for each in FakeProcess.made)
    assert list(scratch.iterdir()) == []
    assert scratch.stat().st_mode & 0o777 == 0o700
    watcher = pool._watcher
    async with asyncio.timeout(5):
        await pool.close()
    assert watcher.done()
    assert all(each.log[-1] == "kill" for each in FakeProcess.made)
    await pool.close()


async def test_where_one_does_not_start_the_others_are_killed(make: Any) -> None:
    pool = make(slots=3)
    FakeProcess.faults = [None, OSError("no memory"), None]
    with pytest.raises(OSError, match="no memory"):
        await pool.start()
    await pool.close()
    assert [each.log[-1] for each in FakeProcess.made] == ["kill"] * 2


async def test_without_namespaces_handlers_run_unless_they_must_not(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    FakeProcess.faults = [ConfinementError("none")]
    pool = make()
    await pool.start()
    assert "(none)" in pool.missing[0]
    assert [each.confined for each in FakeProcess.made] == [False]
    assert "handlers are not confined" in caplog.messages
    await pool.close()
    FakeProcess.made, FakeProcess.faults = [], [ConfinementError("none")]
    pool = make(require_confinement=True)
    with pytest.raises(ClusterError, match="none") as caught:
        await pool.start()
    assert caught.value.reason is Reason.CONFINEMENT_MISSING
    assert FakeProcess.made == []


async def test_what_is_missing_in_part_counts_where_all_is_required(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = FakeProcess.start

    async def partly(plan: Any, *, confined: bool) -> FakeProcess:
        made = await start(plan, confined=confined)
        made.missing = ("no proc",)
        return made

    monkeypatch.setattr(FakeProcess, "start", partly)
    pool = make()
    await pool.start()
    assert pool.missing == ("no proc",)
    await pool.close()
    pool = make(require_confinement=True)
    with pytest.raises(ClusterError, match="no proc"):
        await pool.start()
    assert FakeProcess.made[-1].log[-1] == "kill"
    FakeProcess.made = []


async def test_a_whole_confinement_is_enough_where_it_is_required(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pool, _ = await one(make, require_confinement=True)
    assert pool.missing == ()
    assert caplog.messages == []
    await pool.close()


async def test_a_kept_runner_goes_on_with_its_own_type_only(make: Any) -> None:
    pool, process = await one(make)
    done = await run_with(pool, GOOD)
    assert done == AttemptSucceeded(data=b"data", content_type="text/plain", file=None)
    assert process.log == ["clear"]
    assert (process.kept_type, process.served) == ("echo", 1)
    identity, header, payload = process.runner.asked[0]
    assert (identity.task_id, identity.attempt, len(identity.nonce)) == ("t", 3, 32)
    assert (header["task_type"], header["keep"], payload) == ("echo", True, b"payload")
    assert process.runner.output.who == [("t", 3)]
    await run_with(pool, GOOD)
    assert process.served == 2
    assert process.runner.asked[1][0].nonce != identity.nonce
    process.log.clear()
    async with pool.lease("sleep"):
        assert process.log == ["end", "fork", "clear"]
        assert process.runners[0].closed
        assert pool._idle == []
    assert len(FakeProcess.made) == 1
    await pool.close()


async def test_a_runner_with_children_is_not_kept_whatever_it_says(make: Any) -> None:
    pool, process = await one(make)
    process.is_alone = False
    await run_with(pool, GOOD)
    assert process.log == ["end", "fork", "clear"]
    await pool.close()


async def test_only_handlers_that_come_with_the_node_are_kept() -> None:
    def other(_task: Any) -> None: ...

    other.__module__ = echo.__module__
    ours = {"echo": echo, "data_processing": data_processing}
    assert kept_types(ours) == frozenset(ours)
    assert kept_types({**ours, "echo": other, "other": other}) == {"data_processing"}
    with pytest.raises(TypeError):
        task_handler("other", reuse_process=True)  # type: ignore[call-arg]


async def test_of_two_the_one_that_fits_is_taken(make: Any) -> None:
    pool = make(slots=2)
    await pool.start()
    first, second = FakeProcess.made
    second.kept_type = "echo"
    async with pool.lease("echo") as lease:
        assert lease.process is second
        assert pool._idle == [first]
        async with pool.lease("echo") as other:
            assert other.process is first
    first.kept_type, second.kept_type = "data_processing", ""
    async with pool.lease("echo") as lease:
        assert lease.process is second
    await pool.close()


async def test_a_runner_that_went_on_is_replaced_before_the_next(make: Any) -> None:
    pool, process = await one(make)
    await run_with(pool, GOOD)
    process.runner.has_unread = True
    async with pool.lease("echo"):
        assert len(process.runners) == 2
    process.kept_type, process.ended = "data_processing", Ended(0, clean=False)
    async with pool.lease("echo") as lease:
        assert lease.process is not process
        assert process.log[-1] == "kill"
    process = FakeProcess.made[-1]
    process.kept_type, process.ended = "data_processing", EOFError()
    async with pool.lease("echo") as lease:
        assert lease.process is not process
    await pool.close()


async def test_where_none_can_be_started_the_attempt_fails(make: Any) -> None:
    pool, process = await one(make)
    process.kept_type, process.ended = "sleep", TimeoutError()
    FakeProcess.faults = [OSError("full")]
    with pytest.raises(ClusterError, match="full") as caught:
        await run(pool)
    assert caught.value.reason is Reason.HANDLER_FAILED
    assert pool._idle == []
    await pool.close()


@pytest.mark.parametrize(("task_type", "said"), [("sleep", GOOD), ("echo", UNCLEAN)])
async def test_any_other_runner_ends_with_its_attempt(make: Any, task_type: str, said: Any) -> None:
    pool, process = await one(make)
    assert isinstance(await run_with(pool, said, task_type=task_type), AttemptSucceeded)
    assert process.log == ["end", "fork", "clear"]
    assert process.runners[0].closed
    assert pool._idle == [process]
    await pool.close()


async def test_a_runner_is_replaced_after_many_attempts(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ATTEMPTS_PER_RUNNER_MAX", 2)
    pool, process = await one(make)
    await run_with(pool, GOOD)
    assert len(process.runners) == 1
    await run_with(pool, GOOD)
    assert len(process.runners) == 2
    await pool.close()


async def test_a_process_with_something_left_is_killed(make: Any) -> None:
    for what in ("ended", "fork", "clear"):
        FakeProcess.made = []
        pool, process = await one(make)
        if what == "ended":
            process.ended = Ended(0, clean=False)
        elif what == "fork":
            process.fault_of_fork = OSError()
        else:
            process.fault_of_clear = OSError()
        await run_with(pool, UNCLEAN)
        assert process.log[-1] == "kill", what
        assert pool._idle == [], what
        await pool.close()


async def test_what_goes_on_after_its_answer_fails(make: Any) -> None:
    pool, _ = await one(make)
    async with pool.lease("echo") as lease:
        lease.process.runner.has_unread = True
        lease.process.runner.says.append(GOOD)
        done = await lease.run(attempt_of())
    assert isinstance(done, AttemptFailed)
    assert (done.reason, done.retryable, done.output_tail) == (
        Reason.HANDLER_FAILED,
        False,
        "tail",
    )
    assert "continued after its answer" in done.message
    await pool.close()


@pytest.mark.parametrize("confined", [True, False])
async def test_a_lie_costs_the_process_where_its_keeper_is_in_reach(
    make: Any, *, confined: bool
) -> None:
    pool, process = await one(make)
    process.confined = confined
    done = await run_with(pool, ProtocolError("it lied"))
    assert (done.reason, done.retryable) == (Reason.HANDLER_FAILED, False)
    assert "it lied" in done.message
    assert process.log == (["end", "fork", "clear"] if confined else ["kill"])
    await pool.close()


async def test_failures_are_the_handlers_own(make: Any) -> None:
    pool, _ = await one(make)
    for retryable in (True, False):
        said = FailureSaid(Reason.SQL_FAILED, "words", retryable, True)
        done = await run_with(pool, said)
        assert done == AttemptFailed(
            reason=Reason.SQL_FAILED, message="words", retryable=retryable, output_tail="tail"
        )
    await pool.close()


async def test_too_long_is_a_failure_for_good(make: Any) -> None:
    pool, process = await one(make)
    done = await run_with(pool, seconds=0.01)
    assert (done.reason, done.retryable) == (Reason.ATTEMPT_TIMED_OUT, False)
    assert process.log == ["end", "fork", "clear"]
    assert pool._busy == set()
    await pool.close()


async def test_how_a_process_died_is_told(make: Any) -> None:
    pool, process = await one(make)
    process.ended = Ended(signal.SIGSEGV, clean=True)
    done = await run_with(pool, EOFError())
    assert (done.reason, done.retryable) == (Reason.HANDLER_FAILED, True)
    assert "died (signal 11)" in done.message
    process.ended = EOFError()
    done = await run_with(pool, OSError())
    assert "went away with the process" in done.message
    assert pool._idle == []
    await pool.close()


async def test_a_run_that_is_cancelled_returns_when_nothing_goes_on(make: Any) -> None:
    """Before its lease ends: nothing may still run while the caller finishes."""
    pool, process = await one(make)
    async with pool.lease("echo") as lease:
        running = asyncio.create_task(lease.run(attempt_of()))
        await soon(lambda: pool._busy)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert process.log == ["end"]
    await pool.close()


async def test_a_lease_that_ends_before_its_run_costs_the_process(make: Any) -> None:
    pool, process = await one(make)
    async with pool.lease("echo") as lease:
        running = asyncio.create_task(lease.run(attempt_of()))
        await soon(lambda: pool._busy)
    assert process.log == ["kill"]
    assert pool._idle == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await pool.close()


async def test_a_process_is_given_back_whole_when_its_lease_is_cancelled_meanwhile(
    make: Any,
) -> None:
    pool, process = await one(make)
    gate = process.gates["clear"] = asyncio.Event()
    running = asyncio.create_task(run_with(pool, GOOD))
    await soon(lambda: process.log == ["clear"])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.set()
    await soon(lambda: pool._idle == [process])
    await pool.close()


async def test_cancelling_ends_all_first(make: Any) -> None:
    pool, process = await one(make)
    running = asyncio.create_task(run(pool))
    await soon(lambda: pool._busy)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert process.log == ["end", "fork", "clear"]
    assert pool._busy == set()
    await pool.close()


async def test_progress_is_passed_on_and_a_flood_of_it_slowed(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "PROGRESS_COUNT_FREE", 2)
    monkeypatch.setattr(pool_module, "PROGRESS_PAUSE_SECONDS", 0.25)
    news: list[tuple[str, int, float, str]] = []
    pool, _ = await one(make, on_progress=lambda *said: news.append(said))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await run_with(pool, *[ProgressSaid(0.5, "n")] * 2, GOOD)
    assert loop.time() - began < 0.25
    assert news == [("t", 3, 0.5, "n")] * 2
    began = loop.time()
    await run_with(pool, *[ProgressSaid(0.5, "n")] * 3, GOOD)
    assert loop.time() - began >= 0.24
    await pool.close()


async def test_a_file_is_open_until_its_lease_ends(make: Any, tmp_path: Path) -> None:
    (tmp_path / "r").write_text("of the handler")
    pool, process = await one(make)
    process.runner.says.append(ResultSaid(bytes(RESULT_INLINE_BYTES_MAX), "t", "r", True))
    async with pool.lease("echo") as lease:
        done = await lease.run(attempt_of())
        assert isinstance(done, AttemptSucceeded)
        assert done.file is not None
        assert done.file.read() == b"of the handler"
        assert lease.scratch == tmp_path
    assert done.file.closed
    failed = await run_with(pool, ResultSaid(b"", "t", "nothing", True))
    assert (failed.reason, failed.retryable) == (Reason.TASK_RESULT_INVALID, False)
    much = ResultSaid(bytes(RESULT_INLINE_BYTES_MAX + 1), "t", "r", True)
    failed = await run_with(pool, much)
    assert "too many bytes in addition to a file" in failed.message
    await pool.close()


async def test_a_lease_that_ran_nothing_gives_back_its_process(make: Any) -> None:
    pool, process = await one(make)
    async with pool.lease("echo"):
        pass
    assert pool._idle == [process]
    assert process.log == ["clear"]
    await pool.close()


async def test_a_file_is_opened_when_nobody_is_at_work_beside_it(make: Any, tmp_path: Path) -> None:
    pool, process = await one(make)
    process.at_end = lambda: (tmp_path / "r").write_text("there only then")
    done = await run_with(pool, ResultSaid(b"", "t", "r", False))
    assert isinstance(done, AttemptSucceeded)
    await pool.close()

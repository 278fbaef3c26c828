"""What an attempt uses, and what a kept process does between attempts, is watched.

With simulated processes.
"""

import asyncio
import threading
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker import pool as pool_module
from ipfs_cluster_node.adapters.worker.pool import AttemptFailed
from ipfs_cluster_node.adapters.worker.trees import Usage
from ipfs_cluster_node.core.errors import Reason
from tests.support.handler_processes import GOOD, MEMORY, FakeProcess, one, run_with, soon

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("over", [False, True])
async def test_a_kept_process_is_watched_while_it_is_idle(
    make: Any, monkeypatch: pytest.MonkeyPatch, *, over: bool
) -> None:
    monkeypatch.setattr(pool_module, "WATCH_INTERVAL_SECONDS", 0.001)
    pool, process = await one(make)
    await run_with(pool, GOOD)
    if over:
        process.used = Usage(0, 1, pool_module.THREAD_COUNT_MAX + 1)
    else:
        process.is_alone = False
    await soon(lambda: process.log[-1] == "kill")
    assert pool._idle == []
    await pool.close()


@pytest.mark.parametrize(
    ("processes", "threads", "resident", "proportional", "words"),
    [
        (pool_module.PROCESS_COUNT_MAX + 1, 0, 0, 0, "more than 256 processes at once"),
        (1, pool_module.THREAD_COUNT_MAX + 1, 0, 0, "more than 2048 threads at once"),
        (1, 1, MEMORY + 2**28 + 1, MEMORY + 2**28 + 1, "257 MiB of memory, over 257"),
        (
            pool_module.PROCESS_COUNT_MAX,
            pool_module.THREAD_COUNT_MAX,
            MEMORY + 2**28,
            2**40,
            "",
        ),
        (1, 1, 2**40, MEMORY + 2**28, ""),
        (1, 1, 0, 2**40, ""),
    ],
)
async def test_who_uses_too_much_is_stopped(
    make: Any,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    threads: int,
    resident: int,
    proportional: int,
    words: str,
) -> None:
    monkeypatch.setattr(pool_module, "WATCH_INTERVAL_SECONDS", 0.001)
    pool, process = await one(make)
    process.used, process.proportional_bytes = Usage(resident, processes, threads), proportional
    done = await run_with(pool, seconds=0.1)
    assert isinstance(done, AttemptFailed)
    if words:
        assert (done.reason, done.retryable) == (Reason.TASK_MEMORY_EXCEEDED, False)
        assert words in done.message
    else:
        assert done.reason is Reason.ATTEMPT_TIMED_OUT
    await pool.close()


async def test_a_kept_process_within_its_bounds_stays_and_a_fresh_one_is_not_looked_at(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WATCH_INTERVAL_SECONDS", 0.001)
    pool = make(slots=2)
    await pool.start()
    kept, fresh = FakeProcess.made
    kept.kept_type = "echo"
    await soon(lambda: kept.look_count > 2)
    assert pool._idle == [kept, fresh]
    assert "kill" not in kept.log
    assert fresh.look_count == 0
    await pool.close()


async def test_a_kept_process_that_was_lent_meanwhile_is_left_alone(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WATCH_INTERVAL_SECONDS", 0.001)
    pool, process = await one(make)
    looks, may_go = threading.Event(), threading.Event()

    def look() -> None:
        looks.set()
        assert may_go.wait(5)

    process.at_look, process.used = look, Usage(0, 1, pool_module.THREAD_COUNT_MAX + 1)
    await run_with(pool, GOOD)
    process.log.clear()
    await soon(looks.is_set)
    process.used = Usage(0, 1, 1)
    async with pool.lease("echo") as lease:
        assert lease.process is process
        may_go.set()
        await soon(lambda: process.look_count)
    await soon(lambda: process.look_count > 2)
    assert (pool._idle, process.log) == ([process], ["clear"])
    assert not pool._watcher.done()
    await pool.close()


async def test_a_pool_is_closed_when_what_its_watcher_kills_is_gone(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "WATCH_INTERVAL_SECONDS", 0.001)
    pool, process = await one(make)
    await run_with(pool, GOOD)
    gate = process.gates["kill"] = asyncio.Event()
    process.is_alone = False
    await soon(lambda: process.log[-1] == "kill")
    closing = asyncio.create_task(pool.close())
    await soon(pool._watcher.done)
    await asyncio.sleep(0.01)
    assert not closing.done()
    gate.set()
    await closing
    assert pool._killing == set()


async def test_a_closed_pool_has_no_watcher_left(make: Any) -> None:
    pool, _ = await one(make)
    async with pool.lease("echo"):
        await pool.close()
        assert pool._watcher.done()


async def test_the_watchers_thread_is_there_before_any_attempt(make: Any) -> None:
    """One with many threads may leave no room for it."""
    pool, _ = await one(make)
    await soon(lambda: any(each.name.startswith("handler-watch") for each in threading.enumerate()))
    await pool.close()


async def test_an_attempt_is_watched_until_nothing_of_it_goes_on(make: Any) -> None:
    pool, process = await one(make)
    watched: list[bool] = []
    process.at_end = lambda: watched.append(process in pool._busy)
    await run_with(pool, seconds=0.01)
    assert watched == [True]
    assert pool._busy == set()
    await pool.close()

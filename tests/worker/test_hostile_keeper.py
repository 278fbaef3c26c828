"""A handler changes what the next attempts inherit, or fails in odd ways.

The next attempts are as before, and the submitter is told what happened.
"""

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.worker import inherited, pool, trees
from ipfs_cluster_node.adapters.worker.handler_process import _Keeper
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
)
from ipfs_cluster_node.adapters.worker.processes import HandlerProcess
from ipfs_cluster_node.adapters.worker.runner import START_FAILED_STATUS
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.node.health import _confinement_check
from tests.worker.meddling_handlers import FAILURES, KEEPER_CHANGES, RESULTS

ROOT = Path(__file__).parents[2]
SECRET = "PRIVATE KEY OF THE NODE"
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Slot:
    """A pool with one slot, of a node whose current directory is its home."""

    def __init__(self, home: Path) -> None:
        self.pool = HandlerPool(
            sources=Sources(modules=("tests.worker.meddling_handlers",)),
            slots=1,
            memory_bytes_max=2**26,
            scratch=home / "state" / "scratch",
            hidden=[home],
            also_kept=["own_limits"],
        )
        self.first: object = None

    async def run(self, task_type: str, payload: str = "") -> AttemptSucceeded | AttemptFailed:
        attempt = Attempt(
            task_id=TaskId("t1"),
            attempt=1,
            task_type=task_type,
            payload=payload.encode(),
            content_type="",
            timeout=timedelta(seconds=20),
            inputs={},
        )
        async with self.pool.lease(task_type) as lease:
            return await lease.run(attempt)

    async def data(self, task_type: str, payload: str = "") -> bytes:
        done = await self.run(task_type, payload)
        assert isinstance(done, AttemptSucceeded), done
        return done.data

    async def idle(self) -> HandlerProcess:
        """The process that the next attempt would be given."""
        await self.data("starts")
        [process] = self.pool._idle
        return process

    async def fails(self, task_type: str, payload: str = "") -> AttemptFailed:
        done = await self.run(task_type, payload)
        assert isinstance(done, AttemptFailed), done
        return done


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["confined", "not confined"])
async def slot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Slot]:
    home = tmp_path_factory.mktemp("home")
    (home / "identity.key").write_text(SECRET)
    (home / "struct.py").write_text("raise SystemExit('from the current directory')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{os.path.relpath(ROOT, home)}:")
        patch.chdir(home)
        made = Slot(home)
        if request.param != "confined":
            made.pool._confined = False
        try:
            await made.pool.start()
            made.first = json.loads(await made.data("starts"))
            yield made
        finally:
            await made.pool.close()


@pytest.mark.parametrize("change", KEEPER_CHANGES)
async def test_a_changed_keeper_is_replaced(slot: Slot, change: str) -> None:
    await slot.run("keeper", change)
    assert json.loads(await slot.data("starts")) == slot.first


async def test_a_handler_that_keeps_its_process_does_not_keep_a_changed_priority(
    slot: Slot,
) -> None:
    assert await slot.data("own_limits") == await slot.data("own_limits")


async def test_a_process_whose_runner_fails_to_start_is_replaced(slot: Slot) -> None:
    process = await slot.idle()
    # No runner can be given its pipe as output, nor tell why.
    resource.prlimit(process._keeper, resource.RLIMIT_NOFILE, (5, 5))
    await slot.run("starts")
    assert json.loads(await slot.data("starts")) == slot.first


@pytest.mark.parametrize(
    ("status", "can"), [(0, True), (1 << 8, True), (9, True), (START_FAILED_STATUS << 8, False)]
)
async def test_after_a_runner_that_failed_to_start_no_other_is_forked(
    status: int,
    can: bool,  # noqa: FBT001
) -> None:
    keeper = _Keeper.__new__(_Keeper)
    keeper._status, keeper._inherited = status, inherited.inherited_with_files()
    assert keeper._can_fork() is can


async def test_a_runner_that_died_idle_is_given_to_no_attempt(slot: Slot) -> None:
    process = await slot.idle()
    while not (runners := trees.descendants(process._keeper)):
        await asyncio.sleep(0.01)
    os.kill(runners[0], 9)
    while process.runner.waits:
        await asyncio.sleep(0.01)
    assert json.loads(await slot.data("starts")) == slot.first


async def test_threads_are_bounded(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "THREAD_COUNT_MAX", 100)
    failed = await slot.fails("threads", "200")
    assert failed.reason is Reason.TASK_MEMORY_EXCEEDED
    assert "more than 100 threads" in failed.message


async def test_a_process_with_many_threads_is_not_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(trees, "children", looked.append)
    monkeypatch.setattr(trees, "_thread_count", lambda _pid: 11_000)
    found = trees.usage(os.getpid(), processes_max=9, threads_max=2000)
    assert found.thread_count == 11_000
    assert looked == []


async def test_counting_stops_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "children", lambda _pid: [os.getpid()] * 2)
    found = trees.usage(os.getpid(), processes_max=9, threads_max=2000)
    assert found.process_count == 10


@pytest.mark.parametrize(
    ("before", "after"),
    [((-1, -1), (9, 9)), ((4, -1), (4, 9)), ((4, 6), (4, 6)), ((20, 30), (9, 9))],
)
async def test_a_lower_limit_stays(
    before: tuple[int, int], after: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _limit: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _limit, pair: given.append(pair))
    inherited.lower(resource.RLIMIT_DATA, 9)
    assert given == [after]


async def test_a_handler_does_not_reach_the_nodes_current_directory(slot: Slot) -> None:
    began = json.loads(await slot.data("starts"))
    assert began["cwd"] == "/"
    assert str(Path.cwd()) not in began["path"]
    assert "" not in began["path"]
    assert str(ROOT) in began["path"]
    assert (await slot.fails("read", "identity.key")).message.startswith("FileNotFoundError")


async def test_shared_memory_has_a_bound_of_files(slot: Slot) -> None:
    if slot.pool.missing or not slot.pool._confined:
        pytest.skip("it is the machine's own here")
    count, _, why = (await slot.data("fill_shared_memory", "20000")).decode().partition(" ")
    assert (int(count) < 16384, why) == (True, "No space left on device")
    assert await slot.data("fill_shared_memory", "1") == b"all"


WORDS = {
    "bare": "of my words",
    "property": "my words",
    "message exits": "QUOTA: its text can't be made, for that fails with SystemExit",
    "reason exits": "its text can't be made, for that fails with SystemExit: my words",
    "text": "QUOTA: my words",
    "text as reason": "QUOTA: my words",
    "error exits": "_ExitsError: its text can't be made, for that fails with SystemExit",
    "nameless": "_NamelessError: my words",
    "no stderr": "ValueError: my words",
    "closed stderr": "ValueError: my words",
    "closed descriptors": "ValueError: my words",
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_words_of_a_failure_are_kept(slot: Slot, failure: str) -> None:
    failed = await slot.fails("fails", failure)
    assert (failed.reason, failed.message) == (Reason.HANDLER_FAILED, WORDS[failure])
    if "stderr" in failure:
        assert "Traceback" in failed.output_tail


@pytest.mark.parametrize("handler", ["closes_stdout", "stdout_raises"])
async def test_a_good_result_outlives_its_streams(slot: Slot, handler: str) -> None:
    assert await slot.data(handler) == b"good"


@pytest.mark.parametrize("result", RESULTS)
async def test_a_result_that_others_can_not_read_is_refused(slot: Slot, result: str) -> None:
    failed = await slot.fails("returns", result)
    assert failed.reason is Reason.TASK_RESULT_INVALID
    assert failed.message.encode()


async def test_json_of_any_text_and_of_distinct_keys_is_a_result(slot: Slot) -> None:
    assert json.loads(await slot.data("emoji")) == {"a": "\U0001f600", "1": 2, "b": [{}]}


async def test_health_says_which_memory_is_not_bounded() -> None:
    assert "only by a control group" in _confinement_check(()).detail

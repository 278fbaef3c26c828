"""A worker whose disk is full takes no tasks, and none of them fails for that."""

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.worker.pool import AttemptSucceeded
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import AttemptOutcome, TaskFailure
from ipfs_cluster_node.node import attempts
from ipfs_cluster_node.node.attempts import AttemptRunner
from ipfs_cluster_node.node.health import NodeHealth
from ipfs_cluster_node.node.space import TASKS_ROOM_BYTES_MIN, DiskSpace
from ipfs_cluster_node.node.worker import FENCE_SECONDS, WRITER_SECONDS_MAX
from tests.support.attempts import WHICH, Pool, runner_of, spec_of
from tests.support.disks import fill_up, small_disk
from tests.support.dispatch import FakeRunner, attempt, until
from tests.support.virtual_time import virtual_time
from tests.support.workers import failure_of, working


class Disk:
    """A disk that is full or not, as the test says."""

    full = False

    def has_room(self) -> bool:
        return not self.full


@virtual_time
async def test_a_worker_without_room_asks_for_nothing_and_does_so_again_once_it_has_room() -> None:
    disk = Disk()
    disk.full = True
    async with working(2, has_room=disk.has_room) as its:
        await asyncio.sleep(5)
        assert its.leader.credit_most == 0
        disk.full = False
        await until(lambda: its.leader.credit == 2, WRITER_SECONDS_MAX + 0.1)


@virtual_time
async def test_a_worker_whose_disk_fills_up_takes_its_credit_back_and_hands_back_what_waits() -> (
    None
):
    """Found by a tester: it failed tasks for good although another worker could have run them."""
    disk = Disk()
    async with working(2, has_room=disk.has_room) as its:
        its.leader.assign(*((attempt(n), 0.01) for n in range(20)))
        await until(lambda: not its.leader.pending and not its.worker.running_count)
        its.leader.assign(*((attempt(50 + n), 2.0) for n in range(6)))
        await until(lambda: its.worker.running_count == 6)
        disk.full = True
        await until(lambda: its.worker.running_count == 2, FENCE_SECONDS + 0.1)
        back = {at for at in its.leader.outcomes if failure_of(its.leader, at).handed_back}
        assert len(back) == 4
        await until(lambda: its.leader.credit == 0, WRITER_SECONDS_MAX + 0.1)
        its.leader.credit = 1
        its.leader.assign((attempt(90), 0.01))
        await until(lambda: attempt(90) in its.leader.outcomes, 0.1)
        assert failure_of(its.leader, attempt(90)).handed_back
        await until(lambda: its.worker.running_count == 0)
        ended = set(map(attempt, range(50, 56))) - back
        assert all(its.leader.outcomes[at][0].HasField("result") for at in ended)
        assert not (back | {attempt(90)}) & set(its.runner.began)
        disk.full = False
        its.leader.assign(*((attempt(100 + n), 0.01) for n in range(50)))
        await until(lambda: all(attempt(100 + n) in its.leader.outcomes for n in range(50)))


@virtual_time
async def test_attempts_that_fail_at_once_do_not_make_a_worker_look_fast() -> None:
    failure = TaskFailure(Reason.STORAGE_FULL, "full")
    runner = FakeRunner(
        outcome_of=lambda which: AttemptOutcome(id=which, failure=failure, retryable=True)
    )
    async with working(2, runner=runner) as its:
        its.leader.assign(*((attempt(n), 0.001) for n in range(200)))
        await until(lambda: len(its.leader.outcomes) == 200)
        assert its.leader.credit_most == 2
        runner.outcome_of = lambda _which: None
        its.leader.assign(*((attempt(200 + n), 0.001) for n in range(200)))
        await until(lambda: len(its.leader.outcomes) == 400)
        assert its.leader.credit_most > 10


@pytest.mark.asyncio
@pytest.mark.parametrize("has_room", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_an_attempt_for_which_the_disk_has_no_room_is_handed_back_only_while_it_is_full(
    number: int,
    has_room: bool,  # noqa: FBT001
) -> None:
    """A task that needs more than any disk has would be reassigned for ever."""
    runner = runner_of(Pool(OSError(number, "full")), has_room=has_room)
    outcome = await runner.run(WHICH, spec_of())
    assert outcome.failure is not None
    assert outcome.retryable
    assert outcome.handed_back is not has_room
    told = Reason.STORAGE_FULL if has_room else Reason.WORKER_LOST
    assert outcome.failure.reason is told


@pytest.mark.asyncio
@pytest.mark.parametrize("has_room", [False, True])
async def test_an_input_that_the_own_store_has_no_room_for_is_handed_back_while_it_is_full(
    monkeypatch: pytest.MonkeyPatch,
    has_room: bool,  # noqa: FBT001
) -> None:
    async def fetch(*_: Any, **__: Any) -> None:
        raise ClusterError(Reason.STORAGE_FULL, "the disk of this node is full")

    monkeypatch.setattr(AttemptRunner, "_fetch", fetch)
    outcome = await runner_of(Pool(), has_room=has_room).run(WHICH, spec_of("a"))
    assert outcome.handed_back is not has_room
    assert outcome.retryable


@pytest.mark.asyncio
async def test_a_result_that_the_masters_have_no_room_for_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def upload(*_: Any, **__: Any) -> None:
        raise ClusterError(Reason.STORAGE_FULL, "the masters are full")

    monkeypatch.setattr(attempts, "upload", upload)
    with (tmp_path / "result").open("w+b") as file:
        pool = Pool(AttemptSucceeded(data=b"", content_type="", file=file), tmp_path)
        outcome = await runner_of(pool, has_room=False).run(WHICH, spec_of())
    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.STORAGE_FULL
    assert not outcome.handed_back


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64m") as path:
        yield path


def test_a_worker_s_health_says_that_a_full_disk_takes_no_tasks(disk: Path) -> None:
    space = DiskSpace(disk, 2**20)
    health = cast("Any", SimpleNamespace(_space=space, _worker=object()))
    fill_up(disk, leave_bytes=2**20 + TASKS_ROOM_BYTES_MIN)
    assert not NodeHealth._disk_check(health).degraded
    fill_up(disk, leave_bytes=2**20 + TASKS_ROOM_BYTES_MIN // 2)
    check = NodeHealth._disk_check(health)
    assert check.ok
    assert check.degraded
    assert "no tasks are taken here; free some space" in check.detail
    health._worker = None
    assert not NodeHealth._disk_check(health).degraded

"""A worker that leaves: goodbye, drain, a second signal. Simulated time; gRPC in memory."""

import asyncio
from datetime import timedelta

import pytest

from ipfs_cluster_node.node.worker import HAND_BACK_SECONDS_MAX
from ipfs_cluster_node.v1 import errors_pb2
from tests.support.dispatch import FakeRunner, attempt, until
from tests.support.virtual_time import monotonic, virtual_loop, virtual_time
from tests.support.workers import failure_of, working


@virtual_time
async def test_a_worker_that_leaves_says_goodbye_and_hands_back_what_it_has() -> None:
    """Found by a tester: after SIGTERM of a worker all its attempts counted as lost, a lease later."""
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
    """Found by a tester: all running attempts stayed assigned to the node until its lease ended."""
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

"""A worker's lease and leader: what runs, what is killed. Simulated time; gRPC in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ipfs_cluster_node.node.worker import FENCE_MARGIN_SECONDS, FENCE_SECONDS, WRITER_SECONDS_MAX
from ipfs_cluster_node.v1 import errors_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import FakeRunner, ScriptedLeader, attempt, until
from tests.support.virtual_time import monotonic, virtual_time
from tests.support.workers import failure_of, working

# The fence.


OF_A_NEWER_PEER = b"\xd2\x3e\x03new"
"""Field 1002, which this release has not."""


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


@virtual_time
async def test_a_message_of_a_newer_leader_is_ignored_and_the_session_goes_on() -> None:
    async with working(1) as its:
        await until(lambda: its.leader.credit == 1)
        its.leader.send(pb.WorkerSessionResponse.FromString(OF_A_NEWER_PEER))
        its.leader.assign((attempt(1), 0.1))
        await until(lambda: attempt(1) in its.leader.outcomes)
        assert its.leader.outcomes[attempt(1)][0].HasField("result")
        assert len(its.leader.calls) == 1


@virtual_time
@pytest.mark.parametrize("version", [0, 99])
async def test_a_leader_that_speaks_another_version_gets_no_work_done_and_the_log_says_why(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    leader = ScriptedLeader()
    leader.protocol_version = version
    async with working(1, leader=leader) as its:
        await until(lambda: len(leader.calls) == 3)  # It tries again: the leader may change.
        assert leader.credit == 0
        assert any(
            record.levelname == "ERROR" and "upgrade the older one" in getattr(record, "why", "")
            for record in caplog.records
        )
        leader.protocol_version = None
        its.leader.pending.append((attempt(1), 0.1))
        await until(lambda: attempt(1) in leader.outcomes)

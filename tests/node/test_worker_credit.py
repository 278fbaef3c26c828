"""How many tasks a worker asks for. Simulated time; gRPC in memory."""

import asyncio

import pytest

from ipfs_cluster_node.core.credit import CREDIT_MAX
from ipfs_cluster_node.node.worker import WAIT_SECONDS_MAX, WRITER_SECONDS_MAX
from tests.support.dispatch import ScriptedLeader, attempt, until
from tests.support.virtual_time import monotonic, virtual_time
from tests.support.workers import failure_of, working


@pytest.mark.parametrize("slots", range(1, 9))
@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.1, 0.15, 1.0, 10.0])
@virtual_time
async def test_all_slots_are_taken_however_long_tasks_are(slots: int, seconds: float) -> None:
    """Found by a tester: with tasks longer than N * 0.1 s only N-1 slots were used."""
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
        if seconds >= 0.1:  # Otherwise the hops of the session are no little part of it.
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
        assert its.leader.credit == 0  # Otherwise what was handed back would come here again.
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

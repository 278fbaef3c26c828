"""The replica under a simulated clock: the order of a step, proposals, the lease."""

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.replica import GATHER_QUIET_SECONDS, GATHER_SECONDS_MAX
from ipfs_cluster_node.adapters.raft.step import Step
from ipfs_cluster_node.core.errors import Reason
from tests.support.engines import count_ticks
from tests.support.memory_replicas import MakeCluster, MemoryHost, reason_of, until
from tests.support.replicas import ListMachine
from tests.support.virtual_time import virtual_time

DEPENDS_ON_THE_WRITE = ("append_result", "vote_granted", "request_vote", "pre_vote_granted")


def writes_under_way(host: MemoryHost, kind: str) -> list[bool]:
    """For each message of a kind, whether a write was under way as it was sent."""
    under_way, found = False, []
    for what, which in host.trace:
        if what == "write":
            under_way = which == "begins"
        elif what == "send" and which == kind:
            found.append(under_way)
    return found


# The order of a step.


@virtual_time
async def test_votes_and_acknowledgements_leave_only_after_the_write(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        for number in range(5):
            await leader.replica.propose(b"%d" % number)
        for host in cluster.hosts.values():
            for kind in DEPENDS_ON_THE_WRITE:
                assert not any(writes_under_way(host, kind)), kind
        for follower in cluster.others(leader):
            # Right behind each write there is the answer that depended on it.
            behind = [
                following
                for event, following in zip(follower.trace, follower.trace[1:], strict=False)
                if event == ("write", "ends")
            ]
            assert ("send", "append_result") in behind
        # One of them at least; another may have asked for votes itself.
        traces = [follower.trace for follower in cluster.others(leader)]
        assert any(("send", "vote_granted") in trace for trace in traces)


@virtual_time
async def test_a_follower_whose_write_has_not_ended_acknowledges_nothing(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        slow, cut = cluster.others(leader)
        cluster.cut(cut, leader, slow)
        await asyncio.sleep(0.2)
        slow.write_seconds = 0.4
        began = now()
        assert await leader.replica.propose(b"one") == (1, "one")
        assert now() - began >= 0.4


@virtual_time
async def test_a_leaders_entries_leave_before_its_own_write_has_ended(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        leader.write_seconds = 0.2
        leader.trace.clear()
        await leader.replica.propose(b"one")
        sends = leader.trace.index(("send", "append_entries"))
        assert sends < leader.trace.index(("write", "ends"))


@virtual_time
async def test_a_step_without_anything_to_write_writes_nothing(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await asyncio.sleep(1)
        leader.trace.clear()
        await asyncio.sleep(1)
        assert ("write", "begins") not in leader.trace
        beats = leader.trace.count(("send", "append_entries"))
        assert 2 * 8 <= beats <= 2 * 12


@virtual_time
async def test_a_step_that_has_more_to_do_does_not_wait_for_the_beat(made: MakeCluster) -> None:
    async with made(1, tick_interval=timedelta(seconds=1)) as cluster:
        leader = await cluster.leader()
        assert isinstance(leader.replica.engine, Engine)
        began = now()
        await asyncio.gather(*(leader.replica.propose(bytes(1_500_000)) for _ in range(5)))
        assert now() - began < 0.2


# Proposals.


@virtual_time
async def test_a_lone_write_takes_the_leader_two_steps_and_one_tick(made: MakeCluster) -> None:
    """One that sends and writes it, one that commits it; a late acknowledgement waits."""
    async with made(tick_interval=timedelta(seconds=1)) as cluster:
        leader = await cluster.leader()
        engine = leader.replica.engine
        slow = cluster.others(leader)[1]
        slow.write_seconds = 0.01
        await until(lambda: engine._tick_at - now() > 0.45)  # The beat was just now.
        ticks, steps, begin_step = count_ticks(engine), 0, engine.begin_step

        def counted() -> Step:
            nonlocal steps
            steps += 1
            return begin_step()

        engine.begin_step = counted  # type: ignore[method-assign]
        for number in range(8):
            await leader.replica.propose(b"%d" % number)
            await asyncio.sleep(0.03)
        assert (steps, ticks()) == (2 * 8, 8)
        assert engine.match_index(slow.voter) == engine.commit_index - 1
        # The next step takes it, at the latest that of the next beat.
        await until(lambda: engine.match_index(slow.voter) == engine.commit_index)


@virtual_time
async def test_a_proposal_gets_what_the_machine_made_of_it(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        assert await leader.replica.propose(b"one") == (1, "one")
        assert await leader.replica.propose(b"two") == (2, "two")
        # One that raises is told so, and hinders nobody.
        assert await reason_of(leader.replica.propose(b"raise")) is Reason.INTERNAL
        assert await leader.replica.propose(b"three") == (3, "three")
        assert leader.replica.applied_index == leader.replica.commit_index
        assert leader.replica.position().index == leader.replica.applied_index
        await until(lambda: all(len(h.machine.commands) == 3 for h in cluster.hosts.values()))


@virtual_time
async def test_a_proposal_alone_waits_for_nothing(made: MakeCluster) -> None:
    """Neither for the next beat, nor for others to come."""
    async with made(1, tick_interval=timedelta(seconds=1)) as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        for number in range(10):
            began = now()
            await leader.replica.propose(b"%d" % number)
            assert now() - began < 0.01


@virtual_time
async def test_what_comes_at_once_is_committed_at_once(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        before = leader.replica.commit_index
        results = await asyncio.gather(*(leader.replica.propose(b"%d" % n) for n in range(50)))
        assert results == [(n + 1, str(n)) for n in range(50)]
        assert leader.replica.commit_index == before + 1


@virtual_time
async def test_a_batch_waits_for_a_crowd_and_for_nobody_else(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        replica, moment = leader.replica, now()
        turns = 0

        async def gather(
            count: int, last: int, *, comes: int, turn_seconds: float = 0.0004
        ) -> float:
            """How long it waits, where one more comes with each of the next turns."""
            nonlocal moment, turns
            began, turns = moment, 0
            looked = moment
            proposals: Any = Waiting(count, last)
            replica.engine.proposals, kept = proposals, replica.engine.proposals

            async def others() -> None:
                nonlocal moment, turns
                while True:
                    turns += 1
                    moment += turn_seconds
                    if turns <= comes:
                        proposals.waiting_count += 1
                    await asyncio.sleep(0)

            looks = itertools.count()

            def clock() -> float:
                nonlocal looked
                assert next(looks) <= 2 * (turns + 1), "it turns without giving others a turn"
                looked = moment
                return moment

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("ipfs_cluster_node.adapters.raft.replica.now", clock)
                calling = asyncio.create_task(others())
                await replica._gather()
                calling.cancel()
            replica.engine.proposals = kept
            return looked - began

        assert await gather(1, 1, comes=0) == 0  # Alone.
        assert await gather(0, 5, comes=0) == 0  # Nobody waits.
        assert await gather(2, 0, comes=0) == pytest.approx(GATHER_QUIET_SECONDS, abs=0.0004)
        assert await gather(1, 2, comes=0) == pytest.approx(GATHER_QUIET_SECONDS, abs=0.0004)
        for comes in (5, 20):
            waited = await gather(2, 2, comes=comes)
            assert waited == pytest.approx(comes * 0.0004 + GATHER_QUIET_SECONDS, abs=0.0006)
        # Just as long is long enough.
        waited = await gather(2, 0, comes=0, turn_seconds=GATHER_QUIET_SECONDS)
        assert waited == pytest.approx(GATHER_QUIET_SECONDS)
        # Not for ever.
        assert await gather(2, 2, comes=1000) == pytest.approx(GATHER_SECONDS_MAX, abs=0.0006)


@virtual_time
async def test_what_a_crowd_calls_one_after_the_other_is_one_batch(made: MakeCluster) -> None:
    async with made(1) as cluster:
        replica = (await cluster.leader()).replica

        async def call(turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await replica.propose(b"x")

        await asyncio.gather(*(call(0) for _ in range(4)))
        before = replica.commit_index
        await asyncio.gather(*(call(turns) for turns in range(0, 20, 2)))
        assert replica.commit_index == before + 1


class Waiting:
    """Proposals that wait, as far as gathering looks at them."""

    def __init__(self, count: int, last: int) -> None:
        self.waiting_count = count
        self.batch_count_last = last
        self.under_way = False

    @property
    def waits(self) -> bool:
        return self.waiting_count > 0


@virtual_time
async def test_a_batch_under_way_is_gathered_for_by_nobody(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        proposals: Any = Waiting(5, 5)
        proposals.under_way = True
        leader.replica.engine.proposals, kept = proposals, leader.replica.engine.proposals
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("asyncio.sleep", None)
            await leader.replica._gather()
        leader.replica.engine.proposals = kept


@virtual_time
async def test_who_gave_up_before_its_proposal_went_is_left_out(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        first = asyncio.ensure_future(leader.replica.propose(b"first"))
        await asyncio.sleep(0)
        while not leader.replica.engine.proposals.under_way:
            await asyncio.sleep(0.0001)
        gone = asyncio.ensure_future(leader.replica.propose(b"gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await first
        await leader.replica.propose(b"next")
        assert leader.machine.commands == ["first", "next"]


@virtual_time
async def test_who_gave_up_while_it_was_under_way_harms_nobody(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        gone = asyncio.ensure_future(leader.replica.propose(b"gone"))
        while not leader.replica.engine.proposals.under_way:
            await asyncio.sleep(0.0001)
        gone.cancel()
        assert await leader.replica.propose(b"next") == (2, "next")


@virtual_time
async def test_another_machine_gets_what_the_log_holds_and_is_not_known_to_be_committed(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        for command in (b"one", b"two"):
            await leader.replica.propose(command)
        await leader.stop()
        # As of a start, nothing is known to be committed.
        opened = leader.make()
        replayed = ListMachine()
        opened.replay(replayed)
        assert replayed.commands == ["one", "two"]
        assert leader.machine.commands == []
        opened.engine.close()


@virtual_time
async def test_a_follower_takes_no_proposals_and_names_the_leader(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        for follower in cluster.others(leader):
            assert await reason_of(follower.replica.propose(b"two")) is Reason.NOT_LEADER
            assert follower.replica.leader == leader.node_id
            assert follower.replica.term == leader.replica.term
            assert not follower.replica.is_leader
            assert not follower.replica.leads_for_sure
        assert leader.replica.is_leader
        assert leader.replica.leader == leader.node_id


@virtual_time
async def test_the_age_of_what_a_follower_has_grows_while_it_is_cut_off(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        await asyncio.sleep(1)
        follower, other = cluster.others(leader)
        assert follower.replica.age_ms <= 200
        cluster.cut(follower, leader, other)
        await asyncio.sleep(5)
        assert 4700 <= follower.replica.age_ms <= 5300


# Leading.


@virtual_time
async def test_a_leader_that_is_cut_off_loses_its_lease_before_another_one_leads(
    made: MakeCluster,
) -> None:
    """What it would answer reads from meanwhile would be old."""
    async with made() as cluster:
        leader = await cluster.leader()
        began: list[tuple[bool, int]] = []
        leader.replica.on_leadership = lambda leads, term: began.append((leads, term))
        assert leader.replica.on_leadership is leader.replica.engine.on_leadership
        cluster.cut(leader, *cluster.others(leader))
        both = 0
        for _ in range(300):
            await asyncio.sleep(0.01)
            sure = [h for h in cluster.hosts.values() if h.replica.leads_for_sure]
            both = max(both, len(sure))
        assert both == 1
        assert await cluster.leader(but=leader) is not leader
        assert began == [(False, leader.replica.term)]
        assert not leader.replica.leads_for_sure


@virtual_time
async def test_a_leader_whose_disk_hangs_leads_no_longer(
    made: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        assert leader.replica.slow_write_seconds == 0
        leader.write_seconds = 3.0
        began = now()
        waiting = asyncio.ensure_future(leader.replica.propose(b"two"))
        assert await reason_of(waiting) is Reason.UNKNOWN_OUTCOME
        fallback = RaftConfig().fallback_timeout.total_seconds()
        assert fallback <= now() - began < fallback + 0.2
        assert not leader.replica.is_leader
        assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
            "stops leading: the disk has not ended a write of the log"
        ]
        await asyncio.sleep(4)
        assert leader.replica.slow_write_seconds >= 3.0

"""Adding and removing voters, and handing over, under a simulated clock."""

import asyncio
from datetime import timedelta

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.step import Step
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1.raft_pb2 import RaftMessage
from tests.support.memory_replicas import (
    SELDOM,
    MakeCluster,
    MemoryCluster,
    MemoryHost,
    reason_of,
    until,
)
from tests.support.virtual_time import virtual_time

# Who votes.


@virtual_time
async def test_a_new_voter_gets_the_log_first_and_then_votes(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        new = cluster.add(VoterId("x.1"), [])
        new.start()
        await leader.replica.add_voter(new.voter)
        assert new.voter in leader.replica.voters
        assert leader.replica.engine.can_change_voters
        assert new.voter not in leader.replica._joining
        assert new.voter not in leader.replica.engine.learners
        await until(lambda: new.machine.commands == ["one"])
        commit = leader.replica.commit_index
        await leader.replica.add_voter(new.voter)  # It votes: nothing is done.
        assert leader.replica.commit_index == commit


@virtual_time
async def test_a_new_voter_does_not_wait_for_the_beat(made: MakeCluster) -> None:
    async with made(**SELDOM) as cluster:
        leader = await cluster.leader()
        new = cluster.add(VoterId("x.1"), [])
        new.start()
        leader.replica._joining.add(new.voter)  # Its link is up.
        await until(lambda: leader.replica._is_connected(new.voter))
        engine = leader.replica.engine
        await until(lambda: 0.1 < now() - engine._tick_at < 0.2)
        adding = asyncio.ensure_future(leader.replica.add_voter(new.voter))
        await asyncio.sleep(0.05)
        assert cluster.links[leader.voter, new.voter].sent
        await adding


@virtual_time
async def test_a_new_voter_is_dialled_until_it_answers(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        new = cluster.add(VoterId("x.1"), [])
        adding = asyncio.ensure_future(leader.replica.add_voter(new.voter))
        await asyncio.sleep(0.5)
        new.start()
        await adding
        assert new.voter in leader.replica.voters


@virtual_time
async def test_a_new_voter_that_cant_be_dialled_back_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        began = now()
        refused = await reason_of(leader.replica.add_voter(VoterId("x.1")))
        assert refused is Reason.PEER_UNREACHABLE
        assert now() - began == pytest.approx(3.0, abs=0.1)
        assert not leader.replica._joining
        await asyncio.sleep(0.1)
        assert VoterId("x.1") not in leader.replica._links


async def slow_newcomer(cluster: MemoryCluster) -> tuple[MemoryHost, MemoryHost]:
    """The leader, and a replica that it has yet to add, whose disk takes its time."""
    leader = await cluster.leader()
    new = cluster.add(VoterId("x.1"), [])
    new.start()
    new.write_seconds = 100.0
    return leader, new


@virtual_time
async def test_a_new_voter_that_does_not_catch_up_does_not_vote(made: MakeCluster) -> None:
    async with made() as cluster:
        leader, new = await slow_newcomer(cluster)
        began = now()
        refused = await reason_of(leader.replica.add_voter(new.voter))
        assert refused is Reason.MEMBERSHIP_CHANGE_IN_PROGRESS
        assert now() - began >= 3.0
        assert new.voter not in leader.replica.voters


@virtual_time
async def test_a_new_voter_that_goes_away_does_not_vote(made: MakeCluster) -> None:
    async with made() as cluster:
        leader, new = await slow_newcomer(cluster)
        adding = asyncio.ensure_future(leader.replica.add_voter(new.voter))
        await until(lambda: new.voter in leader.replica.engine.learners)
        cluster.cut(leader, new)
        assert await reason_of(adding) is Reason.PEER_UNREACHABLE


@virtual_time
async def test_a_leader_that_leads_no_longer_adds_nobody(made: MakeCluster) -> None:
    async with made() as cluster:
        leader, new = await slow_newcomer(cluster)
        adding = asyncio.ensure_future(leader.replica.add_voter(new.voter))
        await until(lambda: new.voter in leader.replica.engine.learners)
        leader.replica.engine.stop_leading()
        assert await reason_of(adding) is Reason.NO_LEADER
        follower = cluster.others(leader)[0]
        for call in (
            follower.replica.add_voter(new.voter),
            follower.replica.remove_voter(leader.voter),
            follower.replica.transfer_leadership(follower.voter),
        ):
            assert await reason_of(call) in {Reason.NOT_LEADER, Reason.NO_LEADER}


@virtual_time
async def test_a_voter_is_removed_and_its_link_with_it(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        gone, stays = cluster.others(leader)
        await leader.replica.remove_voter(gone.voter)
        assert leader.replica.voters == {leader.voter, stays.voter}
        await gone.stop()
        await asyncio.sleep(0.2)
        assert leader.replica._links.keys() == {stays.voter}
        await leader.replica.remove_voter(gone.voter)  # Once more does nothing.
        await leader.replica.propose(b"one")


@virtual_time
async def test_a_removal_that_leaves_no_majority_connected_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        one, other = cluster.others(leader)
        await one.stop()
        await asyncio.sleep(0.2)
        refused = await reason_of(leader.replica.remove_voter(other.voter))
        assert refused is Reason.QUORUM_AT_RISK
        assert other.voter in leader.replica.voters
        await leader.replica.remove_voter(one.voter)
        assert one.voter not in leader.replica.voters


@virtual_time
async def test_a_leader_does_not_remove_itself(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        with pytest.raises(ClusterError, match="can't remove itself"):
            await leader.replica.remove_voter(leader.voter)


@virtual_time
async def test_a_change_that_is_not_committed_in_time_is_told_as_unknown(made: MakeCluster) -> None:
    async with made(
        5, election_timeout_min=timedelta(seconds=2.2), election_timeout_max=timedelta(seconds=3.4)
    ) as cluster:
        leader = await cluster.leader()
        others = cluster.others(leader)
        for host in others[:3]:
            host.write_seconds = 100.0
        began = now()
        refused = await reason_of(leader.replica.remove_voter(others[3].voter))
        assert refused is Reason.UNKNOWN_OUTCOME
        assert now() - began == pytest.approx(3.0, abs=0.1)


@virtual_time
async def test_a_change_does_not_wait_for_the_beat_or_a_batch_under_way(made: MakeCluster) -> None:
    async with made(**SELDOM) as cluster:
        leader = await cluster.leader()
        engine = leader.replica.engine
        for host in cluster.others(leader):
            host.write_seconds = 2.0
        await until(lambda: engine._tick_at - now() > 0.45)  # The beat was just now.
        batch = asyncio.ensure_future(leader.replica.propose(b"one"))
        await asyncio.sleep(0.1)
        before = engine.journal.last_index
        removing = asyncio.ensure_future(
            leader.replica.remove_voter(cluster.others(leader)[0].voter)
        )
        await asyncio.sleep(0.05)
        assert engine.journal.last_index > before
        await asyncio.gather(batch, removing)


@virtual_time
async def test_changes_wait_for_one_another(made: MakeCluster) -> None:
    async with made(5) as cluster:
        leader = await cluster.leader()
        one, two, *_ = cluster.others(leader)
        await asyncio.gather(
            leader.replica.remove_voter(one.voter), leader.replica.remove_voter(two.voter)
        )
        assert leader.replica.voters.isdisjoint({one.voter, two.voter})


# Handing over.


@virtual_time
async def test_leadership_is_handed_to_who_was_named(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        target = cluster.others(leader)[1]
        began = now()
        await leader.replica.transfer_leadership(target.voter)
        assert now() - began < 0.5
        assert leader.replica.leader == target.node_id
        assert await cluster.leader() is target


@virtual_time
async def test_a_handover_does_not_wait_for_the_beat(made: MakeCluster) -> None:
    async with made(**SELDOM) as cluster:
        leader = await cluster.leader()
        engine = leader.replica.engine
        # A tick is due, and the next beat is 0.3 to 0.4 s away.
        await until(lambda: 0.1 < now() - engine._tick_at < 0.2)
        began = now()
        target = cluster.others(leader)[0].voter
        handing_over = asyncio.ensure_future(leader.replica.transfer_leadership(target))
        await until(lambda: ("send", "timeout_now") in leader.trace)
        assert now() - began < 0.1
        await handing_over


@virtual_time
async def test_no_acknowledgement_waits_while_a_leader_hands_over(made: MakeCluster) -> None:
    """One that is late may tell that the target has the whole log."""
    async with made(**SELDOM) as cluster:
        leader = await cluster.leader()
        engine, slow = leader.replica.engine, cluster.others(leader)[1]
        slow.write_seconds = 0.05
        await leader.replica.propose(b"one")
        late = RaftMessage(term=engine.term)
        late.append_result.success = True
        late.append_result.next_index = engine.commit_index + 1
        assert engine.can_wait(slow.voter, late)
        engine.transfer_leadership(slow.voter)
        assert not engine.can_wait(slow.voter, late)


@virtual_time
async def test_a_leader_that_hands_over_does_not_spin_while_proposals_wait(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        target, other = cluster.others(leader)
        target.write_seconds, other.write_seconds = 0.3, 0.05
        engine, steps = leader.replica.engine, 0
        begin_step = engine.begin_step

        def counted() -> Step:
            nonlocal steps
            steps += 1
            assert steps < 200
            return begin_step()

        engine.begin_step = counted  # type: ignore[method-assign]
        proposing = [asyncio.ensure_future(leader.replica.propose(b"%d" % n)) for n in range(2)]
        await until(lambda: engine.proposals.under_way)
        proposing.append(asyncio.ensure_future(leader.replica.propose(b"2")))
        handing_over = asyncio.ensure_future(leader.replica.transfer_leadership(target.voter))
        await asyncio.sleep(0.2)
        assert engine.proposals.waits
        assert not handing_over.done()
        await asyncio.gather(handing_over, *proposing, return_exceptions=True)
        assert steps < 200


@virtual_time
async def test_who_does_not_lead_names_the_leader_whoever_is_connected(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower, other = cluster.others(leader)
        cluster.cut(follower, other)
        await asyncio.sleep(0.5)
        handing_over = follower.replica.transfer_leadership(other.voter)
        assert await reason_of(handing_over) is Reason.NOT_LEADER
        # Nor does it say who votes, or judge what would be left: it does not know.
        adding = follower.replica.add_voter(leader.voter)
        assert await reason_of(adding) is Reason.NOT_LEADER
        removing = follower.replica.remove_voter(leader.voter)
        assert await reason_of(removing) is Reason.NOT_LEADER


@virtual_time
async def test_leadership_is_handed_to_nobody_who_is_not_connected(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        gone, other = cluster.others(leader)
        await gone.stop()
        await asyncio.sleep(0.2)
        refused = await reason_of(leader.replica.transfer_leadership(gone.voter))
        assert refused is Reason.PEER_UNREACHABLE
        for nobody in (leader.voter, VoterId("x.1")):
            refused = await reason_of(leader.replica.transfer_leadership(nobody))
            assert refused is Reason.MEMBER_NOT_FOUND
        assert leader.replica.successor() == other.voter
        await other.stop()
        await asyncio.sleep(0.2)
        with pytest.raises(ClusterError, match="no other master is connected"):
            leader.replica.successor()


@virtual_time
async def test_a_successor_has_most_of_the_log(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        one, other = sorted(cluster.others(leader), key=lambda host: host.voter)
        one.write_seconds = 0.5
        await leader.replica.propose(b"one")
        assert leader.replica.successor() == other.voter
        one.write_seconds, other.write_seconds = 0.001, 0.5
        await asyncio.sleep(2)
        await leader.replica.propose(b"two")
        assert leader.replica.successor() == one.voter


@virtual_time
async def test_a_handover_that_does_not_come_to_pass_is_told_as_unknown(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        target = cluster.others(leader)[0]
        target.write_seconds = 100.0
        asyncio.ensure_future(leader.replica.propose(b"one")).add_done_callback(
            lambda done: done.exception()
        )
        await asyncio.sleep(0.1)
        began = now()
        refused = await reason_of(leader.replica.transfer_leadership(target.voter))
        assert refused is Reason.UNKNOWN_OUTCOME
        assert now() - began == pytest.approx(2.4, abs=0.1)

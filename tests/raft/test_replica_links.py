"""A replica's links to other voters, under a simulated clock."""

import asyncio
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from tests.support.memory_replicas import (
    SELDOM,
    MakeCluster,
    MemoryCluster,
    MemoryHost,
    Stream,
    reason_of,
    until,
)
from tests.support.virtual_time import virtual_time


def link(cluster: MemoryCluster, own: MemoryHost, peer: str) -> Any:
    return cluster.links[own.voter, VoterId(peer)]


@virtual_time
async def test_there_are_links_to_voters_and_to_who_speaks_and_to_nobody_else(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        others = {host.voter for host in cluster.others(leader)}
        assert leader.replica._links.keys() == others
        stream = await Stream(leader, "x.1").opened()
        await asyncio.sleep(0.1)
        assert leader.replica._links.keys() == others | {"x.1"}
        [_, task] = leader.replica._links[VoterId("x.1")]
        await stream.close()
        await asyncio.sleep(0.1)
        assert leader.replica._links.keys() == others
        assert task.cancelled()


@virtual_time
async def test_a_peer_that_reaches_this_node_is_dialled_in_a_hurry(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        before = link(cluster, leader, follower.voter).hurried
        stream = await Stream(leader, follower.voter, boot=0).opened()
        assert link(cluster, leader, follower.voter).hurried == before + 1
        await stream.close()


@virtual_time
async def test_a_follower_that_is_connected_again_does_not_wait_for_the_beat(
    made: MakeCluster,
) -> None:
    async with made(**SELDOM) as cluster:
        leader = await cluster.leader()
        follower, _ = cluster.others(leader)
        cluster.cut(leader, follower)
        up = link(cluster, leader, follower.voter).up
        await until(lambda: not up.is_set())
        await leader.replica.propose(b"one")
        engine = leader.replica.engine
        await until(lambda: 0.1 < now() - engine._tick_at < 0.15)
        cluster.heal()
        await until(up.is_set, seconds=0.2)
        await asyncio.sleep(0.05)
        assert now() - engine._tick_at < 0  # It ticked: the next beat would come later.


@virtual_time
async def test_every_link_is_made_anew_with_a_new_certificate(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        leader.replica.redial()
        counts = [link(cluster, leader, h.voter).redialled for h in cluster.others(leader)]
        assert counts == [1, 1]


@virtual_time
async def test_a_voter_that_is_told_of_an_old_copy_says_nothing_more(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        follower.trace.clear()
        refused = ClusterError(Reason.LOG_ROLLED_BACK, "it is an old copy")
        link(cluster, follower, leader.voter)._on_refused(leader.voter, refused)
        assert follower.task is not None
        with pytest.raises(ClusterError, match="old copy") as raised:
            await follower.task
        assert raised.value.reason is Reason.HOME_DAMAGED
        assert [which for what, which in follower.trace if what == "send"] == []
        assert follower.replica.failed is raised.value
        assert await reason_of(follower.replica.propose(b"x")) is Reason.HOME_DAMAGED
        other = cluster.others(leader)[1]
        twice = ClusterError(Reason.MEMBER_RUNS_TWICE, "runs already")
        link(cluster, other, leader.voter)._on_refused(leader.voter, twice)
        await asyncio.sleep(0.5)
        assert other.runs


@virtual_time
async def test_a_voter_that_is_told_of_an_old_copy_does_not_wait_for_the_beat(
    made: MakeCluster,
) -> None:
    async with made(**SELDOM) as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        await until(lambda: 0.1 < now() - leader.replica.engine._tick_at < 0.2)
        refused = ClusterError(Reason.LOG_ROLLED_BACK, "it is an old copy")
        link(cluster, follower, leader.voter)._on_refused(leader.voter, refused)
        assert follower.task is not None
        async with asyncio.timeout(0.1):
            assert await reason_of(follower.task) is Reason.HOME_DAMAGED


@virtual_time
async def test_a_leader_that_is_told_of_an_old_copy_sends_no_entry_more(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        await asyncio.sleep(0.01)  # It waits.
        leader.trace.clear()
        waiting = asyncio.ensure_future(leader.replica.propose(b"one"))
        await asyncio.sleep(0)  # It is proposed, and the loop woken.
        refused = ClusterError(Reason.LOG_ROLLED_BACK, "it is an old copy")
        link(cluster, leader, follower.voter)._on_refused(follower.voter, refused)
        assert leader.task is not None
        assert await reason_of(leader.task) is Reason.HOME_DAMAGED
        assert [which for what, which in leader.trace if what == "send"] == []
        assert await reason_of(waiting) in (Reason.HOME_DAMAGED, Reason.NO_LEADER)


@virtual_time
async def test_only_a_refusal_that_an_operator_must_see_is_logged(
    made: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        caplog.clear()
        for reason in (Reason.SHUTTING_DOWN, Reason.MEMBER_RUNS_TWICE):
            error = ClusterError(reason, f"told {reason}")
            link(cluster, follower, leader.voter)._on_refused(leader.voter, error)
        [said] = [record for record in caplog.records if record.message == "refused by a voter"]
        assert said.__dict__["error"] == f"told {Reason.MEMBER_RUNS_TWICE}"
        assert said.__dict__["peer"] == leader.voter


@virtual_time
async def test_a_voter_that_is_told_of_an_old_copy_while_it_writes_acknowledges_nothing(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        follower.write_seconds = 0.4
        waiting = asyncio.ensure_future(leader.replica.propose(b"one"))
        await until(lambda: follower.trace[-1] == ("write", "begins"))
        refused = ClusterError(Reason.LOG_ROLLED_BACK, "it is an old copy")
        link(cluster, follower, leader.voter)._on_refused(leader.voter, refused)
        follower.trace.clear()
        assert follower.task is not None
        assert await reason_of(follower.task) is Reason.HOME_DAMAGED
        assert ("write", "ends") in follower.trace
        assert [which for what, which in follower.trace if what == "send"] == []
        await waiting  # By the third one.

"""A removed master answers no call by its outdated permissions, and ends once it is sure."""

import asyncio

import pytest

from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of, until


@pytest.mark.asyncio
async def test_a_removed_master_refuses_clients_and_says_why() -> None:
    async with cluster_of(3, 0) as cluster, cluster.client() as client:
        leader = await cluster.leader(client)
        removed, third = (node for node in cluster.nodes if node is not leader)
        await client.remove_node(removed.node_id)
        await cluster.kill(third)  # One master's word is not enough for it to end.
        answers: list[Reason] = []

        async def is_refused() -> bool:
            # One that was answered would learn of the other masters.
            async with cluster.client(removed, stale=True) as asking:
                try:
                    await asking.list_nodes()
                except ClusterError as error:
                    answers.append(error.reason)
            return Reason.NODE_REMOVED in answers

        await until(is_refused, seconds=30, what="the removed master refuses its clients")
        check = await check_of(cluster, removed, "leader")
        assert "was removed from this cluster for good" in check.detail
        assert "recover alone" not in check.detail
        assert removed.runs
        await cluster.start_node(third)
        assert removed.process is not None
        async with asyncio.timeout(30):
            assert await removed.process.wait() == Exit.REMOVED
        assert len(await client.list_nodes()) == 2

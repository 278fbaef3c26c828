"""The voters are the same after any restart, and only a majority of them serves."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from itertools import combinations
from pathlib import Path

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.clusters import cluster_of
from tests.support.nodes import health_of, until

SERVE_SECONDS_MAX = 10.0
REFUSED = (Reason.NO_LEADER, Reason.UNKNOWN_OUTCOME, Reason.DEADLINE_EXCEEDED)
"""Where a write was certainly not acknowledged."""


async def stop(nodes: Iterable[LocalNode]) -> None:
    for node in nodes:
        if node.process is not None and node.runs:
            node.process.terminate()
            await node.process.wait()


async def voters_seen_by(cluster: LocalCluster, node: LocalNode) -> tuple[set[str], set[str]]:
    """Who votes, by a node's health and by a stale list of the nodes."""
    health = await health_of(cluster, node)
    async with cluster.client(node, stale=True) as client:
        listed = {each.node_id for each in await client.list_nodes() if each.voter}
    return set(health.raft.voters), listed


async def refusal(operation: Client, *, write: bool) -> Reason | None:
    """Why a write, or a linearizable read, was refused; None if it was answered."""
    timeout = timedelta(seconds=2)
    try:
        if write:
            await operation.propose_config({"user.alone": "1"}, timeout=timeout)
        else:
            await operation.get_config(timeout=timeout)
    except ClusterError as error:
        return error.reason
    return None


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_any_masters_that_start_know_who_votes_and_serve_as_a_majority_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One alone knows of its log what its snapshot covers: the rest may not be committed.
    monkeypatch.setenv("IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES", "20")
    written: dict[str, str] = {}
    async with cluster_of(3, 0, root=tmp_path / "cluster") as cluster:
        expected = {node.node_id for node in cluster.nodes}
        async with cluster.client() as client:
            for count in range(60):
                await client.propose_config({"user.first": str(count)})
                written["user.first"] = str(count)
        subsets = [some for size in (1, 2, 3) for some in combinations(cluster.nodes, size)]
        assert len(subsets) == 7
        for number, started in enumerate(subsets):
            await stop(cluster.nodes)
            await asyncio.gather(*map(cluster.start_node, started))
            key, value = f"user.n{number}", str(number)
            if len(started) >= 2:
                async with cluster.client(*started) as client:
                    await client.propose_config({key: value})
                    written[key] = value
                    agreed = {entry.key: entry.value for entry in await client.get_config()}
                    assert written.items() <= agreed.items()
            else:
                # Longer than any election takes: it has had its chance.
                await asyncio.sleep(3)
                async with cluster.client(started[0]) as client:
                    assert await refusal(client, write=True) in REFUSED
                    assert await refusal(client, write=False) in REFUSED
            for node in started:

                async def knows(node: LocalNode = node) -> bool:
                    return await voters_seen_by(cluster, node) == (expected, expected)

                await until(knows, seconds=SERVE_SECONDS_MAX, what=f"{node.name} knows who votes")
        async with cluster.client() as client:
            assert await client.get_config("user.alone") == []


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_a_replaced_master_stays_replaced_whatever_is_killed_meanwhile(
    tmp_path: Path,
) -> None:
    async with cluster_of(3, 0, root=tmp_path / "cluster") as cluster:
        old = list(cluster.nodes)
        async with cluster.client(*old) as client:
            await client.propose_config({"user.first": "1"})
            # A fourth one joins; whoever leads is killed as soon as it is known to do so.
            fourth = cluster.make_node("master-4")
            await cluster.add_node(client, fourth)
            leader = await cluster.leader(client)
            await cluster.kill(leader)
            await cluster.start_node(leader)
            everyone = {node.node_id for node in cluster.nodes}
            assert fourth.node_id in everyone

            async def votes() -> bool:
                return {n.node_id for n in await client.list_nodes() if n.voter} == everyone

            await until(votes, seconds=20, what="the fourth master votes")

            # One of the first three goes, and the leader is killed once more.
            leader = await cluster.leader(client)
            gone = next(node for node in old[1:] if node is not leader)
            removing = asyncio.create_task(client.remove_node(gone.node_id))
            await asyncio.sleep(0.01)
            await cluster.kill(leader)
            await cluster.start_node(leader)
            await asyncio.gather(removing, return_exceptions=True)

            async def is_gone() -> bool:
                if gone.node_id not in {n.node_id for n in await client.list_nodes()}:
                    return True
                await client.remove_node(gone.node_id)  # It was refused, or never heard.
                return False

            await until(is_gone, seconds=20, what="one of the first masters is removed")
            await client.propose_config({"user.second": "2"})
        left = [node for node in cluster.nodes if node is not gone]
        expected = {node.node_id for node in left}
        for _ in range(2):
            await stop(cluster.nodes)
            await asyncio.gather(*map(cluster.start_node, left))
            async with cluster.client(*left) as client:
                agreed = {entry.key: entry.value for entry in await client.get_config()}
                assert agreed.items() >= {"user.first": "1", "user.second": "2"}.items()
            for node in left:

                async def knows(node: LocalNode = node) -> bool:
                    return await voters_seen_by(cluster, node) == (expected, expected)

                await until(knows, seconds=SERVE_SECONDS_MAX, what=f"{node.name} knows who votes")
        # The removed one comes back: nobody lets it vote, and the others serve on.
        await cluster.start_node(gone)
        await asyncio.sleep(3)
        async with cluster.client(*left) as client:
            await client.propose_config({"user.third": "3"})
            assert {n.node_id for n in await client.list_nodes()} == expected

"""Leadership transfers by command, under writes."""

import asyncio
import itertools
import json
import statistics
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.clusters import cluster_of
from tests.support.nodes import health_of, settings_of, until

WRITERS = 4
GAP_SECONDS_MAX = 0.3
"""In the median: half the silence after which anybody would campaign by itself."""


class Writers:
    """Write keys, each its own, until told to stop; know when each was acknowledged."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.acknowledged: dict[str, str] = {}
        self.moments: list[float] = []
        self.over = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._write(number))

    async def _write(self, number: int) -> None:
        async with self._cluster.client() as client:
            for count in itertools.count():
                if self.over.is_set():
                    return
                key, value = f"user.w{number}.{count % 50}", str(count)
                await client.propose_config({key: value}, timeout=timedelta(seconds=10))
                self.acknowledged[key] = value
                self.moments.append(time.monotonic())

    def gap_around(self, moment: float) -> float:
        """The longest time without an acknowledged write in the two seconds from `moment` on."""
        near = [m for m in self.moments if moment - 0.1 < m < moment + 2]
        return max(b - a for a, b in pairwise(near))


@pytest.mark.slow
@pytest.mark.asyncio
async def test_leadership_goes_back_and_forth_and_no_acknowledged_write_is_lost(
    cluster: LocalCluster, client: Client
) -> None:
    masters = [node for node in cluster.nodes if node.role == "master"]
    writers = Writers(cluster)
    working = asyncio.create_task(writers.run())
    gaps = []
    for turn in range(8):
        await asyncio.sleep(1)
        before = await cluster.leader(client)
        others = [node for node in masters if node is not before]
        began = time.monotonic()
        named = others[turn // 2 % 2].node_id if turn % 2 else ""
        leads = await client.transfer_leadership(named)
        assert leads != before.node_id
        assert named in ("", leads)
        assert (await cluster.leader(client)).node_id == leads
        if named:
            assert await client.transfer_leadership(named) == leads  # It is done already.
        await asyncio.sleep(2)
        gaps.append(writers.gap_around(began))
    writers.over.set()
    await working
    print(f"{len(writers.moments)} writes, gaps {[round(gap, 3) for gap in gaps]}")
    assert statistics.median(gaps) < GAP_SECONDS_MAX
    agreed = {entry.key: entry.value for entry in await client.get_config()}
    assert writers.acknowledged.items() <= agreed.items()
    for node in masters:
        async with asyncio.timeout(10):
            while await settings_of(cluster, node) != agreed:
                await asyncio.sleep(0.1)


@pytest.mark.asyncio
async def test_only_another_connected_master_can_take_over(tmp_path: Path) -> None:
    async with cluster_of(3, 1, root=tmp_path / "cluster") as cluster:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            away, other = (n for n in cluster.nodes if n.role == "master" and n is not leader)
            for node_id, reason in (
                (cluster.nodes[-1].node_id, Reason.MEMBER_NOT_FOUND),  # A worker.
                ("nobody", Reason.MEMBER_NOT_FOUND),
            ):
                with pytest.raises(ClusterError) as caught:
                    await client.transfer_leadership(node_id)
                assert caught.value.reason is reason
            await cluster.kill(away)
            await asyncio.sleep(0.5)
            with pytest.raises(ClusterError) as caught:
                await client.transfer_leadership(away.node_id)
            assert caught.value.reason is Reason.PEER_UNREACHABLE
            # The one that is there is chosen.
            assert await client.transfer_leadership() == other.node_id


@pytest.mark.asyncio
async def test_nobody_names_a_leader_that_is_gone(tmp_path: Path) -> None:
    """Once a follower continued to name it, and to send callers there, until it was restarted."""
    async with cluster_of(2, 1, root=tmp_path / "cluster") as cluster:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
        follower, worker = (node for node in cluster.nodes if node is not leader)
        assert (await health_of(cluster, follower)).raft.leader_node_id == leader.node_id
        await cluster.kill(leader)

        async def knows_none() -> bool:
            said = [await health_of(cluster, node) for node in (follower, worker)]
            checks = [check.ok for each in said for check in each.checks if check.name == "leader"]
            return said[0].raft.leader_node_id == "" and checks == [False, False]

        await until(knows_none, seconds=20, what="nobody is named as the leader")
        async with cluster.client(follower, stale=True) as client:
            with pytest.raises(ClusterError) as caught:
                await client.propose_config({"user.a": "1"}, timeout=timedelta(seconds=2))
            assert caught.value.reason is Reason.NO_LEADER
            assert not any(node.leader for node in await client.list_nodes())
        await cluster.start_node(leader)

        async def agree() -> bool:
            said = {(await health_of(cluster, n)).raft.leader_node_id for n in (leader, follower)}
            return len(said) == 1 and "" not in said

        await until(agree, seconds=20, what="both name the same leader")


def test_the_command_line_hands_over_and_a_leader_to_be_removed_is_told_how(
    cli: Any, cluster: LocalCluster
) -> None:
    def leader() -> str:
        return str(json.loads(cli("status", "--json").stdout)["leader_node_id"])

    before = leader()
    refused = cli("node", "remove", before, "--yes")
    assert refused.returncode == 1
    assert "ipfs-cluster-node cluster transfer-leadership" in refused.stderr
    done = cli("cluster", "transfer-leadership", "--json")
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)["leader_node_id"]
    assert after != before
    assert leader() == after
    back = cli("cluster", "transfer-leadership", before)
    assert back.returncode == 0, back.stderr
    assert back.stdout.endswith(f" ({before}) leads\n")
    worker = next(node for node in cluster.nodes if node.role == "worker")
    unknown = cli("cluster", "transfer-leadership", worker.node_id, "--json")
    assert unknown.returncode == 5
    assert json.loads(unknown.stderr)["error"]["reason"] == "MEMBER_NOT_FOUND"
    assert "Traceback" not in unknown.stderr

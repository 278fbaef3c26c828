"""ReplaceLog at a real leader: repeats, old disks, and who may ask."""

import asyncio
import shutil
from pathlib import Path

import grpc
import pytest

from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import stored_voter
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.internal.v1 import masters_pb2
from ipfs_cluster_node.internal.v1.masters_pb2_grpc import MasterServiceStub
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of, health_of, until


def tls_of(node: LocalNode) -> ClientTls:
    home = node.home
    return ClientTls(home.ca.read_bytes(), home.certificate.read_bytes(), home.tls_key.read_bytes())


async def replace_log(
    leader: LocalNode, tls: ClientTls, request_id: str, incarnation: int | None
) -> int | Reason:
    """Ask the leader as who the certificate says; the new incarnation, or why not."""
    channel = open_channel(leader.address, tls=tls, node_id=NodeId(leader.node_id))
    request = masters_pb2.ReplaceLogRequest(request_id=request_id, incarnation=incarnation)
    try:
        answer = await MasterServiceStub(channel).ReplaceLog(request, timeout=10)
        return answer.incarnation
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error).reason
    finally:
        await channel.close()


async def voters(cluster: LocalCluster) -> set[str]:
    async with cluster.client() as client:
        return {node.node_id for node in await client.list_nodes() if node.voter}


def incarnation_of(node: LocalNode) -> int:
    voter = stored_voter(DirectoryDisk(node.home.raft))
    assert voter is not None
    return int(voter.rpartition(".")[2])


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.asyncio
async def test_a_log_is_replaced_once_for_each_damage(tmp_path: Path) -> None:
    async with cluster_of(3, 0, root=tmp_path / "cluster") as cluster:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            node, other = (n for n in cluster.nodes if n is not leader)
            own = tls_of(node)
            old = incarnation_of(node)
            profile = cluster.profile
            operator = ClientTls(
                profile.ca.read_bytes(), profile.certificate.read_bytes(), profile.key.read_bytes()
            )
            assert await replace_log(leader, operator, "o", None) is Reason.CALLER_NOT_ALLOWED
            assert await replace_log(leader, own, "x", 99) is Reason.CALLER_NOT_ALLOWED
            assert await replace_log(leader, own, "x", -1) is Reason.INVALID_ARGUMENT

            # The others would have no majority: it votes on.
            await cluster.kill(other)
            await asyncio.sleep(2)
            assert await replace_log(leader, own, "r", old) is Reason.QUORUM_AT_RISK
            assert await voters(cluster) == {n.node_id for n in cluster.nodes}
            await cluster.start_node(other)
            await client.propose_config({"user.a": "1"})

            async def hears() -> bool:
                return (await health_of(cluster, other)).raft.leader_node_id != ""

            # Otherwise the leader, which loses the third, has no majority for a while, and may follow.
            await until(hears, seconds=15, what="the second is back")
            assert await cluster.leader(client) is not node

            await cluster.kill(node)
            shutil.copytree(node.home.raft, tmp_path / "old")

            async def may_go() -> bool:
                nonlocal leader
                leader = await cluster.leader(client)
                answer = await replace_log(leader, own, "first", old)
                return isinstance(answer, int)

            await until(may_go, seconds=15, what="the log is replaced")
            first = await replace_log(leader, own, "first", old)
            assert isinstance(first, int)
            assert first > 3
            assert await voters(cluster) == {n.node_id for n in cluster.nodes if n is not node}
            # A new request, since the note was lost, gets a newer name: a log may have been begun.
            second = await replace_log(leader, own, "second", old)
            assert isinstance(second, int)
            assert second > first
            unknown = await replace_log(leader, own, "unknown", None)
            assert isinstance(unknown, int)
            assert unknown > second

            # The node itself: its disk is damaged.
            (node.home.raft / "snapshot").write_bytes(b"damaged")
            await cluster.start_node(node)

            async def votes() -> bool:
                return (
                    node.node_id in await voters(cluster)
                    and (await check_of(cluster, node, "log")).ok
                )

            await until(votes, seconds=20, what="it votes again")
            last = incarnation_of(node)
            assert last > unknown
            # A late repeat does it no harm, and its old disk may not ask any more.
            assert await replace_log(leader, own, "first", old) == first
            assert await replace_log(leader, own, "third", old) is Reason.CALLER_NOT_ALLOWED
            assert await votes()

            # The old disk comes back: it is refused, and says so.
            await cluster.kill(node)
            shutil.rmtree(node.home.raft)
            shutil.copytree(tmp_path / "old", node.home.raft)
            await cluster.start_node(node)

            async def is_refused() -> bool:
                lease = await check_of(cluster, node, "lease")
                return not lease.ok and "older incarnation" in lease.detail

            await until(is_refused, seconds=15, what="the old disk is refused")
            await client.propose_config({"user.a": "2"})


@pytest.mark.asyncio
async def test_a_worker_has_no_log_to_replace(tmp_path: Path) -> None:
    async with cluster_of(1, 1, root=tmp_path / "cluster") as cluster:
        master, worker = cluster.nodes
        answer = await replace_log(master, tls_of(worker), "r", None)
        assert answer is Reason.CALLER_NOT_ALLOWED
        async with cluster.client() as client:
            with pytest.raises(ClusterError) as caught:
                await client.transfer_leadership()
            assert caught.value.reason is Reason.PEER_UNREACHABLE

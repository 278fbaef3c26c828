"""Direct calls of one node in a cluster of processes."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.views import HealthCheck, HealthReport
from ipfs_cluster_node.v1 import membership_pb2
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub


async def health_of(cluster: LocalCluster, node: LocalNode) -> HealthReport:
    async with cluster.client() as client:
        return await client.get_health(node.address, node.node_id)


def check_in(health: HealthReport, name: str) -> HealthCheck:
    return next(check for check in health.checks if check.name == name)


async def check_of(cluster: LocalCluster, node: LocalNode, name: str) -> HealthCheck:
    return check_in(await health_of(cluster, node), name)


async def settings_of(cluster: LocalCluster, node: LocalNode) -> dict[str, str]:
    """The settings as this node has applied them."""
    async with cluster.client(node, stale=True) as client:
        return {entry.key: entry.value for entry in await client.get_config()}


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, what: str) -> None:
    """Poll; an error counts as no."""
    last: BaseException | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if await condition():
                        return
                    last = None
                except Exception as error:
                    last = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from last


async def refusal(node: LocalNode, tls: ClientTls, *, node_id: str | None = None) -> str:
    """Call a node; returns the status and its message, `OK` if it was answered."""
    channel = open_channel(
        f"127.0.0.1:{node.port}", tls=tls, node_id=NodeId(node_id or node.node_id)
    )
    try:
        await MembershipServiceStub(channel).GetClusterStatus(
            membership_pb2.GetClusterStatusRequest(), timeout=5
        )
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    finally:
        await channel.close()
    return "OK"

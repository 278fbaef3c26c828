"""What one node of a cluster of processes says, asked directly."""

import asyncio
from collections.abc import Awaitable, Callable

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.core.views import HealthCheck, HealthReport


async def health_of(cluster: LocalCluster, node: LocalNode) -> HealthReport:
    async with cluster.client() as client:
        return await client.get_health(node.address, node.node_id)


async def log_check(cluster: LocalCluster, node: LocalNode) -> HealthCheck:
    health = await health_of(cluster, node)
    return next(check for check in health.checks if check.name == "log")


async def settings_of(cluster: LocalCluster, node: LocalNode) -> dict[str, str]:
    """The settings as this node has applied them."""
    async with cluster.client(node, stale=True) as client:
        return {entry.key: entry.value for entry in await client.get_config()}


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float, what: str) -> None:
    """Ask again and again; an error counts as no."""
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

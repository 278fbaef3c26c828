"""A run of a fault: the cluster, chance, time, and what came of it."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.core.views import HealthCheck
from scripts.lib.fault.lab import Lab
from scripts.lib.fault.workload import History


@dataclass
class Scene:
    """A run: the cluster, chance, and when something was broken."""

    lab: Lab
    rng: random.Random
    history: History
    ends_at: float
    faults: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What a node did that it must not do."""
    missed: list[str] = field(default_factory=list)
    """Faults that were meant, and did not happen: nothing was tested by them."""
    start_seconds_max: float = 0.0
    """How long it took at most until nodes that were started together all listened."""
    hands: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a process ends or starts: a node that leaves is not started again."""

    @property
    def goes_on(self) -> bool:
        """Whether there is time for another fault."""
        return time.monotonic() < self.ends_at

    def note_fault(self) -> None:
        """Something is broken now."""
        self.faults.append(time.monotonic())

    def check_happened(self, count: int, what: str) -> None:
        """Note a fault that came to nothing.

        Args:
            count: How often it was seen to happen: calls that failed, packets that were lost.
            what: The fault, in words.
        """
        if count == 0:
            self.missed.append(f"fault {len(self.faults)} did not happen: {what}")

    async def leader(self) -> LocalNode | None:
        """The node that leads, if one answers."""
        async with self.lab.client() as client:
            try:
                async with asyncio.timeout(5):
                    return await self.lab.leader(client)
            except Exception:
                return None

    async def victim(self) -> LocalNode:
        """The leader in half the cases, else any node."""
        leader = await self.leader()
        if leader is not None and self.rng.random() < 0.5:
            return leader
        return self.rng.choice(self.lab.nodes)

    async def start(self, nodes: list[LocalNode]) -> None:
        """Start nodes that together are a majority, or may be."""
        began = time.monotonic()
        await asyncio.gather(*(self.lab.start_node(node) for node in nodes))
        self.start_seconds_max = max(self.start_seconds_max, time.monotonic() - began)

    async def remove(self, node: LocalNode) -> None:
        """Remove a master; if it leads, another one leads first."""
        async with self.hands:
            if await self.leader() is node:
                async with self.lab.client() as client:
                    await client.transfer_leadership()
            await self.lab.remove_master(node)

    def seconds_of_case(self, count: int, seconds_min: float) -> float:
        """How long each of so many cases takes that share the rest of the time."""
        return max(seconds_min, (self.ends_at - time.monotonic()) / count)

    async def leader_for_sure(self) -> LocalNode:
        """The node that leads, once one answers."""
        while True:
            node = await self.leader()
            if node is not None:
                return node
            await asyncio.sleep(0.2)

    async def leader_or_follower(self, *, leads: bool) -> LocalNode:
        """The node that leads, or one that does not."""
        leader = await self.leader_for_sure()
        return leader if leads else self.rng.choice([n for n in self.lab.nodes if n is not leader])

    async def check(self, node: LocalNode, name: str) -> HealthCheck:
        """What a node says of its `log`, its `leader` and so on.

        Raises:
            ClusterError: It does not answer.
        """
        async with self.lab.client() as client:
            health = await client.get_health(node.address, node.node_id)
        return next(check for check in health.checks if check.name == name)

    async def restart(self, node: LocalNode) -> None:
        """Kill a node, if it runs, and start it."""
        if node.runs:
            await self.lab.kill(node)
        await self.lab.start_node(node)

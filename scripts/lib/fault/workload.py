"""Clients that write, read and compare, and what they saw."""

import asyncio
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from math import inf
from typing import Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from scripts.lib.fault.linearizable import Call

CLIENTS: Final = 16
KEYS: Final = 40
PAUSE_SECONDS: Final = 0.01
"""For about so long a client rests between calls."""
CALL_TIMEOUT: Final = timedelta(seconds=8)
BEGIN_SECONDS: Final = 1.5
"""A gap that begins so soon after a fault comes of it."""
SURE_SECONDS: Final = 0.05
"""A compare that failed within so long was surely sent once."""


@dataclass
class History:
    """Every call, and when writes were acknowledged."""

    calls: list[Call] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)
    refused: int = 0

    def longest_gap(self, since: float, until: float) -> tuple[float, float]:
        """The longest time without an acknowledged write, and when it began."""
        moments = [since, *(t for t in sorted(self.acknowledged_at) if since < t < until), until]
        return max((b - a, a) for a, b in pairwise(moments))

    def gap_after(self, moment: float) -> float:
        """The longest time without an acknowledged write that began soon after a fault."""
        later = sorted(t for t in self.acknowledged_at if t > moment)
        gaps = [b - a for a, b in pairwise([moment, *later]) if a < moment + BEGIN_SECONDS]
        return max(gaps, default=inf)

    def latency(self, since: float, until: float) -> float:
        """The 99th percentile of the seconds that writes took which ended between; inf if none."""
        writes = [c for c in self.calls if c.kind == "write" and since < c.end < until]
        took = sorted(call.end - call.start for call in writes)
        return took[len(took) * 99 // 100] if took else inf


class Workload:
    """Clients at work on one cluster."""

    def __init__(self, cluster: LocalCluster, rng: random.Random, *, stale: bool = False) -> None:
        """Work on `cluster`; with `stale` reads take what one node has, which must be seen."""
        self._cluster = cluster
        self._rng = rng
        self._stale = stale
        self._count = 0
        self.history = History()
        self._seen: dict[str, str | None] = {}

    async def run(self, until: asyncio.Event) -> None:
        """Work until told to stop."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client(until))

    async def _client(self, until: asyncio.Event) -> None:
        node = self._rng.choice(self._cluster.nodes)
        async with (
            self._cluster.client() as client,
            self._cluster.client(node, stale=True) as stale,
        ):
            while not until.is_set():
                key = f"user.k{self._rng.randrange(KEYS)}"
                kind = self._rng.choices(("read", "write", "cas"), (4, 4, 2))[0]
                reads_stale = self._stale and kind == "read"
                await getattr(self, f"_{kind}")(stale if reads_stale else client, key)
                await asyncio.sleep(PAUSE_SECONDS * self._rng.uniform(0.5, 1.5))

    async def _read(self, client: Client, key: str) -> None:
        start = time.monotonic()
        try:
            entries = await client.get_config(key, timeout=CALL_TIMEOUT)
        except ClusterError:
            self.history.refused += 1
            return  # It saw nothing.
        value = entries[0].value if entries else None
        self._seen[key] = value
        self.history.calls.append(Call(key, "read", value, start, time.monotonic()))

    async def _write(self, client: Client, key: str) -> None:
        value = self._new_value()
        start = time.monotonic()
        end = await self._end_of(client.propose_config({key: value}, timeout=CALL_TIMEOUT))
        self.history.calls.append(Call(key, "write", value, start, end))

    async def _cas(self, client: Client, key: str) -> None:
        value, expected = self._new_value(), self._seen.get(key)
        start = time.monotonic()
        try:
            end = await self._end_of(
                client.propose_config(
                    {key: value}, if_values={key: expected or ""}, timeout=CALL_TIMEOUT
                )
            )
            done = True
        except ClusterError:
            done, end = False, time.monotonic()
            if end - start > SURE_SECONDS:
                end = inf  # An attempt before the last may have done it.
        self.history.calls.append(Call(key, "cas", value, start, end, expected=expected, done=done))

    async def _end_of(self, write: Awaitable[object]) -> float:
        try:
            await write
        except ClusterError as error:
            if error.reason is Reason.CONFIG_CHANGED:
                raise
            self.history.refused += 1
            return inf
        now = time.monotonic()
        self.history.acknowledged_at.append(now)
        return now

    def _new_value(self) -> str:
        self._count += 1
        return str(self._count)

    async def read_everything(self) -> None:
        """The last reads: every key, once all is well again."""
        async with self._cluster.client() as client:
            for number in range(KEYS):
                await self._read(client, f"user.k{number}")

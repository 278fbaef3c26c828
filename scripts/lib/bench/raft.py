"""Durable small writes on 3 masters, beside a 3-node etcd, both over mutual TLS on this machine.

One asyncio process loads both in the same way: raw gRPC calls over as many channels to the leader,
with requests that are bytes already. Ours are `ProposeConfig`, theirs `Put` and, for a batch, a
transaction of puts; each is on the disks of a majority before it is answered. Runs are interleaved;
the figures are medians.
"""

import asyncio
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.net.tls import open_channel
from scripts.lib.bench.common import etcd_version, line, note, options
from scripts.lib.bench.stores import Store
from scripts.lib.bench.stores.etcd import Etcd
from scripts.lib.bench.stores.ours import Ours

CLIENTS: Final = 256
BATCH_CLIENTS: Final = 16
BATCH: Final = 100
CHANNELS: Final = 8
ROUNDS: Final = 5
SECONDS: Final = 3.0
SEQUENTIAL: Final = 200
CALL_SECONDS_MAX: Final = 30.0

Write = Callable[[int], Awaitable[Any]]
"""Writes the value of this number, and returns once it is acknowledged."""


class Load:
    """The same load on any store."""

    def __init__(self, store: Store, leader: int) -> None:
        """Open the channels to the leader."""
        self._store = store
        self._channels = [
            open_channel(
                store.addresses[leader],
                tls=store.tls,
                node_id=store.hosts[leader],
                own_connection=True,
            )
            for _ in range(CHANNELS)
        ]
        self._puts = self._calls(store.put_method)
        self._batches = self._calls(store.batch_method)

    def _calls(self, method: str) -> list[Any]:
        return [channel.unary_unary(method) for channel in self._channels]

    def put(self, number: int) -> Awaitable[bytes]:
        """Write one key."""
        call = self._puts[number % CHANNELS]
        answer: Awaitable[bytes] = call(self._store.put(number), timeout=CALL_SECONDS_MAX)
        return answer

    def put_batch(self, number: int) -> Awaitable[bytes]:
        """Write 100 keys."""
        call = self._batches[number % CHANNELS]
        request = self._store.batch(number, BATCH)
        answer: Awaitable[bytes] = call(request, timeout=CALL_SECONDS_MAX)
        return answer

    async def measure(self, *, seconds: float, sequential: int) -> dict[str, float]:
        """One run of each kind."""
        for write in (self.put, self.put_batch):
            self._store.check(await write(1))
        return {
            "raft-unary": await rate(self.put, CLIENTS, seconds),
            "raft-batch": BATCH * await rate(self.put_batch, BATCH_CLIENTS, seconds),
            "raft-sequential": await median_ms(self.put, sequential),
        }

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()


async def rate(write: Write, clients: int, seconds: float) -> float:
    """Acknowledged calls a second of so many closed-loop clients."""
    numbers = itertools.count()
    ends = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await write(next(numbers))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - began)


async def median_ms(write: Write, count: int) -> float:
    """The median milliseconds of one write after the other."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        await write(number)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


async def run(given: Any) -> None:
    """Measure both, in turns."""
    rounds, seconds, sequential = (2, 1.0, 20) if given.quick else (ROUNDS, SECONDS, SEQUENTIAL)
    root = Path(tempfile.mkdtemp(prefix="bench-raft-"))
    stores: list[Store] = [Ours(), Etcd()]
    figures: dict[tuple[str, str], list[float]] = {}
    try:
        for store in stores:
            await store.start(root / store.name)
        for number in range(rounds):
            note(f"round {number + 1} of {rounds}")
            for store in stores:
                load = Load(store, await store.leader())
                found = await load.measure(seconds=seconds, sequential=sequential)
                await load.close()
                for bench, figure in found.items():
                    figures.setdefault((bench, store.name), []).append(figure)
    finally:
        for store in stores:
            await store.stop()
        shutil.rmtree(root, ignore_errors=True)
    peer = etcd_version()
    for bench in ("raft-unary", "raft-batch", "raft-sequential"):
        mine = statistics.median(figures[bench, "ours"])
        theirs = statistics.median(figures[bench, "theirs"])
        latency = bench == "raft-sequential"
        better, unit = (theirs / mine, "ms") if latency else (mine / theirs, "writes/s")
        line(given, bench=bench, peer=peer, ours=mine, theirs=theirs, unit=unit, ratio=better)


if __name__ == "__main__":
    asyncio.run(run(options(__doc__ or "")))

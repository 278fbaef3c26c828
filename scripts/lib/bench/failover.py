"""How long writes stop when the leader's process is killed, beside a 3-node etcd.

Both with their own times of election as installed: ours 0.6 to 1.2 s, theirs 1 to 2 s. Leaders are
killed in turns; from the SIGKILL on, a client begins a write to each of the other members every
20 ms, whatever became of those before, until one of all is acknowledged. The figures are medians.
"""

import asyncio
import shutil
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc

from ipfs_cluster_node.adapters.net.tls import open_channel
from scripts.lib.bench.common import etcd_version, line, note, options
from scripts.lib.bench.stores import MEMBERS, Store
from scripts.lib.bench.stores.etcd import Etcd
from scripts.lib.bench.stores.ours import Ours

KILLS: Final = 20
REST_SECONDS: Final = 2.0
"""After a member is back, for it to catch up."""
CALL_SECONDS_MAX: Final = 10.0
WRITE_INTERVAL_SECONDS: Final = 0.02


async def gap_after_kill(store: Store) -> float:
    """Kill the leader; returns the seconds until a write is acknowledged again."""
    leader = await store.leader()
    others = [member for member in range(MEMBERS) if member != leader]
    channels = [
        open_channel(
            store.addresses[member],
            tls=store.tls,
            node_id=store.hosts[member],
            own_connection=True,
        )
        for member in others
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    await store.kill(leader)
    began = time.perf_counter()
    acknowledged = asyncio.Event()
    writing = []
    while not acknowledged.is_set():
        writing += [asyncio.create_task(_write(store, each, acknowledged)) for each in channels]
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_INTERVAL_SECONDS):
                await acknowledged.wait()
    gap = time.perf_counter() - began
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    for channel in channels:
        await channel.close()
    await store.restart(leader)
    return gap


async def _write(store: Store, channel: grpc.aio.Channel, acknowledged: asyncio.Event) -> None:
    write: Any = channel.unary_unary(store.put_method)
    with suppress(grpc.aio.AioRpcError):
        store.check(await write(store.put(0), timeout=CALL_SECONDS_MAX))
        acknowledged.set()


async def run(given: Any) -> None:
    """Kill leaders of both, in turns."""
    kills = KILLS // 10 if given.quick else KILLS
    root = Path(tempfile.mkdtemp(prefix="bench-failover-"))
    stores: list[Store] = [Ours(), Etcd()]
    gaps: dict[str, list[float]] = {store.name: [] for store in stores}
    try:
        for store in stores:
            await store.start(root / store.name)
        for number in range(kills):
            note(f"kill {number + 1} of {kills}")
            for store in stores:
                gaps[store.name].append(1000 * await gap_after_kill(store))
                await asyncio.sleep(REST_SECONDS)
    finally:
        for store in stores:
            await store.stop()
        shutil.rmtree(root, ignore_errors=True)
    mine, theirs = (statistics.median(gaps[store.name]) for store in stores)
    line(
        given,
        bench="failover",
        peer=etcd_version(),
        ours=mine,
        theirs=theirs,
        unit="ms",
        ratio=theirs / mine,
        ours_longest=max(gaps["ours"]),
        theirs_longest=max(gaps["theirs"]),
        kills=kills,
    )


if __name__ == "__main__":
    asyncio.run(run(options(__doc__ or "")))

"""Reading a large state: 1,000,000 rows of `content`, whole and by a watch, from the leader.

Three masters, as processes with mutual TLS. The files are put into their snapshots; then one key is
written over and over. `state-…-gap` is the longest time that the leader's loop stood still
meanwhile, by its own heartbeat (`loop_gap_seconds`); a leader that changed is a failure, and so are
fewer rows. Seconds and rows a second are the reader's, in this process on the same machine.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.state_events import Bookmark, Rows
from scripts.lib.bench.common import line, note, options
from tests.support.large_cluster import start_large

FILES: Final = 500_000
HOLDERS: Final = 2
TASKS: Final = 1_000
GAP_SECONDS_MAX: Final = 0.05
CALM_SECONDS: Final = 0.02
"""The gauge remembers a minute: it is waited for until it has forgotten the start."""
CALM_WAIT_SECONDS_MAX: Final = 120.0
WRITE_SECONDS: Final = 0.02
AT_ONCE: Final = 4


async def gap_of(client: Client, node: LocalNode) -> float:
    """The longest time that a node's loop stood still in the last minute."""
    return (await client.get_health(node.address, node.node_id)).loop_gap_seconds


async def calm(client: Client, node: LocalNode) -> float:
    """Wait until a node's loop has not stood still for a minute; returns its longest gap."""
    ends = time.monotonic() + CALM_WAIT_SECONDS_MAX
    while (gap := await gap_of(client, node)) > CALM_SECONDS and time.monotonic() < ends:
        await asyncio.sleep(1)
    return gap


async def whole(client: Client, _leader: Client) -> int:
    """Fetch the table; returns its rows."""
    return int((await client.get_snapshot("content")).num_rows)


async def watched(_client: Client, leader: Client) -> int:
    """Watch the table up to its first bookmark, at the leader; returns its rows."""
    count = 0
    async for event in leader.watch_state("content"):
        if isinstance(event, Rows):
            count += event.rows.num_rows
        elif isinstance(event, Bookmark):
            break
    return count


async def watched_by_several(client: Client, leader: Client) -> int:
    """The same by several at once; returns the rows of the one that had fewest."""
    return min(await asyncio.gather(*(watched(client, leader) for _ in range(AT_ONCE))))


async def write(client: Client) -> None:
    """Write one key over and over."""
    count = 0
    while True:
        with suppress(ClusterError):
            await client.propose_config({"user.bench": str(count)})
        count += 1
        await asyncio.sleep(WRITE_SECONDS)


async def run(given: Any) -> int:
    """Measure; returns 1 where a limit is passed."""
    root = Path(tempfile.mkdtemp(prefix="bench-state-"))
    cluster = LocalCluster(root)
    passed = True
    try:
        await start_large(cluster, files=FILES, tasks=TASKS)
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            async with cluster.client(leader) as at_leader:
                cases: dict[str, Callable[[Client, Client], Awaitable[int]]] = {
                    "state-snapshot": whole,
                    "state-watch": watched,
                }
                if not given.quick:
                    cases[f"state-watch-{AT_ONCE}-at-once"] = watched_by_several
                for name, read in cases.items():
                    writing = asyncio.create_task(write(client))
                    before = await calm(client, leader)
                    note(f"the leader's loop stood still for {before * 1000:.0f} ms before {name}")
                    term = (await client.get_cluster_status()).term
                    began = time.perf_counter()
                    rows = await read(client, at_leader)
                    seconds = time.perf_counter() - began
                    gap = await gap_of(client, leader)
                    status = await client.get_cluster_status()
                    kept = status.term == term and status.leader_node_id == leader.node_id
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
                    good = rows >= FILES * HOLDERS and kept and gap <= GAP_SECONDS_MAX
                    passed = passed and good
                    line(
                        given,
                        bench=f"{name}-gap",
                        ours=gap,
                        unit="s",
                        limit=GAP_SECONDS_MAX,
                        leader_kept=kept,
                        rows=rows,
                        seconds=seconds,
                        gap_before=before,
                    )
    finally:
        await cluster.stop()
        shutil.rmtree(root, ignore_errors=True)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(asyncio.run(run(options(__doc__ or ""))))

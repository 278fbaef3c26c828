"""What a node weighs: idle memory and processor time, start to ready, start of the command line."""

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from ipfs_cluster_node.cli.local_cluster import LocalCluster, command
from scripts.lib.bench.common import line, note, options

IDLE_SECONDS: Final = 20.0
STARTS: Final = 9


async def nodes(idle_seconds: float) -> dict[str, tuple[float, str]]:
    """Figures of a cluster of 3 masters and 2 workers that has nothing to do."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    cluster = LocalCluster(root)
    try:
        await cluster.start(masters=3, workers=2)
        await asyncio.sleep(3)
        figures: dict[str, tuple[float, str]] = {}
        watched = {}
        async with cluster.client() as client:
            leader = await cluster.leader(client)
        kinds = {
            "leader": leader,
            "follower": next(n for n in cluster.nodes if n.role == "master" and n is not leader),
            "worker": cluster.nodes[-1],
        }
        for kind, node in kinds.items():
            assert node.process is not None
            watched[kind] = psutil.Process(node.process.pid)
            watched[kind].cpu_percent()
        await asyncio.sleep(idle_seconds)
        for kind, process in watched.items():
            figures[f"idle-cpu-{kind}"] = (process.cpu_percent(), "% of a core")
            figures[f"idle-rss-{kind}"] = (process.memory_info().rss / 2**20, "MiB")
        worker = watched["worker"]
        handlers = [child.memory_info().rss / 2**20 for child in worker.children()]
        figures["idle-rss-handler"] = (statistics.mean(handlers), "MiB a process")
        starts = []
        for _ in range(3):
            await cluster.kill(kinds["worker"])
            began = time.perf_counter()
            await cluster.start_node(kinds["worker"])
            starts.append(time.perf_counter() - began)
        figures["start-to-ready"] = (1000 * statistics.median(starts), "ms")
    finally:
        await cluster.stop()
        shutil.rmtree(root, ignore_errors=True)
    return figures


def command_start(*arguments: str) -> float:
    """Median milliseconds of a run of the command line."""
    times = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run(command(*arguments), check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def main() -> None:
    given = options(__doc__ or "")
    note("a cluster at rest")
    figures = asyncio.run(nodes(IDLE_SECONDS / (4 if given.quick else 1)))
    figures["cli-help"] = (command_start("--help"), "ms")
    figures["cli-version"] = (command_start("version"), "ms")
    for bench, (ours, unit) in figures.items():
        line(given, bench=bench, ours=ours, unit=unit, peer=None, theirs=None, ratio=None)


if __name__ == "__main__":
    main()

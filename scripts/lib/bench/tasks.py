"""No-op tasks through the public client on 3 masters and 2 workers, beside Dask's LocalCluster.

Both give their tasks to 2 worker processes with 2 threads or slots each, on the same machine in the
same run. Ours are committed to the logs of three masters before they are acknowledged, and again
when they end; Dask keeps its tasks in the memory of one scheduler.
"""

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.tasks import task_spec
from scripts.lib.bench.common import line, note, options

TASKS: Final = 20_000
SEQUENTIAL: Final = 200
WAIT: Final = timedelta(minutes=10)


async def ours(tasks: int, sequential: int) -> tuple[float, float]:
    """Tasks a second, and the median milliseconds of one after the other."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    cluster = LocalCluster(root)
    try:
        await cluster.start(masters=3, workers=2)
        async with cluster.client() as client:
            warm = await client.submit_tasks([task_spec("echo")] * 100)
            await client.wait_tasks(warm, timeout=WAIT)
            began = time.perf_counter()
            ids = await client.submit_tasks([task_spec("echo")] * tasks)
            ended = await client.wait_tasks(ids, timeout=WAIT)
            rate = tasks / (time.perf_counter() - began)
            assert all(task.status.result is not None for task in ended.values())
            times = []
            for _ in range(sequential):
                began = time.perf_counter()
                task_id = await client.submit_task("echo")
                await client.wait_tasks([task_id], timeout=WAIT)
                times.append(time.perf_counter() - began)
    finally:
        await cluster.stop()
        shutil.rmtree(root, ignore_errors=True)
    return rate, 1000 * statistics.median(times)


def _nothing(number: int) -> int:
    return number


def dask(tasks: int, sequential: int) -> tuple[float, float]:
    """The same of Dask."""
    from distributed import Client
    from distributed import LocalCluster as DaskCluster

    with (
        DaskCluster(  # type: ignore[no-untyped-call, unused-ignore]
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call, unused-ignore]
    ):
        client.gather(client.map(_nothing, range(-100, 0)))
        began = time.perf_counter()
        futures = client.map(_nothing, range(tasks))
        assert client.gather(futures) == list(range(tasks))
        rate = tasks / (time.perf_counter() - began)
        times = []
        for number in range(sequential):
            began = time.perf_counter()
            client.submit(_nothing, number + 10 * tasks).result()
            times.append(time.perf_counter() - began)
    return rate, 1000 * statistics.median(times)


def main() -> None:
    given = options(__doc__ or "")
    tasks = TASKS // 10 if given.quick else TASKS
    sequential = SEQUENTIAL // 10 if given.quick else SEQUENTIAL
    note(f"{tasks} tasks on Dask")
    dask_rate, dask_ms = dask(tasks, sequential)
    note(f"{tasks} tasks on ours")
    our_rate, our_ms = asyncio.run(ours(tasks, sequential))
    common: dict[str, Any] = {"peer": f"dask {sys.modules['distributed'].__version__}"}
    line(
        given,
        bench="tasks-throughput",
        ours=our_rate,
        theirs=dask_rate,
        unit="tasks/s",
        ratio=our_rate / dask_rate,
        **common,
    )
    line(
        given,
        bench="tasks-sequential",
        ours=our_ms,
        theirs=dask_ms,
        unit="ms",
        ratio=dask_ms / our_ms,
        **common,
    )


if __name__ == "__main__":
    main()

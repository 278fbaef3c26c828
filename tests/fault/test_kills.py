"""One long run on one cluster under steady work, with nodes killed in every phase of it.

`KILLS=60 scripts/test tests/fault/test_kills.py` is the whole of it;
`KILL_SEED` chooses another one.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from pathlib import Path

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.verified import verified
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.model import TaskState

KILLS = int(os.environ.get("KILLS", "12"))
SEED = int(os.environ.get("KILL_SEED", "1"))
LONG = timedelta(seconds=240)
PHASES = ("content add", "submit", "assign", "run", "result upload", "commit")
SLOW_SQL = "SELECT sum(a * b) FROM input, range(200000) t(b)"
LARGE_SQL = "SELECT a, repeat(md5(a::VARCHAR), 8) AS x FROM input, range(20)"


class Work:
    """Steady work, and what was acknowledged of it."""

    def __init__(self, client: Client, directory: Path, rng: random.Random) -> None:
        self.client = client
        self.directory = directory
        self.rng = rng
        self.tasks: list[str] = []
        self.contents: dict[str, bytes] = {}
        self.refused: Counter[str] = Counter()
        self.input_cid = ""

    async def begin(self) -> None:
        path = self.directory / "input.csv"
        path.write_text("a\n" + "\n".join(map(str, range(2000))))
        self.input_cid = (await self.client.add_content(path, timeout=LONG)).cid
        self.contents[self.input_cid] = path.read_bytes()

    async def add_content(self) -> None:
        data = self.rng.randbytes(self.rng.choice((10, 300_000, 3_000_000)))
        path = self.directory / f"{len(self.contents)}.bin"
        path.write_bytes(data)
        added = await self.client.add_content(path, timeout=LONG)
        self.contents[added.cid] = data

    async def submit(self, sql: str | None) -> str:
        if sql is None:
            task_id = await self.client.submit_task("echo", b"x", timeout=LONG)
        else:
            task_id = await self.client.submit_task(
                "data_processing", {"sql": sql}, inputs=[("input", self.input_cid)], timeout=LONG
            )
        self.tasks.append(task_id)
        return task_id

    async def background(self) -> None:
        while True:
            try:
                await self.submit(None)
            except ClusterError as error:  # Not acknowledged, so it may be missing.
                self.refused[error.reason] += 1
            await asyncio.sleep(0.05)


async def reach(work: Work, phase: str) -> Awaitable[object]:
    """Bring the cluster into a phase; returns what is still under way."""
    rng = work.rng
    if phase == "content add":
        under_way: asyncio.Task[object] = asyncio.ensure_future(work.add_content())
        await asyncio.sleep(rng.uniform(0, 0.06))
        return under_way
    if phase in ("submit", "assign"):
        under_way = asyncio.ensure_future(work.submit(None))
        if phase == "assign":
            await asyncio.wait((under_way,))
        await asyncio.sleep(rng.uniform(0, 0.012))
        return under_way
    task_id = await work.submit(SLOW_SQL if phase == "run" else LARGE_SQL)
    async for seen in work.client.watch_tasks([task_id], timeout=LONG):
        if seen.status.state in (TaskState.RUNNING, TaskState.SUCCEEDED):
            break
    spread = {"run": (0, 0.1), "result upload": (0.05, 0.2), "commit": (0.15, 0.35)}
    await asyncio.sleep(rng.uniform(*spread[phase]))
    return asyncio.ensure_future(asyncio.sleep(0))


async def kill_and_start(cluster: LocalCluster, node: LocalNode, rng: random.Random) -> None:
    await cluster.kill(node)
    await asyncio.sleep(rng.uniform(0, 1.0))
    await cluster.start_node(node)


async def check(work: Work) -> None:
    ended = await work.client.wait_tasks(work.tasks, timeout=LONG)
    bad = {
        t: task.status.failure or task.status.state
        for t, task in ended.items()
        if task.status.result is None
    }
    assert not bad, f"acknowledged tasks without a result: {bad}"
    listed = Counter(
        task.task_id
        for task in await work.client.list_tasks(limit=100_000)
        if task.status.state is TaskState.SUCCEEDED
    )
    assert set(work.tasks) <= set(listed)
    assert set(listed.values()) == {1}
    for cid, data in work.contents.items():
        read = b"".join([piece async for piece in verified(cid, work.client.get_content(cid))])
        assert read == data
    for task in ended.values():
        assert task.status.result is not None
        if task.status.result.cid:
            async for _ in verified(
                task.status.result.cid, work.client.get_content(task.status.result.cid)
            ):
                pass


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.asyncio
async def test_kills_in_every_phase_lose_nothing_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    cluster = LocalCluster(tmp_path / "cluster")
    try:
        await cluster.start(masters=3, workers=2)
        async with cluster.client() as client:
            work = Work(client, tmp_path, rng)
            await work.begin()
            background = asyncio.create_task(work.background())
            plan = [(phase, node) for node in cluster.nodes for phase in PHASES]
            rng.shuffle(plan)
            for phase, node in (plan * (1 + KILLS // len(plan)))[:KILLS]:
                under_way = await reach(work, phase)
                await kill_and_start(cluster, node, rng)
                try:
                    await under_way
                except ClusterError as error:  # Not acknowledged, so it may be missing.
                    work.refused[f"{phase}: {error}"] += 1
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
            await check(work)
            print(f"{len(work.tasks)} tasks, {len(work.contents)} files, {dict(work.refused)}")
    finally:
        await cluster.stop()

"""A cluster of three masters with a large state: restart, installs and snapshots under writes.

The nodes are processes with mutual TLS. The state is put into the first master's snapshot file:
tasks up to their default limits with results, answers to requests, and files for the rest.
`snapshot-restart` is from the start of its process to an answered read, with its peak memory. Then
two masters join, each of which has the snapshot installed; then the masters make snapshots of
their own. All the while clients write to the leader: `…-write-gap` is the longest time without an
acknowledged write, and `…-call` the longest call of a node's health, both to be below
`election_timeout_min`. A leader that changed is a failure.
"""

import asyncio
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.snapshot import SNAPSHOT_NAME, Position, store_snapshot
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.snapshot import encode_snapshot
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId, TaskId, did_from_node_id
from ipfs_cluster_node.core.model import Content, Task, TaskResult, TaskSpec, TaskState
from ipfs_cluster_node.core.requests import RequestRecord
from ipfs_cluster_node.core.state_data import StateData
from scripts.lib.bench.common import line, note, options

TASKS: Final = 200_000
"""`task_count_max` as it is by default."""
RESULT_BYTES: Final = 1342
"""So that all of them come to `task_bytes_max` as it is by default."""
REQUESTS: Final = 100_000
"""`request_count_max` as it is by default."""
CONTENTS: Final = 1_150_000
AHEAD: Final = 1000
"""How far the planted snapshot is ahead of the log, so that nobody gets the entries instead."""
SNAPSHOT_ENTRIES: Final = 3000
WRITERS: Final = 4
SNAPSHOT_SECONDS: Final = 60.0
"""For how long the masters write and make snapshots."""
JOIN_SECONDS_MAX: Final = 180.0
PROBE_SECONDS: Final = 0.02
RESTART_SECONDS_MAX: Final = 20.0
GAP_SECONDS_MAX: Final = RaftConfig().election_timeout_min.total_seconds()
SINCE_MS: Final = round(1000 * time.time())
"""When the tasks were: what is old would be forgotten at once."""


def fill(data: StateData, node_id: NodeId, share: float) -> StateData:
    """Add tasks, answers and files: a share of the full number."""
    rng = random.Random(1)  # noqa: S311
    did = did_from_node_id(node_id)
    ids = [TaskId(_digest("task", n)[:20]) for n in range(int(TASKS * share))]
    tasks = tuple(
        Task(
            task_id=task_id,
            sequence=number + 1,
            spec=TaskSpec(task_type="echo"),
            submitter=did,
            state=TaskState.SUCCEEDED,
            attempt=1,
            node_id=node_id,
            submitted_at_ms=SINCE_MS + number,
            assigned_at_ms=SINCE_MS + number,
            finished_at_ms=SINCE_MS + number,
            result=TaskResult(data=rng.randbytes(RESULT_BYTES)),
        )
        for number, task_id in enumerate(ids)
    )
    requests = tuple(
        RequestRecord(did, f"r{number:020d}", SINCE_MS + number, rng.randbytes(32), (ids[number],))
        for number in range(int(REQUESTS * share))
    )
    contents = tuple(
        Content(
            cid=f"bafybei{_digest('file', number)[:52]}",
            size_bytes=number,
            holders=(node_id,),
            name=f"file-{number}.csv",
            added_at_ms=SINCE_MS + number,
        )
        for number in range(int(CONTENTS * share))
    )
    return replace(data, tasks=tasks, requests=requests, contents=contents)


def _digest(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


async def plant(node: LocalNode, share: float) -> int:
    """Put a large state into a stopped master's snapshot; returns the file's size."""
    machine = ReplicatedStateMachine()
    replica = Replica(
        directory=node.home.raft, machine=machine, dial=lambda _node: None, config=RaftConfig()
    )
    running = asyncio.create_task(replica.run())
    while not replica.is_leader:
        await asyncio.sleep(0.01)
    state = fill(machine.state.data(), NodeId(node.node_id), share)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    index = replica.applied_index + AHEAD
    position = Position(index=index, term=replica.term, voters=replica.voters)
    disk = DirectoryDisk(node.home.raft)
    store_snapshot(disk, position, encode_snapshot(state))
    disk.close()
    return (node.home.raft / SNAPSHOT_NAME).stat().st_size


class Watch:
    """Writes and calls while something happens, and the longest time that they stood still."""

    def __init__(self, client: Client, nodes: list[LocalNode]) -> None:
        """Write to the leader, and ask each of these nodes for its health."""
        self._client, self._nodes = client, nodes
        self.writes = 0
        self.write_gap = 0.0
        self.call_gaps = dict.fromkeys((node.name for node in nodes), 0.0)
        self._acknowledged_at = time.perf_counter()

    async def during(self, work: Awaitable[None]) -> None:
        """Watch until the work is done."""
        tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
        tasks += [asyncio.create_task(self._call(node)) for node in self._nodes]
        try:
            await work
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._acknowledged()

    def _acknowledged(self) -> None:
        moment = time.perf_counter()
        self.write_gap = max(self.write_gap, moment - self._acknowledged_at)
        self._acknowledged_at = moment

    async def _write(self, number: int) -> None:
        while True:
            with suppress(ClusterError):
                await self._client.propose_config({f"user.w{number}": str(self.writes)})
                self.writes += 1
                self._acknowledged()

    async def _call(self, node: LocalNode) -> None:
        while True:
            began = time.perf_counter()
            with suppress(ClusterError):
                await self._client.get_health(node.address, node.node_id)
            took = time.perf_counter() - began
            self.call_gaps[node.name] = max(self.call_gaps[node.name], took)
            await asyncio.sleep(PROBE_SECONDS)


async def restart(cluster: LocalCluster, node: LocalNode) -> tuple[float, float]:
    """Start a node; returns the seconds until it answers a read, and its peak memory in MiB."""
    began = time.perf_counter()
    await cluster.start_node(node)
    async with cluster.client() as client:
        while True:
            with suppress(ClusterError):
                await client.get_config("task_retention")
                break
    seconds = time.perf_counter() - began
    return seconds, peak_mib(node)


def peak_mib(node: LocalNode) -> float:
    """The most memory that a node's process has had."""
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    [kib] = (row.split()[1] for row in status.splitlines() if row.startswith("VmHWM:"))
    return int(kib) / 1024


def resident_mib(node: LocalNode) -> float:
    """The memory that a node's process has now."""
    assert node.process is not None
    return float(psutil.Process(node.process.pid).memory_info().rss / 2**20)


async def join(cluster: LocalCluster, client: Client, name: str) -> LocalNode:
    """Have one more master join; returns once it votes."""
    node = cluster.make_node(name)
    await cluster.add_node(client, node)
    async with asyncio.timeout(JOIN_SECONDS_MAX):
        while True:
            with suppress(ClusterError):
                if any(n.node_id == node.node_id and n.voter for n in await client.list_nodes()):
                    return node
            await asyncio.sleep(0.2)


def snapshots_of(nodes: list[LocalNode]) -> list[int]:
    """When each node wrote its snapshot last."""
    return [(node.home.raft / SNAPSHOT_NAME).stat().st_mtime_ns for node in nodes]


async def run(given: Any) -> int:
    """Measure; returns 1 where a limit is passed."""
    share = 0.1 if given.quick else 1.0
    os.environ["IPFS_CLUSTER_NODE_RAFT_SNAPSHOT_ENTRIES"] = str(SNAPSHOT_ENTRIES)
    root = Path(tempfile.mkdtemp(prefix="bench-snapshot-"))
    cluster = LocalCluster(root)
    passed = True

    def told(bench: str, ours: float, unit: str, limit: float, **more: Any) -> None:
        nonlocal passed
        passed = passed and ours <= limit
        line(given, bench=bench, ours=ours, unit=unit, limit=limit, **more)

    try:
        await cluster.start(masters=1, workers=0)
        [first] = cluster.nodes
        await cluster.stop()
        size = await plant(first, share)
        note(f"starts with a snapshot of {size / 1e6:.0f} MB")
        seconds, peak = await restart(cluster, first)
        told(
            "snapshot-restart",
            seconds,
            "s",
            RESTART_SECONDS_MAX,
            megabytes=size / 1e6,
            peak_mib=peak,
            resident_mib=resident_mib(first),
            peak_of_snapshot=peak * 2**20 / size,
        )
        async with cluster.client() as client:
            term = (await client.get_cluster_status()).term

            async def watched(name: str, work: Callable[[], Awaitable[None]]) -> None:
                watch = Watch(client, list(cluster.nodes))
                began = time.perf_counter()
                await watch.during(work())
                took = time.perf_counter() - began
                status = await client.get_cluster_status()
                kept = status.term == term and status.leader_node_id == first.node_id
                calls = {f"call_{n}": gap for n, gap in watch.call_gaps.items()}
                told(
                    f"{name}-write-gap",
                    watch.write_gap,
                    "s",
                    GAP_SECONDS_MAX if kept else 0.0,
                    seconds=took,
                    writes=watch.writes,
                    leader_kept=kept,
                    **calls,
                )

            async def second_and_third() -> None:
                for name in ("master-2", "master-3"):
                    began = time.perf_counter()
                    await join(cluster, client, name)
                    note(f"{name} votes after {time.perf_counter() - began:.1f} s")

            async def writes_only() -> None:
                await asyncio.sleep(SNAPSHOT_SECONDS * (0.3 if given.quick else 1))

            await watched("install", second_and_third)
            before = snapshots_of(cluster.nodes)
            await watched("snapshots", writes_only)
            made = sum(a != b for a, b in zip(before, snapshots_of(cluster.nodes), strict=True))
            for node in cluster.nodes:
                note(f"{node.name}: {resident_mib(node):.0f} MiB, {peak_mib(node):.0f} at most")
            note(f"{made} of {len(before)} masters made snapshots")
    finally:
        await cluster.stop()
        if os.environ.get("KEEP"):
            print(root, file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(asyncio.run(run(options(__doc__ or ""))))

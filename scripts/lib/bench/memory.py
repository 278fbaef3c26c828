"""What a master keeps: its memory over a million tasks, and its start with a large snapshot.

One voter with the real log, state machine and compaction, on the real disk; its commands are those
that a cluster commits for a task: submitted, assigned, ended, and in time forgotten. No gRPC: the
figures are the log's and the state's. `memory-slope` is how much the resident memory grows over the
second half, fitted, in percent of it. `snapshot-restart` is from the file to a state that serves;
`snapshot-pause` is the longest time for which the loop stands still while one is made.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import create_store
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.snapshot import SNAPSHOT_NAME
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.core.commands import (
    AssignTasks,
    BootstrapCluster,
    Command,
    CommandBody,
    ExpireRecords,
    FinishAttempts,
    ProposeConfig,
    RegisterNode,
    SubmitTasks,
)
from ipfs_cluster_node.core.effects import Accepted
from ipfs_cluster_node.core.ids import TaskId, voter_id
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Principal,
    Role,
    TaskResult,
    TaskSpec,
)
from ipfs_cluster_node.node.machine import ClusterMachine
from ipfs_cluster_node.node.memory import keep_memory_flat
from scripts.lib.bench.common import line, note, options

TASKS: Final = 1_000_000
RETAINED: Final = 20_000
BATCH: Final = 100
SAMPLE_TASKS: Final = 5_000
SNAPSHOT_ENTRIES: Final = 500
SLOPE_PERCENT_MAX: Final = 1.0
LARGE_SNAPSHOT_BYTES: Final = 500 * 10**6
LARGE_PAYLOAD_BYTES: Final = 1_000
RESTART_SECONDS_MAX: Final = 20.0
TASK_MS: Final = 10
"""Between two tasks, by the clock in the commands."""
PULSE_SECONDS: Final = 0.005


class Master:
    """One voter, and what it is told."""

    def __init__(self, directory: Path) -> None:
        """Make its store, or open it."""
        self.directory = directory
        self.identity = Identity.create()
        self.voter = voter_id(self.identity.node_id, 1)
        self.now_ms = 1_000_000

    def create(self) -> None:
        """Make a cluster of one."""
        master = Principal(
            did=self.identity.did,
            name="m",
            role=Role.MASTER,
            incarnation=1,
            enrolled_at_ms=1,
            liveness_at_ms=1,
        )
        first = BootstrapCluster(cluster_id="c", cluster_name="c", principals=(master,))
        disk = DirectoryDisk(self.directory)
        create_store(disk, self.voter, [self.voter], first=self.encoded(first))

    def open(self) -> None:
        """Read what is there."""
        self.machine = ClusterMachine()
        self.replica = Replica(
            directory=self.directory,
            machine=self.machine,
            dial=lambda _node: None,
            config=RaftConfig(snapshot_entries=SNAPSHOT_ENTRIES, trailing_entries=100),
        )

    async def serve(self, work: Callable[[], Awaitable[None]]) -> None:
        """Lead, and do some work."""
        running = asyncio.create_task(self.replica.run())
        try:
            while not self.replica.is_leader:
                await asyncio.sleep(0.01)
            await work()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def encoded(self, body: CommandBody, request_id: str = "") -> bytes:
        """A command as of now."""
        return encode_command(
            Command(at_ms=self.now_ms, body=body, caller=self.identity.did, request_id=request_id)
        )

    async def do(self, body: CommandBody, request_id: str = "") -> None:
        """Commit a command that must be accepted."""
        outcome = await self.replica.propose(self.encoded(body, request_id))
        assert isinstance(outcome, Accepted), outcome

    async def prepare(self) -> None:
        """Have a worker, and keep ended tasks and answers for as long as it takes."""
        retention_ms = RETAINED * TASK_MS
        await self.do(
            RegisterNode(
                node_id=self.identity.node_id,
                endpoints=(),
                task_types=("echo",),
                slot_count=1000,
                version="1",
            )
        )
        seconds = f"{retention_ms // 1000}s"
        await self.do(
            ProposeConfig(values={"task_retention": seconds, "request_retention": seconds})
        )

    async def run_tasks(self, first: int, payload: bytes, *, end: bool = True) -> None:
        """Submit a batch, and bring it to its end."""
        ids = tuple(TaskId(f"t{number:026d}") for number in range(first, first + BATCH))
        spec = TaskSpec(task_type="echo", payload=payload)
        self.now_ms += BATCH * TASK_MS
        submit = SubmitTasks(task_ids=ids, specs=(spec,) * BATCH, fingerprint=b"f" * 32)
        await self.do(submit, f"r{first}")
        if not end:
            return
        node_id = self.identity.node_id
        await self.do(AssignTasks(assignments=tuple((task_id, node_id) for task_id in ids)))
        outcomes = tuple(
            AttemptOutcome(id=AttemptId(task_id, 1), result=TaskResult(data=b"done"))
            for task_id in ids
        )
        await self.do(FinishAttempts(node_id=node_id, outcomes=outcomes))


async def slope_percent(root: Path, tasks: int) -> tuple[float, float]:
    """Growth of the resident memory over the second half, and where it ends, in MiB."""
    master = Master(root / "slope")
    master.create()
    master.open()
    process = psutil.Process()
    samples: list[tuple[int, float]] = []

    async def work() -> None:
        await master.prepare()
        for first in range(0, tasks, BATCH):
            await master.run_tasks(first, b"x" * 20)
            if first % SAMPLE_TASKS == 0:
                await master.do(ExpireRecords())
                samples.append((first, process.memory_info().rss / 2**20))
            if first % (tasks // 10) == 0:
                held = len(master.machine.state.tasks)
                note(f"{first} tasks, {held} held, {samples[-1][1]:.0f} MiB")

    await master.serve(work)
    half = [(x, y) for x, y in samples if x >= tasks // 2]
    mean_x = sum(x for x, _ in half) / len(half)
    mean_y = sum(y for _, y in half) / len(half)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in half) / sum(
        (x - mean_x) ** 2 for x, _ in half
    )
    return 100 * slope * (tasks / 2) / mean_y, half[-1][1]


async def large_snapshot(root: Path, size_bytes: int) -> dict[str, float]:
    """Fill a state to so many bytes, have it written, and start with it."""
    master = Master(root / "large")
    master.create()
    master.open()
    pauses = [0.0]

    async def pulse() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(PULSE_SECONDS)
            pauses.append(time.perf_counter() - began - PULSE_SECONDS)

    async def work() -> None:
        await master.prepare()
        limits = {"task_count_max": "2000000", "task_bytes_max": "8589934592"}
        await master.do(ProposeConfig(values=limits))
        payload = b"x" * LARGE_PAYLOAD_BYTES
        per_task = LARGE_PAYLOAD_BYTES + 130  # In the snapshot.
        for first in range(0, size_bytes // per_task + BATCH, BATCH):
            await master.run_tasks(first, payload, end=False)
        note("filled; waits for a snapshot of it")
        written = (master.directory / SNAPSHOT_NAME).stat().st_mtime_ns
        pulsing = asyncio.create_task(pulse())
        for number in range(2 * SNAPSHOT_ENTRIES):
            await master.do(ProposeConfig(values={"user.n": str(number)}))
            path = master.directory / SNAPSHOT_NAME
            if path.stat().st_mtime_ns != written and path.stat().st_size > size_bytes * 0.8:
                break
        pulsing.cancel()

    await master.serve(work)
    size = (master.directory / SNAPSHOT_NAME).stat().st_size
    del master.machine, master.replica
    note(f"starts with a snapshot of {size / 1e6:.0f} MB")
    began = time.perf_counter()
    master.open()
    served: list[float] = []

    async def first() -> None:
        served.append(time.perf_counter() - began)

    await master.serve(first)
    peak = psutil.Process().memory_info().rss / 2**20
    return {"size": size / 1e6, "restart": served[0], "pause": 1000 * max(pauses), "rss": peak}


async def run(given: Any) -> int:
    """Measure; returns 1 where a limit is passed."""
    tasks, size = (100_000, 5 * 10**7) if given.quick else (TASKS, LARGE_SNAPSHOT_BYTES)
    root = Path(tempfile.mkdtemp(prefix="bench-memory-"))
    try:
        slope, rss = await slope_percent(root, tasks)
        line(given, bench="memory-slope", ours=slope, unit="%", tasks=tasks, rss_mib=rss)
        large = await large_snapshot(root, size)
        line(given, bench="snapshot-restart", ours=large["restart"], unit="s", **large)
        line(given, bench="snapshot-pause", ours=large["pause"], unit="ms", megabytes=large["size"])
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return int(slope > SLOPE_PERCENT_MAX or large["restart"] > RESTART_SECONDS_MAX)


if __name__ == "__main__":
    keep_memory_flat()
    sys.exit(uvloop.run(run(options(__doc__ or ""))))

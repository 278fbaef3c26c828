"""What a master keeps: its memory over a million tasks.

One voter with the real log, state machine and compaction, on the real disk; its commands are those
that a cluster commits for a task: submitted, assigned, ended, and in time forgotten. No gRPC: the
figures are the log's and the state's. `memory-slope` is how much the resident memory grows over the
second half, fitted, in percent of it. Large states are in `snapshot`.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.core.commands import (
    AssignTasks,
    BootstrapCluster,
    CommandBody,
    ExpireRecords,
    FinishAttempts,
    LogCommand,
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
from ipfs_cluster_node.node.memory import keep_memory_flat
from scripts.lib.bench.common import line, note, options

TASKS: Final = 1_000_000
RETAINED: Final = 20_000
BATCH: Final = 100
SAMPLE_TASKS: Final = 5_000
SNAPSHOT_ENTRIES: Final = 500
SLOPE_PERCENT_MAX: Final = 1.0
TASK_MS: Final = 10
"""Between two tasks, by the clock in the commands."""


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
        first = BootstrapCluster(
            cluster_id="c", cluster_name="c", cluster_did=master.did, principals=(master,)
        )
        disk = DirectoryDisk(self.directory)
        create_store(disk, self.voter, [self.voter], first=self.encoded(first))

    def open(self) -> None:
        """Read what is there."""
        self.machine = ReplicatedStateMachine()
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
            LogCommand(
                at_ms=self.now_ms, body=body, caller=self.identity.did, request_id=request_id
            )
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

    async def run_tasks(self, first: int) -> None:
        """Submit a batch, and bring it to its end."""
        ids = tuple(TaskId(f"t{number:026d}") for number in range(first, first + BATCH))
        spec = TaskSpec(task_type="echo", payload=b"x" * 20)
        self.now_ms += BATCH * TASK_MS
        submit = SubmitTasks(task_ids=ids, specs=(spec,) * BATCH, fingerprint=b"f" * 32)
        await self.do(submit, f"r{first}")
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
            await master.run_tasks(first)
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


async def run(given: Any) -> int:
    """Measure; returns 1 where the limit is passed."""
    tasks = 100_000 if given.quick else TASKS
    root = Path(tempfile.mkdtemp(prefix="bench-memory-"))
    try:
        slope, rss = await slope_percent(root, tasks)
        line(given, bench="memory-slope", ours=slope, unit="%", tasks=tasks, rss_mib=rss)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return int(slope > SLOPE_PERCENT_MAX)


if __name__ == "__main__":
    keep_memory_flat()
    sys.exit(uvloop.run(run(options(__doc__ or ""))))

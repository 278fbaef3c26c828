"""A worker in a session with a leader of the test's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from ipfs_cluster_node.core.model import AttemptId
from ipfs_cluster_node.node.worker import Worker
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import FakeRunner, FakeUplink, MemoryConnection, ScriptedLeader
from tests.support.virtual_time import loop_clock


@asynccontextmanager
async def working(
    slots: int = 2,
    *,
    leader: ScriptedLeader | None = None,
    runner: FakeRunner | None = None,
    has_room: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Any]:
    """A worker in a session with a leader of the test's."""
    leader, runner = leader or ScriptedLeader(), runner or FakeRunner()
    uplink = FakeUplink(MemoryConnection(leader.open))
    worker = Worker(
        uplink=uplink,  # type: ignore[arg-type]
        runner=runner,  # type: ignore[arg-type]
        slots=slots,
        has_room=has_room,
        clock=loop_clock(),
    )
    running = asyncio.create_task(worker.run())
    try:
        yield SimpleNamespace(
            leader=leader, runner=runner, uplink=uplink, worker=worker, running=running
        )
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def failure_of(leader: ScriptedLeader, at: AttemptId) -> pb.AttemptFailure:
    return leader.outcomes[at][-1].failure

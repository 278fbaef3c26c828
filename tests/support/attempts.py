"""An attempt and the pool that it runs in."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ipfs_cluster_node.adapters.worker.pool import Attempt
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, TaskResult
from ipfs_cluster_node.core.multiformats import RAW, cid_of
from ipfs_cluster_node.node.attempts import AttemptRunner
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from tests.support.virtual_time import loop_clock

CID = cid_of(RAW, b"input")
WHICH = AttemptId(TaskId("t"), 1)


def succeeded(*, data: bytes = b"", content_type: str = "", cid: str = "") -> AttemptOutcome:
    result = TaskResult(data=data, content_type=content_type, cid=cid, size_bytes=len(data))
    return AttemptOutcome(id=WHICH, result=result)


class Pool:
    """Lends what answers as it is told."""

    def __init__(self, answer: Any = None, scratch: Path = Path("/nonexistent")) -> None:
        self.answer = answer
        self.scratch = scratch
        self.asked: list[Attempt] = []

    @asynccontextmanager
    async def lease(self, task_type: str) -> AsyncIterator[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer

        async def run(attempt: Attempt) -> Any:
            assert attempt.task_type == task_type
            self.asked.append(attempt)
            return self.answer

        if not self.scratch.is_dir():
            yield SimpleNamespace(run=run, directory=-1, scratch=self.scratch)
            return
        directory = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
        yield SimpleNamespace(run=run, directory=directory, scratch=self.scratch)
        os.close(directory)


def runner_of(pool: Pool, connection: Any = None, *, has_room: bool = True) -> AttemptRunner:
    return AttemptRunner(
        uplink=SimpleNamespace(connection=connection),  # type: ignore[arg-type]
        pool=pool,  # type: ignore[arg-type]
        contents=SimpleNamespace(store=None),  # type: ignore[arg-type]
        channel_to=lambda node_id: node_id if node_id != "gone" else None,  # type: ignore[arg-type, return-value]
        has_room=lambda: has_room,
        clock=loop_clock(),
    )


def spec_of(*inputs: str) -> pb.TaskSpec:
    spec = pb.TaskSpec(task_type="x")
    spec.attempt_timeout.FromSeconds(5)
    for name in inputs:
        spec.inputs.add(name=name, cid=str(CID))
    return spec

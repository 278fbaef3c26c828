"""Simulated handler processes, for tests of the pool that lends them."""

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from ipfs_cluster_node.adapters.worker import pool as pool_module
from ipfs_cluster_node.adapters.worker.answers import Identity, ResultSaid
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
)
from ipfs_cluster_node.adapters.worker.processes import Ended, Loaded
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.adapters.worker.trees import Usage
from ipfs_cluster_node.core.ids import TaskId

GOOD = ResultSaid(b"data", "text/plain", None, True)
UNCLEAN = ResultSaid(b"data", "text/plain", None, False)
MEMORY = 2**20


class FakeOutput:
    def __init__(self) -> None:
        self.who: list[tuple[str, int]] = []

    def begin(self, task_id: str, attempt: int) -> None:
        self.who.append((task_id, attempt))

    def finish(self) -> str:
        return "tail"


class FakeRunner:
    def __init__(self) -> None:
        self.says: list[Any] = []
        self.asked: list[tuple[Identity, dict[str, Any], bytes]] = []
        self.has_unread = False
        self.stopped_for = ""
        self.stopped = asyncio.Event()
        self.closed = False
        self.output = FakeOutput()

    async def ask(self, identity: Identity, header: dict[str, Any], payload: bytes) -> None:
        self.asked.append((identity, header, payload))

    async def hear(self, asked: Identity) -> Any:
        assert self.asked[-1][0] == asked
        if not self.says:
            await self.stopped.wait()
            raise EOFError
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    @property
    def waits(self) -> bool:
        return not self.has_unread

    def stop(self, why: str) -> None:
        self.stopped_for = why
        self.stopped.set()

    def close(self) -> None:
        self.closed = True


class FakeProcess:
    made: list["FakeProcess"]
    faults: list[Exception | None]
    place: Path

    def __init__(self, *, confined: bool) -> None:
        self.confined = confined
        self.missing: tuple[str, ...] = ()
        self.loaded = Loaded(frozenset({"echo", "sleep"}), frozenset({"echo"}), ())
        self.used = Usage(0, 1, 1)
        self.proportional_bytes = 0
        self.ended: Ended | Exception = Ended(0, clean=True)
        self.fault_of_clear: Exception | None = None
        self.fault_of_fork: Exception | None = None
        self.log: list[str] = []
        self.runners: list[FakeRunner] = []
        self.scratch = self.place
        self.is_alone = True
        self.at_end: Callable[[], object] = lambda: None
        self.at_look: Callable[[], object] = lambda: None
        """Called in the watcher's thread."""
        self.look_count = 0
        self.gates: dict[str, asyncio.Event] = {}
        """What `end`, `clear` and `kill` wait for."""
        self.fork()

    @classmethod
    async def start(cls, _plan: Any, *, confined: bool) -> "FakeProcess":
        if cls.faults and (fault := cls.faults.pop(0)):
            raise fault
        cls.made.append(cls(confined=confined))
        return cls.made[-1]

    def fork(self) -> None:
        if self.fault_of_fork:
            raise self.fault_of_fork
        self.runner = FakeRunner()
        self.runners.append(self.runner)
        self.kept_type, self.served = "", 0
        self.log.append("fork")

    async def _enter(self, what: str) -> None:
        self.log.append(what)
        if what in self.gates:
            await self.gates[what].wait()

    async def end(self) -> Ended:
        await self._enter("end")
        self.at_end()
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended

    async def clear(self) -> None:
        await self._enter("clear")
        if self.fault_of_clear:
            raise self.fault_of_clear

    async def kill(self) -> None:
        await self._enter("kill")

    def usage(self, *, processes_max: int, threads_max: int) -> Usage:
        assert (processes_max, threads_max) == (
            pool_module.PROCESS_COUNT_MAX,
            pool_module.THREAD_COUNT_MAX,
        )
        used = self.used
        self.at_look()
        self.look_count += 1
        return used

    def open_scratch(self) -> int:
        return os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)


def attempt_of(task_type: str = "echo", *, seconds: float = 5) -> Attempt:
    """An attempt of that type."""
    return Attempt(
        task_id=TaskId("t"),
        attempt=3,
        task_type=task_type,
        payload=b"payload",
        content_type="text/x",
        timeout=timedelta(seconds=seconds),
        inputs={},
    )


def pool_maker(tmp_path: Path) -> Callable[..., HandlerPool]:
    """Makes pools; their `HandlerProcess` is to be replaced by `FakeProcess`."""
    FakeProcess.made, FakeProcess.faults, FakeProcess.place = [], [], tmp_path

    def made(slots: int = 1, **options: Any) -> HandlerPool:
        return HandlerPool(
            sources=Sources(),
            slots=slots,
            memory_bytes_max=MEMORY,
            scratch=tmp_path / "pool" / "scratch",
            **options,
        )

    return made


async def run(
    pool: HandlerPool, task_type: str = "echo", *, seconds: float = 5
) -> AttemptSucceeded | AttemptFailed:
    async with pool.lease(task_type) as lease:
        return await lease.run(attempt_of(task_type, seconds=seconds))


async def run_with(
    pool: HandlerPool, *says: Any, task_type: str = "echo", seconds: float = 5
) -> Any:
    """Run an attempt at the one process of a pool, which says so."""
    [process] = pool._idle
    process.runner.says += says  # type: ignore[attr-defined]
    return await run(pool, task_type, seconds=seconds)


async def one(make: Any, **options: Any) -> tuple[Any, FakeProcess]:
    pool = make(**options)
    await pool.start()
    [process] = FakeProcess.made
    process.log.clear()
    return pool, process


async def soon(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)

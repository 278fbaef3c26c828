"""A node's home and its pool of hostile handlers."""

import asyncio
import secrets
from collections.abc import Awaitable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
)
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.core.ids import TaskId

SECRET = "PRIVATE KEY OF THE NODE"
MARK = str(secrets.randbelow(10**12))
"""Of this run: others may try the same on this machine at the same time."""


class World:
    """A node's home, and its pool."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path / "parent" / "home"
        self.home.mkdir(parents=True)
        self.key = self.home / "identity.key"
        self.key.write_text(SECRET)
        self.news: list[Any] = []
        self.pool = HandlerPool(
            sources=Sources(
                modules=("tests.worker.hostile_answers", "tests.worker.hostile_handlers")
            ),
            slots=2,
            memory_bytes_max=2**26,
            scratch=self.home / "state" / "scratch",
            hidden=[self.home],
            also_kept=["reused"],
            on_progress=lambda *said: self.news.append(said),
        )
        self.count = 0

    async def run(
        self, task_type: str, payload: str = "", seconds: float = 20
    ) -> AttemptSucceeded | AttemptFailed:
        self.count += 1
        attempt = Attempt(
            task_id=TaskId(f"t{self.count}"),
            attempt=1,
            task_type=task_type,
            payload=payload.encode(),
            content_type="",
            timeout=timedelta(seconds=seconds),
            inputs={},
        )
        async with self.pool.lease(task_type) as lease:
            done = await lease.run(attempt)
            if isinstance(done, AttemptSucceeded) and done.file is not None:
                assert SECRET.encode() not in done.file.read()
            return done

    async def fails(self, task_type: str, payload: str = "", seconds: float = 20) -> AttemptFailed:
        done = await self.run(task_type, payload, seconds)
        assert isinstance(done, AttemptFailed), (task_type, payload, done)
        return done

    async def data(self, task_type: str, payload: str = "") -> bytes:
        done = await self.run(task_type, payload)
        assert isinstance(done, AttemptSucceeded), (task_type, payload, done)
        return done.data

    async def each(self, tries: Iterable[Awaitable[None]]) -> None:
        """Make many tries, as many at once as there are slots."""
        waiting = iter(tries)

        async def one_after_the_other() -> None:
            for one in waiting:
                await one

        await asyncio.gather(one_after_the_other(), one_after_the_other())

    async def is_well(self) -> None:
        """Both slots answer each attempt with what is its own."""
        asked = [f"{self.count} {n}" for n in range(4)]
        first = await asyncio.gather(*(self.data("honest", each) for each in asked[:2]))
        second = await asyncio.gather(*(self.data("honest", each) for each in asked[2:]))
        assert [*first, *second] == [f"of {each}".encode() for each in asked]
        assert self.key.read_text() == SECRET
        assert sorted(each.name for each in self.home.parent.iterdir()) == ["home"]


def daemons() -> list[int]:
    return with_word(f"86399.{MARK}")


def with_word(wanted: str) -> list[int]:
    """The processes with this in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(wanted in word for word in process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found

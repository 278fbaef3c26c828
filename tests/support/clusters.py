"""Clusters of processes, for a block of a test or for all tests of a module."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from ipfs_cluster_node.cli.local_cluster import LocalCluster

T = TypeVar("T")


@asynccontextmanager
async def cluster_of(
    masters: int,
    workers: int,
    *,
    root: Path | None = None,
    make: Callable[[Path], LocalCluster] = LocalCluster,
) -> AsyncIterator[LocalCluster]:
    """A cluster that is stopped with the block; without masters it is not started yet.

    What it writes below `root` stays; without one it goes.
    """
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as directory:
        cluster = make(root or Path(directory) / "nodes")
        try:
            if masters:
                await cluster.start(masters=masters, workers=workers)
            yield cluster
        finally:
            await cluster.stop()


@contextmanager
def for_module(scope: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter a scope for longer than the loop of one test."""
    with asyncio.Runner() as runner:
        entered = runner.run(scope.__aenter__())
        try:
            yield entered
        finally:
            runner.run(scope.__aexit__(None, None, None))

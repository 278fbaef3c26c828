"""`--handlers`: task handlers of one's own, from files and modules."""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from ipfs_cluster_node.cli.output import notes_of, say
from ipfs_cluster_node.config.settings import TaskSection, names_file
from ipfs_cluster_node.core.errors import ClusterError

LOOK_SECONDS: Final = 0.5
"""Interval at which `dev` looks for changed files."""


def _absolute(_context: Any, _parameter: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(os.path.abspath(each) if names_file(each) else each for each in given)  # noqa: PTH100


handlers_option = click.option(
    "--handlers",
    multiple=True,
    callback=_absolute,
    help="A Python file, or a module, with task handlers; repeat it for more.",
)


async def own_task_types(handlers: Sequence[str]) -> frozenset[str]:
    """Load handlers as a node would, and return the task types of all there are.

    Raises:
        ClusterError: CONFIG_INVALID; its note has the traceback.
    """
    from ipfs_cluster_node.adapters.worker.pool import HandlerPool
    from ipfs_cluster_node.adapters.worker.sources import read_sources

    with tempfile.TemporaryDirectory(prefix="ipfs-cluster-node-handlers-") as directory:
        pool = HandlerPool(
            sources=read_sources(handlers),
            slots=1,
            memory_bytes_max=TaskSection().memory_max,
            scratch=Path(directory) / "scratch",
        )
        try:
            await pool.start()
        finally:
            await pool.close()
        return pool.task_types


async def restart_on_change(handlers: Sequence[str], cluster: Any, stop: asyncio.Event) -> None:
    """Start the workers of a local cluster again whenever a file has changed, until `stop` is set.

    While the files can't be loaded, the workers go on with what they have.
    """
    files = [Path(each) for each in handlers if names_file(each)]
    known = seen = _versions(files)
    while not await _is_set_within(stop, LOOK_SECONDS):
        before, seen = seen, _versions(files)
        if seen == known or seen != before:  # Unchanged, or still being written.
            continue
        known = seen
        try:
            await own_task_types(handlers)
        except (ClusterError, OSError, TimeoutError) as error:
            say(
                *notes_of(error),
                f"error: {error}",
                "the workers continue with the previous version",
                err=True,
            )
            continue
        try:
            await cluster.restart_workers()
        except (ClusterError, OSError, TimeoutError) as error:
            say(f"error: {error}", "the workers restart at the next change of a file", err=True)
        else:
            say("the changed handlers are loaded", err=True)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _versions(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    versions: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            versions.append(None)
        else:
            versions.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return versions

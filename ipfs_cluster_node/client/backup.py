"""Receives a backup into a file: whole and checked, or not at all."""

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ipfs_cluster_node.adapters.raft.damage import LogDamagedError
from ipfs_cluster_node.adapters.raft.disk import DirectoryFile
from ipfs_cluster_node.adapters.raft.snapshot import SnapshotFile
from ipfs_cluster_node.config.files import PRIVATE_FILE_MODE, sync_directory
from ipfs_cluster_node.core.errors import ClusterError, Reason

Progress = Callable[[int], None]
"""Called with the bytes that have come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was written."""

    path: Path
    size_bytes: int
    index: int
    """Of the last entry of the log that is in it."""


async def receive(chunks: AsyncIterator[bytes], path: Path, on_progress: Progress) -> Backup:
    """Write what comes beside `path`, check it, and put it there; durable when this returns.

    Raises:
        ClusterError: INTERNAL, if it is not whole though the call ended well.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    # Private: it holds payloads and results of tasks.
    descriptor = os.open(temporary, flags, PRIVATE_FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            await _write(file, chunks, on_progress)
            file.flush()
            os.fsync(file.fileno())
        backup = _checked(temporary, path)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return backup


async def _write(file: BinaryIO, chunks: AsyncIterator[bytes], on_progress: Progress) -> None:
    size_bytes = 0
    async for chunk in chunks:
        file.write(chunk)
        size_bytes += len(chunk)
        on_progress(size_bytes)


def _checked(temporary: Path, path: Path) -> Backup:
    file = DirectoryFile(os.open(temporary, os.O_RDONLY | os.O_CLOEXEC))
    with closing(file):
        try:
            snapshot = SnapshotFile(file)
        except LogDamagedError as error:
            raise ClusterError(
                Reason.INTERNAL, "the backup that came is not whole; nothing is kept, try again"
            ) from error
        return Backup(path=path, size_bytes=file.size_bytes, index=snapshot.position.index)

"""Receives a backup into a file, and checks that it is complete."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from ipfs_cluster_node.adapters.raft.disk import DirectoryFile
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.snapshot import SnapshotFile
from ipfs_cluster_node.core.errors import ClusterError, Reason

Progress = Callable[[int], None]
"""Called with the number of bytes received so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A written backup."""

    size_bytes: int
    index: int
    """Of the last log entry that it includes."""


async def receive(chunks: AsyncIterator[bytes], file: BinaryIO, on_progress: Progress) -> Backup:
    """Write the chunks into `file`, from its start, and check them.

    Raises:
        ClusterError: INTERNAL, if it is incomplete although the call succeeded.
    """
    file.seek(0)
    file.truncate()
    size_bytes = 0
    async for chunk in chunks:
        file.write(chunk)
        size_bytes += len(chunk)
        on_progress(size_bytes)
    file.flush()
    with closing(DirectoryFile(os.dup(file.fileno()))) as written:
        try:
            snapshot = SnapshotFile(written)
        except LogDamagedError as error:
            raise ClusterError(
                Reason.INTERNAL, "the backup received is incomplete; nothing is kept, try again"
            ) from error
        return Backup(size_bytes=written.size_bytes, index=snapshot.position.index)

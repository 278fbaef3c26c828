"""Blocks on disk: one file each, whole or absent.

`<directory>/<2 characters>/<CID>`; the characters are the next to last two of the CID, so that
directories fill evenly. A block is written under `tmp/`, synced, renamed, and its directory synced;
what a crash leaves under `tmp/` is removed at the next start.
"""

import errno
import itertools
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.unixfs import Block

log = logging.getLogger(__name__)

BATCH_BLOCKS_MAX: Final = 64
"""Blocks that are synced together: 16 MiB of leaves."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class BlockStore:
    """Blocks by CID. Every method blocks; asyncio callers use a thread."""

    def __init__(self, directory: Path) -> None:
        """Open the store; made if it is not there."""
        self._directory = directory
        self._tmp = directory / "tmp"
        self._tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._tmp.iterdir():
            leftover.unlink()
        self.size_bytes = sum(
            entry.stat().st_size for entry in directory.glob("??/b*") if entry.suffix == ""
        )

    def has(self, cid: Cid) -> bool:
        """Whether the block is here; its bytes are checked when they are read."""
        return self._path(cid).is_file()

    def get(self, cid: Cid) -> bytes | None:
        """Read a block; None if it is absent or damaged. A damaged one is moved aside."""
        path = self._path(cid)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if cid.matches(data):
            return data
        log.error("damaged block moved aside", extra={"cid": str(cid)})
        path.rename(path.with_suffix(".damaged"))
        return None

    def delete(self, cid: Cid) -> None:
        """Remove a block, if it is here."""
        path = self._path(cid)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        self.size_bytes -= size

    @contextmanager
    def batch(self) -> "Iterator[Batch]":
        """Store several blocks; what was not flushed is dropped at the end."""
        batch = Batch(self._tmp, self._path)
        try:
            yield batch
        finally:
            self.size_bytes += batch.stored_bytes
            batch.drop()

    def _path(self, cid: Cid) -> Path:
        text = str(cid)
        return self._directory / text[-3:-1] / text


class Batch:
    """Blocks on their way to disk."""

    _counter = itertools.count()

    def __init__(self, tmp: Path, path_of: Callable[[Cid], Path]) -> None:
        """Write under `tmp`."""
        self._tmp = tmp
        self._path_of = path_of
        self._written: dict[Cid, tuple[int, Path]] = {}
        self.stored_bytes = 0

    def put(self, block: Block) -> None:
        """Write a block; durable and visible after `flush`, which happens every 64 blocks.

        Raises:
            ClusterError: STORAGE_FULL.
        """
        if block.cid in self._written or self._path_of(block.cid).is_file():
            return
        name = f"{os.getpid()}-{next(self._counter)}-{secrets.token_hex(4)}"
        path = self._tmp / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        self._written[block.cid] = (file, path)
        try:
            view = memoryview(block.data)
            while view:
                view = view[os.write(file, view) :]
        except OSError as error:
            raise _full(error) from error
        if len(self._written) >= BATCH_BLOCKS_MAX:
            self.flush()

    def flush(self) -> None:
        """Make what was put durable and visible.

        Raises:
            ClusterError: STORAGE_FULL.
        """
        directories: set[Path] = set()
        try:
            for cid, (file, path) in list(self._written.items()):
                os.fdatasync(file)
                size = os.fstat(file).st_size
                os.close(file)
                target: Path = self._path_of(cid)
                del self._written[cid]
                if not target.parent.is_dir():
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    directories.add(target.parent.parent)
                path.rename(target)
                directories.add(target.parent)
                self.stored_bytes += size
            for directory in directories:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise _full(error) from error

    def drop(self) -> None:
        """Forget what was not flushed."""
        for file, path in self._written.values():
            os.close(file)
            path.unlink(missing_ok=True)
        self._written.clear()


def _full(error: OSError) -> Exception:
    if error.errno in FULL:
        return ClusterError(
            Reason.STORAGE_FULL, "the disk of this node is full; free some space and send it again"
        )
    return error

"""Blocks on disk: one file each, complete or absent.

The path is `<directory>/<2 characters>/<CID>`; the characters are the last but one and two of the
CID, so that directories fill evenly. A block is written under `tmp/`, synced, renamed, and its
directory synced; leftovers of a crash under `tmp/` are removed at the next start.

A block that is damaged, unreadable or not a regular file counts as absent: it is moved to
`<CID>.damaged`, and remembered until the block is stored again.
"""

import asyncio
import errno
import itertools
import logging
import os
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import open_regular
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.held_blocks import HeldBlocks, Hold
from ipfs_cluster_node.core.multiformats import Cid, parse_cid
from ipfs_cluster_node.core.unixfs import BLOCK_BYTES_MAX, Block

log = logging.getLogger(__name__)

BATCH_BLOCKS_MAX: Final = 64
"""Blocks synced together: 16 MiB of leaves."""
SYNC_THREADS: Final = 8
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NO_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Temporary errors that say nothing about the file."""
DAMAGED_SUFFIX: Final = ".damaged"
RETRY_AFTER: Final = timedelta(seconds=1)


class BlockStore:
    """Blocks by CID.

    What reads or writes the disk blocks, and asyncio callers use a thread for it: all but `hold`,
    `collecting`, `batching`, `is_damaged` and the counts.
    """

    def __init__(
        self, directory: Path, require: Callable[[int], None] = lambda _size_bytes: None
    ) -> None:
        """Open or create the store; `require` raises if so many more bytes may not be stored."""
        self.require = require
        self._directory = directory
        self.tmp = directory / "tmp"
        self._lock = threading.Lock()
        """Guards counts and moves, also while the disk works: only threads take it."""
        self._holding = threading.Condition()
        """Guards `held`, never while the disk works: the event loop takes it too."""
        self.held = HeldBlocks()
        self.tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self.tmp.iterdir():
            with suppress(IsADirectoryError, PermissionError):  # Not created by this store.
                leftover.unlink()
        self.size_bytes = 0
        self._damaged: set[str] = set()
        self.repaired_count = 0
        """Damaged or lost blocks that were restored since the start."""
        for entry in directory.glob("??/*"):
            if entry.suffix == DAMAGED_SUFFIX:
                self._damaged.add(entry.stem)
            else:
                self.size_bytes += _size_of(entry) or 0
        # A crash may have come between a repair and the removal of the damaged copy.
        self._damaged = {text for text in self._damaged if _size_of(self.path_of(text)) is None}

    @property
    def damaged_count(self) -> int:
        """The number of blocks that were here, and are damaged or lost."""
        return len(self._damaged)

    def has(self, cid: Cid) -> bool:
        """Whether the block is here; its bytes are checked when read."""
        return str(cid) not in self._damaged and _size_of(self.path_of(cid)) is not None

    def holds(self, cid: Cid) -> bool:
        """Whether the block is here and intact; reads it."""
        return self.get(cid) is not None

    def get(self, cid: Cid) -> bytes | None:
        """Read a block; None if absent or damaged, which moves it aside. Raises OVERLOADED."""
        path = self.path_of(cid)
        data = _read(path)
        if data is None or cid.matches(data):
            return data
        with self._lock:
            # Another thread may have moved it aside, and a third stored it again.
            data = _read(path)
            if data is None or cid.matches(data):
                return data
            log.error("damaged block moved aside", extra={"cid": str(cid)})
            self._damaged.add(str(cid))
            self._set_aside(path)
        return None

    def is_damaged(self, cid: Cid) -> bool:
        """Whether the block was here, and is damaged or lost."""
        return str(cid) in self._damaged

    def note_lost(self, cid: Cid) -> None:
        """Note that a block which should be here is missing."""
        with self._lock:
            if not self.has(cid) and str(cid) not in self._damaged:
                log.error("block lost", extra={"cid": str(cid)})
                self._damaged.add(str(cid))

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Hold the blocks that are stored under the hold, until the block ends or longer."""
        with self._holding:
            hold = self.held.begin()
        try:
            yield hold
        finally:
            with self._holding:
                self.held.end(hold)

    def add_to(self, hold: Hold, cid: Cid) -> None:
        """Hold a block: from now on it is not deleted, if it is here; waits for a deletion."""
        with self._holding:
            hold.add(cid)
            self._holding.wait_for(lambda: not self.held.is_being_deleted(cid))

    @contextmanager
    def collecting(self, current_as_of: float) -> Iterator[None]:
        """Collect by names that are read within the block; see `HeldBlocks.begin_round`."""
        with self._holding:
            self.held.begin_round(current_as_of)
        try:
            yield
        finally:
            with self._holding:
                self.held.end_round()

    def delete_unheld(self, cids: Iterable[Cid]) -> tuple[int, int]:
        """Delete blocks, and their damaged copies, except those that are held.

        A crash may leave any of them, or bring them back: they are found again. One that can't be
        deleted keeps no other one from it.

        Returns:
            The bytes that were freed, and how many blocks are left.
        """
        freed_bytes = left_count = 0
        for cid in cids:
            with self._holding:
                may_go = self.held.begin_deletion(cid)
            if not may_go:
                left_count += 1
                continue
            try:
                freed_bytes += self._delete(cid)
            except OSError as error:
                left_count += 1
                log.warning("block not deleted", extra={"cid": str(cid), "error": repr(error)})
            finally:
                with self._holding:
                    self.held.end_deletion(cid)
                    self._holding.notify_all()
        return freed_bytes, left_count

    def _delete(self, cid: Cid) -> int:
        path = self.path_of(cid)
        freed_bytes = 0
        with self._lock:
            for each in (path, path.with_suffix(DAMAGED_SUFFIX)):
                size = _size_of(each)
                if size is not None:
                    each.unlink(missing_ok=True)
                    freed_bytes += size
                    self._count(-size if each is path else 0)
            self._damaged.discard(str(cid))
        return freed_bytes

    def directories(self) -> list[str]:
        """The names of the directories of blocks, in order."""
        return sorted(entry.name for entry in self._directory.glob("??") if entry.is_dir())

    def stored_in(self, directory: str) -> Iterator[Cid]:
        """The blocks of one directory, damaged ones too, in no order."""
        for entry in os.scandir(self._directory / directory):
            with suppress(ValueError):  # Not created by this store.
                yield parse_cid(entry.name.removesuffix(DAMAGED_SUFFIX))

    @contextmanager
    def batch(self, hold: Hold | None = None) -> "Iterator[Batch]":
        """Store several blocks; those not flushed are dropped at the end.

        They are under `hold`, if there is one, else held until the end.
        """
        with nullcontext(hold) if hold is not None else self.hold() as its_hold:
            batch = Batch(self, its_hold)
            try:
                yield batch
            finally:
                batch.drop()

    @asynccontextmanager
    async def batching(self, hold: Hold | None = None) -> "AsyncIterator[Batch]":
        """As `batch`, for asyncio callers: its end does not block the event loop either."""
        with nullcontext(hold) if hold is not None else self.hold() as its_hold:
            batch = Batch(self, its_hold)
            try:
                yield batch
            finally:
                if not batch.drop_empty():
                    await asyncio.to_thread(batch.drop)

    def publish(self, written: Path, target: Path) -> None:
        """Give a written block its name, in place of a damaged one."""
        with self._lock:
            if target.is_dir():
                self._set_aside(target)
            replaced = _size_of(target) or 0
            size = written.stat().st_size
            written.rename(target)
            self._count(size - replaced)
            if target.name in self._damaged:
                self._damaged.remove(target.name)
                self.repaired_count += 1
                log.warning("block repaired", extra={"cid": target.name})
                with suppress(OSError):
                    target.with_suffix(DAMAGED_SUFFIX).unlink(missing_ok=True)

    def _set_aside(self, path: Path) -> None:
        size = _size_of(path) or 0
        aside = path.with_suffix(DAMAGED_SUFFIX)
        try:
            if path.is_dir() or aside.is_dir():
                aside = path.with_name(f"{path.name}-{secrets.token_hex(4)}{DAMAGED_SUFFIX}")
            path.rename(aside)
            self._count(-size)
        except OSError as error:  # It stays in place, but still counts as damaged.
            log.warning("damaged block not moved", extra={"error": repr(error)})

    def _count(self, change_bytes: int) -> None:
        # Never below zero: a larger file may have replaced a block from outside.
        self.size_bytes = max(0, self.size_bytes + change_bytes)

    def path_of(self, cid: Cid | str) -> Path:
        """Where a block is, or would be."""
        text = str(cid)
        return self._directory / text[-3:-1] / text


class Batch:
    """Blocks being written to disk."""

    _counter = itertools.count()

    def __init__(self, store: BlockStore, hold: Hold) -> None:
        self._store, self.hold = store, hold
        self._written: dict[Cid, Path] = {}
        self._unsure: set[Path] = set()
        """Directories of blocks that already existed; synced before these count as stored."""
        self._lock = threading.Lock()
        """A cancelled caller drops the batch while its thread may still call `put`."""
        self._dropped = False

    def put(self, block: Block) -> None:
        """Write a block; durable after `flush`, every 64. Raises STORAGE_FULL, OVERLOADED."""
        with self._lock:
            if self._dropped or block.cid in self._written:
                return
            # Before it is looked for: else it could be deleted after it was found.
            self._store.add_to(self.hold, block.cid)
            target = self._store.path_of(block.cid)
            if _read(target) == block.data:  # A damaged one is rewritten.
                # Another batch may have just renamed it without having synced its directory.
                self._unsure.update((target.parent, target.parent.parent))
                return
            self._store.require(len(block.data))
            name = f"{os.getpid()}-{next(self._counter)}-{secrets.token_hex(4)}"
            path = self._store.tmp / name
            # Closed at once: open files of many batches would add up.
            try:
                with os.fdopen(os.open(path, NEW_FILE, 0o600), "wb") as file:
                    file.write(block.data)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise _as_cluster_error(error) from error
            self._written[block.cid] = path
            if len(self._written) >= BATCH_BLOCKS_MAX:
                self._flush()

    def flush(self) -> None:
        """Make the written blocks durable and visible; raises STORAGE_FULL."""
        with self._lock:
            if not self._dropped:
                self._flush()

    def _flush(self) -> None:
        directories, self._unsure = self._unsure, set()
        try:
            with ThreadPoolExecutor(SYNC_THREADS) as pool:
                list(pool.map(_sync, self._written.values()))
                for cid, path in list(self._written.items()):
                    target = self._store.path_of(cid)
                    if not target.parent.is_dir():
                        # Something other than a directory has that name.
                        with suppress(FileNotFoundError, IsADirectoryError):
                            target.parent.unlink()
                        target.parent.mkdir(mode=0o700, exist_ok=True)
                        directories.add(target.parent.parent)
                    self._store.publish(path, target)
                    del self._written[cid]
                    directories.add(target.parent)
                list(pool.map(_sync, directories))
        except OSError as error:
            raise _as_cluster_error(error) from error

    def drop_empty(self) -> bool:
        """Drop this if that takes no work: no thread is at work in it, and all is flushed."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._dropped = not self._written
            return self._dropped
        finally:
            self._lock.release()

    def drop(self) -> None:
        """Discard the blocks not flushed."""
        with self._lock:
            self._dropped = True
            for path in self._written.values():
                path.unlink(missing_ok=True)
            self._written.clear()


def _read(path: Path) -> bytes | None:
    """Read a file: None if it is missing; empty if it is unreadable or not a block."""
    try:
        descriptor = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return _unreadable(path, error)
    try:
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size <= BLOCK_BYTES_MAX:
                return file.read(BLOCK_BYTES_MAX)
    except OSError as error:
        return _unreadable(path, error)
    return _unreadable(path, OSError(errno.EFBIG, "larger than any block"))


def _unreadable(path: Path, error: OSError) -> bytes:
    if error.errno in NO_RESOURCES:
        raise _as_cluster_error(error) from error
    log.warning("block can't be read", extra={"path": str(path), "error": repr(error)})
    return b""


def _size_of(path: Path) -> int | None:
    """The size of a regular file; None for anything else, including a link to one."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_cluster_error(error: OSError) -> Exception:
    if error.errno in FULL:
        return ClusterError(
            Reason.STORAGE_FULL, "the disk of this node is full; free some space and try again"
        )
    if error.errno in NO_RESOURCES:
        return ClusterError(
            Reason.OVERLOADED,
            f"this node can't open more files now ({error.strerror}); try again in a moment",
            retry_after=RETRY_AFTER,
        )
    return error

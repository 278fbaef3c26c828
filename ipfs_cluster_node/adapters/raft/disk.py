"""The files of consensus: one directory, few operations, each with a simple guarantee.

The journal and the snapshots use nothing else, so a test can substitute a disk that loses what was
not synced, tears writes and fails.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from ipfs_cluster_node.config.files import open_regular, sync_directory

APPEND: Final = os.O_WRONLY | os.O_APPEND
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
UNSYNCED_BYTES_MAX: Final = 8 * 1024 * 1024
"""A long file is synced as it grows, since a sync of the log may have to wait for all of it."""


class OpenFile(Protocol):
    """A file as it was when it was opened, even if its name is given to another one."""

    size_bytes: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Read; short at the end."""

    def close(self) -> None:
        """Close it."""


class Disk(Protocol):
    """What consensus needs of a disk. Every method blocks and may raise OSError.

    After an error of `append`, `sync` or `replace` it is unknown what was written: the caller
    stops, and reads what is there when it starts again.
    """

    def names(self) -> list[str]:
        """Every file."""

    def open(self, name: str) -> OpenFile | None:
        """Open a file for reading; None if it is not there."""

    def read(self, name: str) -> bytes | None:
        """Read a whole file; None if it is not there."""

    def append(self, name: str, data: bytes) -> None:
        """Write at the end of a file, created if missing; durable after `sync`."""

    def sync(self, name: str) -> None:
        """Make what was appended to a file durable; not its name, if it is new."""

    def note(self, name: str, data: bytes) -> None:
        """Write a small file of one length in place.

        It is not durable: a crash may bring back any earlier note, a torn one, or none.
        """

    def replace(self, name: str, parts: Iterable[bytes]) -> None:
        """Create or replace a file, atomically and durably."""

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file that was appended to, and make it durable, also in place of another one.

        May run in another thread than the other operations; `remove` the old name before appending
        to it again.
        """

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file, durably."""

    def settle(self, name: str, offset: int) -> None:
        """Make a file durable from `offset` on, whichever process wrote it, and its name.

        It is written again in place: after a sync that failed, what is read may be in memory only,
        and the system would not write it with the next sync.
        """

    def remove(self, name: str) -> None:
        """Remove a file, if it exists; after a crash it may be back."""

    def close(self) -> None:
        """Close all files."""


class DirectoryDisk:
    """A directory of the machine; its methods do what those of `Disk` say."""

    def __init__(self, directory: Path) -> None:
        """Use a directory, created if missing."""
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open: tuple[str, int] | None = None
        """The file that was appended to last: nearly always the one of the next append."""
        self._notes: dict[str, int] = {}

    def names(self) -> list[str]:
        return [entry.name for entry in os.scandir(self._directory) if entry.is_file()]

    def open(self, name: str) -> "DirectoryFile | None":
        try:
            return DirectoryFile(open_regular(self._directory / name))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes | None:
        try:
            with os.fdopen(open_regular(self._directory / name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def append(self, name: str, data: bytes) -> None:
        write_all(self._appended(name), data)

    def sync(self, name: str) -> None:
        os.fdatasync(self._appended(name))

    def note(self, name: str, data: bytes) -> None:
        if name not in self._notes:
            flags = os.O_WRONLY | os.O_CREAT
            self._notes[name] = open_regular(self._directory / name, flags)
        os.pwrite(self._notes[name], data, 0)

    def replace(self, name: str, parts: Iterable[bytes]) -> None:
        self._forget(name)
        new = self._directory / f"{name}.new"
        try:
            with _opened(new, NEW) as descriptor:
                _write_and_sync(descriptor, parts)
            new.rename(self._directory / name)
        except OSError:
            with suppress(OSError):  # Half a file would only take up space that is short.
                new.unlink(missing_ok=True)
            raise
        self._sync_names()

    def rename(self, name: str, new_name: str) -> None:
        with _opened(self._directory / name, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
        (self._directory / name).rename(self._directory / new_name)
        self._sync_names()

    def truncate(self, name: str, size_bytes: int) -> None:
        with _opened(self._directory / name, os.O_WRONLY) as descriptor:
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)

    def settle(self, name: str, offset: int) -> None:
        with _opened(self._directory / name, os.O_RDWR) as descriptor:
            while data := os.pread(descriptor, UNSYNCED_BYTES_MAX, offset):
                offset += os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
        self._sync_names()

    def remove(self, name: str) -> None:
        self._forget(name)
        (self._directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        self._close_appended()
        while self._notes:
            os.close(self._notes.popitem()[1])

    def _sync_names(self) -> None:
        sync_directory(self._directory)

    def _close_appended(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _appended(self, name: str) -> int:
        if self._open is None or self._open[0] != name:
            self._close_appended()
            path = self._directory / name
            self._open = (name, open_regular(path, APPEND | os.O_CREAT))
        return self._open[1]

    def _forget(self, name: str) -> None:
        opened = self._open  # Read once: a snapshot is stored beside the journal's appends.
        if opened is not None and opened[0] == name:
            self._close_appended()


class DirectoryFile:
    """An `OpenFile` of the machine."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)


def _write_and_sync(descriptor: int, parts: Iterable[bytes]) -> None:
    unsynced_bytes = 0
    for part in parts:
        write_all(descriptor, part)
        unsynced_bytes += len(part)
        if unsynced_bytes >= UNSYNCED_BYTES_MAX:
            os.fdatasync(descriptor)
            unsynced_bytes = 0
    os.fsync(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, also after a short write, so that a full disk raises."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = open_regular(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

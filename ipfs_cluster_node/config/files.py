"""Atomic, durable and private files."""

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

PRIVATE_FILE_MODE: Final = 0o600
PRIVATE_DIRECTORY_MODE: Final = 0o700
READ_BYTES_MAX: Final = 64 * 1024 * 1024
"""Limit of a file read at once: several times the largest in a home, the audit log."""


def is_of_another_user(status: os.stat_result) -> bool:
    """Whether the owner is another user than this process's, and not root."""
    return status.st_uid not in (os.geteuid(), 0)


def make_private_directory(path: Path) -> None:
    """Create a directory that only its owner can enter, and its parents."""
    path.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = PRIVATE_FILE_MODE) -> int:
    """Open a regular file, and return its descriptor.

    Opening a FIFO could wait for ever for its other end, and reading a device may never end.

    Raises:
        OSError: Also if it is not a regular file.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return descriptor


def read_regular(path: Path) -> bytes:
    """Read a regular file; raises OSError also for another kind, or over `READ_BYTES_MAX`."""
    with os.fdopen(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > READ_BYTES_MAX:
            raise OSError(errno.EFBIG, f"is larger than {READ_BYTES_MAX} bytes", str(path))
        return file.read(READ_BYTES_MAX)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, PRIVATE_FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

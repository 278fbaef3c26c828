"""Small disks that fill up."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PIECE_BYTES = 64 * 1024


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size; skips the test where none can be mounted."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def fill_up(directory: Path, *, leave_bytes: int = 0) -> Path:
    """Fill a disk with one file, which gives the room back once it is removed."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        while (left := free_bytes(directory) - leave_bytes) > 0:
            file.write(bytes(min(left, PIECE_BYTES)))
    return filler

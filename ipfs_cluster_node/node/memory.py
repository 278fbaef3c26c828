"""Keeps the process's memory flat while large files pass through it."""

import ctypes
from contextlib import suppress
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MMAP_BYTES_MIN: Final = 128 * 1024
ARENAS_MAX: Final = 2


def keep_memory_flat() -> None:
    """Have glibc give the buffers of blocks back at once; does nothing with another libc.

    By default it learns to keep freed buffers of that size, once an arena for each thread: 1 GiB in
    and out then cost a leader 196 MiB.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES_MIN)
        libc.mallopt(_M_ARENA_MAX, ARENAS_MAX)

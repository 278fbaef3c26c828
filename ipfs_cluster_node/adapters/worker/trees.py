"""Trees of processes, and of directories made by hostile handlers."""

import os
import secrets
import signal
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
PAUSE_SECONDS: Final = 0.001
CHILDREN_READ_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Usage:
    """Total usage of a process and its descendants."""

    resident_bytes: int
    process_count: int
    thread_count: int


def children(pid: int) -> list[int]:
    """List a process's children, including orphans reparented to it.

    Plain system calls: this runs after each attempt of a kept runner.
    """
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return found
    for thread in threads:
        try:
            file = os.open(f"/proc/{pid}/task/{thread}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        data = b""
        try:
            while piece := os.read(file, CHILDREN_READ_BYTES):
                data += piece
        except OSError:
            pass  # It ended meanwhile.
        finally:
            os.close(file)
        found += map(int, data.split())
    return found


def descendants(pid: int) -> list[int]:
    """List all descendants of a process."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            found.append(child)
            waiting.append(child)
    return found


def usage(pid: int, *, processes_max: int, threads_max: int) -> Usage:
    """Add up a process and its descendants. Shared pages count for each of them.

    Stops once a bound is exceeded, so that it does not take long.
    """
    resident_bytes = process_count = thread_count = 0
    waiting = [pid]
    while waiting and process_count <= processes_max and thread_count <= threads_max:
        each = waiting.pop()
        process_count += 1
        resident_bytes += _resident_bytes(each)
        thread_count += _thread_count(each)
        if thread_count <= threads_max:
            waiting += children(each)
    return Usage(resident_bytes, process_count, thread_count)


def proportional_bytes(pid: int) -> int:
    """Add up a process and its descendants; shared pages count once. Slower."""
    return sum(map(_proportional_bytes, [pid, *descendants(pid)]))


def kill_descendants(pid: int, *, seconds: float) -> bool:
    """Kill a process's descendants until none is left; returns whether none is, after `seconds`.

    If `pid` is a subreaper, orphans are reparented to it, and so are found.
    """
    ends = time.monotonic() + seconds
    while True:
        alive = [each for each in descendants(pid) if not _is_dead(each)]
        if not alive:
            return True
        if time.monotonic() > ends:
            return False
        for each in alive:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)


def reap() -> list[tuple[int, int]]:
    """Reap the children of this process that have ended: id and status of each."""
    ended: list[tuple[int, int]] = []
    with suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(one)
    return ended


def empty(path: str | Path) -> None:
    """Empty a directory, whatever its depth and permissions; raises OSError."""
    top = _open(str(path), None)
    try:
        while waiting := os.listdir(top):  # noqa: PTH208 (a descriptor)
            for name in waiting:
                _remove_entry(name, top)
    finally:
        os.close(top)


def remove(path: Path) -> None:
    """Remove a directory and its content; as `empty`."""
    if path.exists():
        empty(path)
        path.rmdir()


def _remove_entry(name: str, top: int) -> None:
    """Remove an entry of `top`. Nested directories become entries of `top`, so any depth works."""
    try:
        os.unlink(name, dir_fd=top)
        return
    except IsADirectoryError:
        pass
    directory = _open(name, top)
    try:
        for inner in os.listdir(directory):  # noqa: PTH208
            try:
                os.unlink(inner, dir_fd=directory)
            except IsADirectoryError:
                os.close(_open(inner, directory))  # Made writable, or it could not be moved.
                os.rename(inner, secrets.token_hex(8), src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)


def _open(name: str, directory: int | None) -> int:
    """Open a directory, and set the permissions that removing it needs."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        opened = os.open(name, os.O_RDONLY | flags, dir_fd=directory)
    except PermissionError:
        handle = os.open(name, os.O_PATH | flags, dir_fd=directory)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(stat.S_IRWXU)
        finally:
            os.close(handle)
        opened = os.open(name, os.O_RDONLY | flags, dir_fd=directory)
    if os.fstat(opened).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.fchmod(opened, stat.S_IRWXU)
    return opened


def _stat(pid: int) -> list[bytes]:
    """The fields of a process's status after its name; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _is_dead(pid: int) -> bool:
    return _stat(pid)[:1] in ([], [b"Z"], [b"X"])


def _thread_count(pid: int) -> int:
    return int(found[0]) if (found := _stat(pid)[17:18]) else 0


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident_bytes(pid)

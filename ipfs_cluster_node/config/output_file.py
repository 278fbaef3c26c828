"""Output files named by a user: nothing existing is lost, and a written file is complete."""

import errno
import io
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from ipfs_cluster_node.config.files import PRIVATE_FILE_MODE, sync_directory
from ipfs_cluster_node.core.errors import ClusterError, Reason

STANDARD_OUTPUT_NAMES: Final = tuple(
    map(Path, ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))
)
ORDINARY_FILE_MODE: Final = 0o666
"""Before the umask is applied."""
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_standard_output(path: Path) -> bool:
    """Whether `path` is this process's standard output."""
    if path in STANDARD_OUTPUT_NAMES:
        return True
    try:
        given, printed = path.stat(), os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(given.st_mode) and os.path.samestat(given, printed)


@contextmanager
def output_file(
    path: Path, *, force: bool = False, private: bool = False, whole: bool = False
) -> Iterator[BinaryIO]:
    """Write a file named by the user; it appears once the block has succeeded.

    - An existing file is refused, unless `force` replaces it; its permissions are then kept.
    - A link is followed, and its target written. A dangling link is refused.
    - `-`, /dev/stdout, a pipe and a character device get the bytes as they come, or with `whole`
      all of them at the end or nothing; a block device needs `force`, since its content is lost; a
      directory and a socket are refused.

    An ordinary file is atomic and durable: its name appears once it is complete, and nothing is
    left if the block fails or, where the file system allows it, the process is killed. Only the
    owner may read a `private` one.

    Raises:
        ClusterError: INVALID_ARGUMENT, if it can't be written; STORAGE_FULL.
    """
    try:
        target = _target(path, force=force)
        if target is None:
            with _through(path, whole=whole) as file:
                yield file
        else:
            with _replacing(target, force=force, private=private) as file:
                yield file
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise  # Not about the file; or the pipe's reader closed it.
        raise _explained(path, error) from error


def _target(path: Path, *, force: bool) -> Path | None:
    """The ordinary file to create; None if the bytes are written straight through."""
    if is_standard_output(path):
        return None
    target = Path(os.path.realpath(path))
    try:
        # Checked on the given path: /dev/fd/63 may lead to a pipe, which has no path of its own.
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise _refused(path, "is a dangling link; name another file") from None
        if not target.parent.is_dir():
            raise _refused(path, f"can't be created: there is no directory {path.parent}") from None
        return target
    if stat.S_ISDIR(mode):
        raise _refused(path, "is a directory; name a file")
    if stat.S_ISSOCK(mode):
        raise _refused(path, "is a socket; name a file")
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return None
    if not force:
        raise _refused(path, "exists; name another file, or add --force")
    return None if stat.S_ISBLK(mode) else target


@contextmanager
def _through(path: Path, *, whole: bool) -> Iterator[BinaryIO]:
    with _opened(path) as out:
        if not whole:
            yield out
        else:
            with tempfile.TemporaryFile() as gathered:
                yield gathered
                gathered.seek(0)
                shutil.copyfileobj(gathered, out)
        out.flush()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not is_standard_output(path):
        # Neither created nor truncated: it exists, and is not an ordinary file.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    else:
        try:
            sys.stdout.flush()
            descriptor = os.dup(sys.stdout.fileno())
        except io.UnsupportedOperation:  # Replaced by an object in memory.
            yield sys.stdout.buffer
            return
    with _Direct(descriptor, "wb") as out:
        yield out


class _Direct(io.FileIO):
    """Writes everything at once and buffers nothing, so that closing never blocks."""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += super().write(view[done:]) or 0
        return done


@contextmanager
def _replacing(target: Path, *, force: bool, private: bool) -> Iterator[BinaryIO]:
    descriptor, temporary = _make_temporary(target, private=private)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if force:
                _keep_mode(file.fileno(), target, private=private)
            os.fsync(file.fileno())
            if temporary is None:
                temporary = _temporary_name(target)
                _name(file.fileno(), temporary)
        if force:
            temporary.rename(target)
        else:
            _place(temporary, target)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def _make_temporary(target: Path, *, private: bool) -> tuple[int, Path | None]:
    """Open a file in `target`'s directory, if possible without a name: a crash leaves nothing."""
    mode = PRIVATE_FILE_MODE if private else ORDINARY_FILE_MODE
    if hasattr(os, "O_TMPFILE"):
        with suppress(OSError):  # Not on every file system; real errors appear below.
            return os.open(target.parent, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, mode), None
    temporary = _temporary_name(target)
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), temporary


def _name(descriptor: int, path: Path) -> None:
    """Give an unnamed file its name."""
    # `src_dir_fd` is needed although unused: without it Python links the link in /proc.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(8)}.tmp")


def _keep_mode(descriptor: int, target: Path, *, private: bool) -> None:
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(target.stat().st_mode)
        os.fchmod(descriptor, mode & PRIVATE_FILE_MODE if private else mode)


def _place(temporary: Path, target: Path) -> None:
    """Give the file its name, unless that name was taken meanwhile."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _refused(target, "was created meanwhile; name another file, or add --force") from None
    except OSError:  # A file system without hard links.
        if target.exists():
            raise _refused(target, "was created meanwhile; name another file") from None
        temporary.rename(target)
    else:
        temporary.unlink()


def _refused(path: Path, why: str) -> ClusterError:
    return ClusterError(Reason.INVALID_ARGUMENT, f"{path} {why}")


def _explained(path: Path, error: OSError) -> ClusterError:
    if error.errno in NO_ROOM:
        return ClusterError(
            Reason.STORAGE_FULL,
            f"no space for {path} ({error.strerror}); free some, or name another place",
        )
    why = error.strerror or str(error)
    return _refused(path, f"can't be written ({why}); check the path and its permissions")

"""Opens the file that a handler named, without following it anywhere."""

import os
import stat
from typing import Final

RESULT_FILE_RULE: Final = (
    "a result file is a regular file inside task.scratch, with one name and no link on its way"
)


class ResultFileError(Exception):
    """What a handler named is not such a file; the message is a sentence."""


def open_result(scratch: int, name: str) -> int:
    """Open a regular file beneath a directory, component by component, and return its descriptor.

    Nobody else may be at work in the directory. What is opened stays the same file, whatever
    becomes of its name.

    Args:
        scratch: A descriptor of the directory.
        name: Where the file lies in it, as its handler told.

    Raises:
        ResultFileError: There is no such file, or it is not one that a handler made there.
    """
    *parents, last = name.split("/")
    if not last or "\0" in name or any(part in ("", ".", "..") for part in (*parents, last)):
        raise ResultFileError(f"{RESULT_FILE_RULE}; {name[:200]!r} is no path of one")
    common = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    opened = os.dup(scratch)
    try:
        for part in parents:
            opened = _step(opened, part, common | os.O_DIRECTORY)
        opened = _step(opened, last, common)
        found, top = os.fstat(opened), os.fstat(scratch)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_dev != top.st_dev:
            raise ResultFileError(f"{RESULT_FILE_RULE}; {name[:200]!r} is not")
    except OSError as error:
        os.close(opened)
        raise ResultFileError(
            f"{RESULT_FILE_RULE}; {name[:200]!r} can't be opened: {error.strerror}"
        ) from error
    except ResultFileError:
        os.close(opened)
        raise
    return opened


def _step(directory: int, name: str, flags: int) -> int:
    """Open an entry. The directory is closed once it is open; until then it is the caller's."""
    opened = os.open(name, flags, dir_fd=directory)
    os.close(directory)
    return opened

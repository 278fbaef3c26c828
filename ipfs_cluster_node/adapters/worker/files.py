"""Opens the result file that a handler named, without following links."""

import os
import stat
from typing import Final

RESULT_FILE_RULE: Final = (
    "a result file is a regular file inside task.scratch, with one name and no link in its path"
)


class ResultFileError(Exception):
    """The handler named something else than such a file; the message is a sentence."""


def open_result(scratch: int, name: str) -> int:
    """Open a regular file beneath a directory, component by component, and return its descriptor.

    Nothing else may be modifying the directory. The descriptor stays valid for this file, whatever
    happens to its name. `scratch` is the directory's, `name` a path as the handler gave it.

    Raises:
        ResultFileError: There is no such file, or not one that the handler created there.
    """
    *parents, last = name.split("/")
    if not last or "\0" in name or any(part in ("", ".", "..") for part in (*parents, last)):
        raise ResultFileError(f"{RESULT_FILE_RULE}; {name[:200]!r} is not a path to one")
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
    """Open an entry, and then close the directory; on an error the caller still owns it."""
    opened = os.open(name, flags, dir_fd=directory)
    os.close(directory)
    return opened

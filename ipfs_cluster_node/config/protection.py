"""Protects a node's files from other users; checked at each start.

In a directory that others may write to, they could replace keys and log, so it is closed, which is
logged. A file of another user can't be closed to that user, so it is refused. Keys that others may
read are refused when loaded, since they may have leaked.
"""

import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ipfs_cluster_node.config.files import is_of_another_user, make_private_directory
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason

log = logging.getLogger(__name__)

OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def protect_home(home: Home) -> None:
    """Close a node's directory to others, and create missing subdirectories that may be empty.

    Raises:
        ClusterError: HOME_DAMAGED if a file belongs to another user, or can't be closed.
    """
    protect(home.path, OTHERS_WRITE)
    for directory in (home.state, home.content):
        if not directory.exists():
            log.warning("missing directory created empty", extra={"path": str(directory)})
            make_private_directory(directory)
    directories = (home.tls, home.raft, home.raft_new, home.content, home.state, home.scratch)
    for directory in filter(Path.is_dir, directories):
        protect(directory, OTHERS_WRITE)
    for path in (home.config, *_files_in(home.tls)):
        protect(path, OTHERS_WRITE)
    for path in (*_files_in(home.raft), *_files_in(home.state)):
        protect(path, OTHERS)


def check_directory(path: Path) -> None:
    """Refuse a client's directory if others could replace its key; raises HOME_DAMAGED."""
    status = path.stat()
    if is_of_another_user(status):
        raise _foreign(path, status)
    if status.st_mode & OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{path} holds a key, and others may write to it; run: chmod go-w '{path}'",
        )


def protect(path: Path, bits: int) -> None:
    """Take `bits` from the mode of a file or directory; follows links. Raises HOME_DAMAGED."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    if is_of_another_user(status):
        raise _foreign(path, status)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & bits:
        return
    try:
        path.chmod(mode & ~bits)
    except OSError as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{path} is open to others, and can't be closed ({error.strerror}); run: chmod go-rwx "
            f"'{path}'",
        ) from error
    log.warning(
        "was open to others, closed now; check that nobody has changed it",
        extra={"path": str(path), "mode": f"{mode:04o}"},
    )


def _files_in(directory: Path) -> Iterable[Path]:
    return sorted(path for path in directory.glob("*") if path.is_file())


def _foreign(path: Path, status: os.stat_result) -> ClusterError:
    return ClusterError(
        Reason.HOME_DAMAGED,
        f"{path} belongs to the user with id {status.st_uid}, and this runs as {os.geteuid()}: run "
        f"it as that user, or: chown -R {os.geteuid()} '{path}'",
    )

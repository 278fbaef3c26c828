"""Replaces the log by a new one, safely across a crash at any point.

The new one is completed beside the old one, which is then set aside. A start finds one of them in
place; if it finds neither, it finishes what was begun.

Only the leader may allow an empty log for a damaged one. The request is written to disk before it
is sent, and the answer before anything is moved. This note is removed once the new log is in place,
and the new log is not used before that. So a start with a note resumes there, with the same
request: the incarnation is new whenever a log could have been kept under the former one.
"""

import json
import logging
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.store import create_store, stored_voter
from ipfs_cluster_node.config.files import read_regular, sync_directory, write_private
from ipfs_cluster_node.config.home import DAMAGED_LOG_PREFIX, Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, voter_id

log = logging.getLogger(__name__)

DAMAGED_LOGS_MAX: Final = 3
"""Logs set aside that are kept, of each kind; a newer one replaces the oldest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """A request to the leader."""

    request_id: str
    incarnation: int
    """The incarnation of the damaged log; 0 if that could not be read."""
    granted: int = 0
    """The incarnation that the leader granted; 0 before it did."""


def begun_replacement(home: Home) -> Replacement | None:
    """A replacement that was begun, and may not have finished.

    Raises:
        ClusterError: HOME_DAMAGED, if the note of it can't be read.
    """
    try:
        return Replacement(**json.loads(read_regular(home.replacement)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("note of a replacement is unreadable", extra={"error": repr(error)})
        return None
    except OSError as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{home.replacement} can't be read ({error}); restore it, or move it away",
        ) from error


def begin_replacement(home: Home, node_id: NodeId) -> Replacement:
    """Write the request to disk before it is sent."""
    voter = _voter_at(home.raft) or VoterId("")
    owner, _, incarnation = voter.partition(".")
    known = int(incarnation) if owner == node_id and incarnation.isdigit() else 0
    replacement = Replacement(request_id=secrets.token_hex(12), incarnation=known)
    _save(home, replacement)
    return replacement


def has_new_log(home: Home, node_id: NodeId, replacement: Replacement) -> bool:
    """Whether the new log is in place already."""
    granted = replacement.granted
    return granted > 0 and _voter_at(home.raft) == voter_id(node_id, granted)


def put_new_log(
    home: Home, node_id: NodeId, replacement: Replacement, granted: int, *, now: datetime
) -> None:
    """Put an empty log of the granted incarnation in place, the damaged one aside; blocks."""
    _save(home, replace(replacement, granted=granted))
    put_log(
        home,
        lambda disk: create_store(disk, voter_id(node_id, granted), []),
        aside=DAMAGED_LOG_PREFIX,
        now=now,
    )
    forget_replacement(home)


def put_log(
    home: Home, make: Callable[[DirectoryDisk], None], *, aside: str, now: datetime
) -> None:
    """Set the present log aside, and put a new one in its place; blocks.

    `make` creates the new store on an empty disk; durable, its voter's name last. The present log
    is renamed to `aside` and the time.
    """
    shutil.rmtree(home.raft_new, ignore_errors=True)
    make(DirectoryDisk(home.raft_new))
    if _holds_files(home.raft):
        kept = home.path / f"{aside}{now:%Y%m%dT%H%M%S.%fZ}"
        home.raft.rename(kept)
        log.warning("log set aside", extra={"path": str(kept)})
    home.raft_new.rename(home.raft)  # Also replaces an empty directory.
    sync_directory(home.path)
    for old in sorted(home.path.glob(f"{aside}*"))[:-DAMAGED_LOGS_MAX]:
        log.warning("older log removed", extra={"path": str(old)})
        shutil.rmtree(old, ignore_errors=True)


def settle_log(home: Home) -> None:
    """Finish what `put_log` had begun, before the log is opened.

    A complete new log is put in place if the old one is already set aside; one that was not
    needed is removed, so that it is never taken for the log later.
    """
    if not home.raft_new.exists():
        return
    if _holds_files(home.raft):
        shutil.rmtree(home.raft_new)
    elif _voter_at(home.raft_new) is not None:
        home.raft_new.rename(home.raft)
        log.warning("new log put in its place", extra={"path": str(home.raft)})
    sync_directory(home.path)


def check_replaced(home: Home, node_id: NodeId) -> None:
    """Before a log is opened, end a replacement whose new log is in place.

    Raises:
        LogDamagedError: It has not come so far: the leader may have replaced the present log,
            whole or not, so that only the new one may be used.
    """
    settle_log(home)
    begun = begun_replacement(home)
    if begun is not None:
        if not has_new_log(home, node_id, begun):
            raise LogDamagedError("its replacement was begun, and has not ended")
        forget_replacement(home)


def _holds_files(directory: Path) -> bool:
    return directory.exists() and any(directory.iterdir())


def forget_replacement(home: Home) -> None:
    """Mark the new log, which is in place, as usable."""
    home.replacement.unlink(missing_ok=True)
    sync_directory(home.replacement.parent)


def _voter_at(directory: Path) -> VoterId | None:
    try:
        return stored_voter(DirectoryDisk(directory))
    except LogDamagedError:
        return None


def _save(home: Home, replacement: Replacement) -> None:
    write_private(home.replacement, json.dumps(asdict(replacement)).encode())

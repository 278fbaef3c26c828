"""A new log takes the place of the present one: the files, right after a crash at any point.

The new one is made whole beside the old one, which is then set aside. A start finds either of them
in its place: where it finds neither, it ends what was begun.

An empty log for a damaged one is the leader's to give. What is asked of it is written down before
it is asked, and what it answers before anything is moved. The note goes once the new log is in its
place, and the new log is not used before that. So whoever starts with a note goes on where it
ended, with the same request: the new incarnation is new each time a log could have been kept under
it.
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
"""Logs set aside that are kept, of each kind; an older one goes for a newer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """What was asked of the leader."""

    request_id: str
    incarnation: int
    """Whose log is damaged; 0 if that could not be read."""
    granted: int = 0
    """The incarnation that the leader gave; 0 before it did."""


def begun_replacement(home: Home) -> Replacement | None:
    """What was begun, and is not known to have ended.

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
    """Write down what is to be asked of the leader."""
    voter = _stored_voter(home) or VoterId("")
    owner, _, incarnation = voter.partition(".")
    known = int(incarnation) if owner == node_id and incarnation.isdigit() else 0
    replacement = Replacement(request_id=secrets.token_hex(12), incarnation=known)
    _save(home, replacement)
    return replacement


def has_new_log(home: Home, node_id: NodeId, replacement: Replacement) -> bool:
    """Whether the new log is in its place already."""
    granted = replacement.granted
    return granted > 0 and _stored_voter(home) == voter_id(node_id, granted)


def put_new_log(
    home: Home, node_id: NodeId, replacement: Replacement, granted: int, *, now: datetime
) -> None:
    """Set the damaged log aside, and put an empty one in its place; blocks.

    Args:
        home: Where.
        node_id: This node.
        replacement: What was asked.
        granted: The incarnation that was answered.
        now: When the damaged log is set aside.
    """
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

    Args:
        home: Where.
        make: Makes the new store on an empty disk; durable, its voter's name last.
        aside: What the present log is called from then on, up to the time.
        now: That time.
    """
    shutil.rmtree(home.raft_new, ignore_errors=True)
    make(DirectoryDisk(home.raft_new))
    if _holds_files(home.raft):
        kept = home.path / f"{aside}{now:%Y%m%dT%H%M%S.%fZ}"
        home.raft.rename(kept)
        log.warning("log set aside", extra={"path": str(kept)})
    home.raft_new.rename(home.raft)  # Also where an empty directory is.
    sync_directory(home.path)
    for old in sorted(home.path.glob(f"{aside}*"))[:-DAMAGED_LOGS_MAX]:
        log.warning("older log removed", extra={"path": str(old)})
        shutil.rmtree(old, ignore_errors=True)


def settle_log(home: Home) -> None:
    """End what `put_log` had begun, before the log is opened.

    A new log that is whole, where the old one is set aside already, takes its place; one that was
    not needed after all goes, so that it is not taken for the log at some later time.
    """
    if not home.raft_new.exists():
        return
    if _holds_files(home.raft):
        shutil.rmtree(home.raft_new)
    elif _voter_at(home.raft_new) is not None:
        home.raft_new.rename(home.raft)
        log.warning("new log put in its place", extra={"path": str(home.raft)})
    sync_directory(home.path)


def _holds_files(directory: Path) -> bool:
    return directory.exists() and any(directory.iterdir())


def forget_replacement(home: Home) -> None:
    """The new log is in its place: it may be used from now on."""
    home.replacement.unlink(missing_ok=True)
    sync_directory(home.replacement.parent)


def _stored_voter(home: Home) -> VoterId | None:
    return _voter_at(home.raft)


def _voter_at(directory: Path) -> VoterId | None:
    try:
        return stored_voter(DirectoryDisk(directory))
    except LogDamagedError:
        return None


def _save(home: Home, replacement: Replacement) -> None:
    write_private(home.replacement, json.dumps(asdict(replacement)).encode())

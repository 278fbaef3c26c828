"""Guards to take out, so that it is seen that the simulation finds what they are for."""

from collections.abc import Callable
from typing import Any, Final
from unittest.mock import patch

from ipfs_cluster_node.adapters.raft import elections
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.guarded.follower import Follower
from ipfs_cluster_node.adapters.raft.guarded.state import SyncObjState
from scripts.lib.sim.disk import MemoryDisk


def _no_sync(_disk: MemoryDisk, _name: str) -> None:
    """A disk that says that it synced."""


def _admit_all(*_: object) -> None:
    """Take any log for the one that it was."""


def _strip_nothing(self: Follower, message: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    last = message["entries"][-1][1] if message["entries"] else message["prevLogIdx"]
    agrees = self._journal.term_at(message["prevLogIdx"]) == message["prevLogTerm"]
    return message, last if agrees else None


BREAKS: Final[dict[str, Callable[[], Any]]] = {
    "lying-disk": lambda: patch.object(MemoryDisk, "sync", _no_sync),
    "blind-append": lambda: patch.object(Follower, "_strip", _strip_nothing),
    "long-lease": lambda: patch.object(elections, "LEASE_SHARE", 3.0),
    "two-changes": lambda: patch.object(SyncObjState, "can_change_voters", True),
    "old-copy": lambda: patch.multiple(Engine, admit=_admit_all, _check_own_mark=_admit_all),
}
"""Name to a context in which the guard is gone."""

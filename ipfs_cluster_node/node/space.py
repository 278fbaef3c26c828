"""The free space on a node's disk, and the part that is reserved for the log."""

import os
from pathlib import Path
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.storage import LOG_ONLY_SHARE, reserve_bytes

MIB: Final = 2**20
TASKS_ROOM_BYTES_MIN: Final = MIB
"""With less room for files, a worker takes no tasks: their inputs would not fit."""


class DiskSpace:
    """Asks the system each time, since others write to the disk too."""

    def __init__(self, path: Path, log_reserve_bytes: int) -> None:
        """Watch the disk of `path`; reserve this much for the log, less on a small disk."""
        self._path = path
        self._configured_bytes = log_reserve_bytes

    def free_and_reserve(self) -> tuple[int, int]:
        """Free bytes, and how many of them are reserved for the log."""
        found = os.statvfs(self._path)
        total = found.f_blocks * found.f_frsize
        return found.f_bavail * found.f_frsize, reserve_bytes(self._configured_bytes, total)

    @property
    def room_bytes(self) -> int:
        """Bytes that files may still use."""
        free, reserve = self.free_and_reserve()
        return max(0, free - reserve)

    @property
    def has_room_for_tasks(self) -> bool:
        """Whether a worker may take tasks, which write inputs and results to the disk."""
        return self.room_bytes >= TASKS_ROOM_BYTES_MIN

    @property
    def has_room_for_audit(self) -> bool:
        """Whether the audit log, which is bounded, may still be written."""
        free, reserve = self.free_and_reserve()
        return free >= LOG_ONLY_SHARE * reserve

    def require(self, size_bytes: int) -> None:
        """Check that a file, or a part of it, may be stored.

        Raises:
            ClusterError: STORAGE_FULL, naming what is free and what is kept.
        """
        free, reserve = self.free_and_reserve()
        if free - size_bytes < reserve:
            raise ClusterError(
                Reason.STORAGE_FULL,
                f"the disk of this node has {free / MIB:.1f} MiB free, of which "
                f"{reserve / MIB:.1f} MiB are kept for its log (storage.log_reserve); free some "
                "space and send it again",
            )

"""Temporary disk errors: which they are, what callers are told, when writing is tried again.

After a write or a sync that failed it is unknown what is on disk: the system may regard pages as
written that are not, and read them back as if they were. So a replica never goes on with the log
that it has in memory. It opens the store again as at a start, which checks every byte, rewrites
what was not known to be synced, and requires all that was acknowledged to be there.
"""

import errno
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
RETRY_SECONDS_MIN: Final = 1.0
"""The first pause before writing is tried again. It doubles after each failure."""
RETRY_SECONDS_MAX: Final = 15.0
"""The longest pause before writing is tried again."""
STEADY_SECONDS: Final = 60.0
"""An outage that begins sooner after the last one continues with its pauses."""
PROBE_NAME: Final = "probe"
PROBE_BYTES: Final = 1024 * 1024
"""Space that must be free before the log is written again; a few bytes would not last."""
SNAPSHOT_RETRY_SECONDS: Final = 30.0
"""Pause before a snapshot that had no room is tried again; the log goes on without it."""


def is_temporary(error: BaseException) -> bool:
    """Whether writing may work again later. Not after EIO: what was written may be lost."""
    return isinstance(error, OSError) and error.errno in FULL | NO_DESCRIPTORS


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the log can't be written."""

    cause: BaseException
    since: float
    """By the clock of consensus."""

    def error(self) -> ClusterError:
        """The error for callers; a new one each time, since raising one changes it."""
        if not is_temporary(self.cause):
            return ClusterError(
                Reason.LOG_STORAGE_FAILED,
                f"this node's log can't be written ({self.cause}); repair its disk, and restart "
                "the node; ask another master meanwhile",
            )
        full = isinstance(self.cause, OSError) and self.cause.errno in FULL
        what, way_out = (
            ("its disk is full", "free some space")
            if full
            else ("no file descriptor is left", "close connections, or raise the limit of them")
        )
        return ClusterError(
            Reason.LOG_STORAGE_FAILED,
            f"this node's log can't be written: {what}; {way_out}: the node then continues by "
            "itself; ask another master meanwhile",
            retry_after=timedelta(seconds=RETRY_SECONDS_MIN),
        )


def next_pause(pause: float) -> float:
    """How long to wait after a failure that followed a pause of `pause` seconds."""
    return min(2 * pause, RETRY_SECONDS_MAX)


def first_pause(last_pause: float, *, steady_seconds: float) -> float:
    """How long to wait when an outage begins, `steady_seconds` after the last one ended."""
    return RETRY_SECONDS_MIN if steady_seconds >= STEADY_SECONDS else next_pause(last_pause)

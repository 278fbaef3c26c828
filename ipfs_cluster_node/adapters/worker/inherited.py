"""Properties that forked processes inherit, and that any process of the user can change.

Source: prlimit(2), setpriority(2), sched_setaffinity(2), sched_setattr(2), ioprio_set(2), proc(5).
"""

import os
import resource
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker import linux

LIMITS: Final = tuple(
    sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
)


def inherited() -> Any:
    """The inherited properties of this process, to be compared; raises OSError."""
    return (
        [resource.getrlimit(each) for each in LIMITS],
        os.getpriority(os.PRIO_PROCESS, 0),
        *_scheduling(),
    )


def inherited_with_files() -> Any:
    """The same, with those that must be read from files; raises OSError."""
    score = Path("/proc/self/oom_score_adj")
    return inherited(), score.read_bytes() if score.exists() else b""


def lower(limit: int, bound: int) -> None:
    """Lower a limit of this process to `bound`, unless it is already lower."""
    soft, hard = (
        bound if each == resource.RLIM_INFINITY else min(each, bound)
        for each in resource.getrlimit(limit)
    )
    resource.setrlimit(limit, (soft, hard))


def _scheduling() -> tuple[Any, ...]:
    if not hasattr(os, "sched_getaffinity"):
        return ()
    return (
        os.sched_getaffinity(0),
        os.sched_getscheduler(0),
        os.sched_getparam(0).sched_priority,
        linux.io_priority(),
    )

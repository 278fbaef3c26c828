"""The clock of this machine, for entry points alone: they pass it on."""

import time
from functools import partial
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock

BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


SYSTEM_CLOCK: Final = Clock(
    wall_ms=_wall_ms, monotonic=time.monotonic, boottime=partial(time.clock_gettime, BOOT_CLOCK)
)

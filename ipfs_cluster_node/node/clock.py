"""The clocks of the shell. The core never asks; it is told."""

import time


def now_ms() -> int:
    """Wall clock in milliseconds since 1970 (UTC): for records that people read."""
    return time.time_ns() // 1_000_000


def monotonic() -> float:
    """Seconds that only go forward: for leases and waits."""
    return time.monotonic()

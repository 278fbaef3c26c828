"""The clocks of the shell. The core never reads one; it is given the time."""

import time
from collections.abc import Callable
from datetime import UTC, datetime


def _system_ms() -> int:
    return time.time_ns() // 1_000_000


_now_ms: Callable[[], int] = _system_ms
_monotonic: Callable[[], float] = time.monotonic


def now_ms() -> int:
    """Wall clock in milliseconds since 1970 (UTC): for records that people read."""
    return _now_ms()


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.fromtimestamp(_now_ms() / 1000, UTC)


def monotonic() -> float:
    """Seconds that only go forward: for leases and waits."""
    return _monotonic()


def use(
    *, monotonic: Callable[[], float] = time.monotonic, now_ms: Callable[[], int] = _system_ms
) -> None:
    """Replace the clocks, by the system's if none are given: tests have their own."""
    global _monotonic, _now_ms  # As in adapters/raft/clock.py.
    _monotonic, _now_ms = monotonic, now_ms

"""The clock that is passed to whatever reads the time. The core is given times instead."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How to read the time. A process makes one; a simulation makes one for each node."""

    wall_ms: Callable[[], int]
    """Milliseconds since 1970 (UTC), by a clock that may be set: for records and signatures."""
    monotonic: Callable[[], float]
    """Seconds that only go forward: for leases and waits."""
    boottime: Callable[[], float]
    """Seconds that only go forward, and count while the machine sleeps: for consensus."""

    def wall(self) -> datetime:
        """The wall clock."""
        return datetime.fromtimestamp(self.wall_ms() / 1000, UTC)

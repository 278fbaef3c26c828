"""How long writes of the log take: whether the disk is slow."""

from collections import deque
from typing import Final

SLOW_WRITE_SECONDS: Final = 0.1
"""From here on a write of the log is slow; with its sync it usually takes a few milliseconds."""
SLOW_SHARE_MAX: Final = 0.12
"""Share of the window that may be spent in slow writes before the disk counts as slow."""
WINDOW_SECONDS: Final = 5.0


class WriteLatency:
    """The slow writes of the last `WINDOW_SECONDS`, including the one that runs."""

    def __init__(self) -> None:
        self._slow: deque[tuple[float, float]] = deque()
        """Begin and end, in seconds of a monotonic clock."""
        self._began: float | None = None

    def began(self, now: float) -> None:
        """Note that a write begins."""
        self._began = now

    def ended(self, now: float) -> None:
        """Note that the write is durable."""
        if self._began is not None and now - self._began >= SLOW_WRITE_SECONDS:
            self._slow.append((self._began, now))
            self._forget(now)
        self._began = None

    def under_way(self, now: float) -> float:
        """For how many seconds the current write has been running; 0 if there is none."""
        return 0.0 if self._began is None else now - self._began

    def slowest(self, now: float) -> float:
        """Seconds that the slowest write took, if the disk is slow now; else 0."""
        self._forget(now)
        writes = list(self._slow)
        if self._began is not None and now - self._began >= SLOW_WRITE_SECONDS:
            writes.append((self._began, now))
        since = now - WINDOW_SECONDS
        slow_seconds = sum(end - max(begin, since) for begin, end in writes)
        if slow_seconds <= SLOW_SHARE_MAX * WINDOW_SECONDS:
            return 0.0
        return max(end - begin for begin, end in writes)

    def _forget(self, now: float) -> None:
        while self._slow and self._slow[0][1] <= now - WINDOW_SECONDS:
            self._slow.popleft()

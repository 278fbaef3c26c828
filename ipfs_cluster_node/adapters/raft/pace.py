"""How long writes of the log take, to tell a slow disk."""

from collections import deque
from typing import Final

SLOW_WRITE_SECONDS: Final = 0.1
"""A write of the log that takes so long is slow; with its sync it takes a few milliseconds."""
SLOW_SHARE_MAX: Final = 0.12
"""Of the window: so much of it spent in slow writes is more than a passing hitch."""
WINDOW_SECONDS: Final = 5.0


class WritePace:
    """The slow writes of the last `WINDOW_SECONDS`, the one under way included."""

    def __init__(self) -> None:
        """Nothing was written yet."""
        self._slow: deque[tuple[float, float]] = deque()
        """Begin and end, in seconds of a monotonic clock."""
        self._began: float | None = None

    def began(self, now: float) -> None:
        """A write begins."""
        self._began = now

    def ended(self, now: float) -> None:
        """It is durable."""
        if self._began is not None and now - self._began >= SLOW_WRITE_SECONDS:
            self._slow.append((self._began, now))
            self._forget(now)
        self._began = None

    def under_way(self, now: float) -> float:
        """For how many seconds the present write has gone on; 0 if there is none."""
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

"""Measures event loop pauses, so that they are not taken for the silence of other nodes."""

import asyncio
from collections import deque
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.core.listening import ListenedTime
from ipfs_cluster_node.v1 import health_pb2 as pb

STEP_SECONDS: Final = 0.02
"""Between two reads of the clock. Each costs some 20 us: 0.1 % of a core."""
WINDOW_SECONDS: Final = 60.0
"""How long a pause is remembered."""
DEGRADED_SECONDS: Final = 0.5
"""A pause of this length is reported: half of the least election timeout is at risk."""


class LoopGaps:
    """Measures pauses: by how much a sleep exceeds its length."""

    def __init__(self, *, clock: Clock) -> None:
        """Begin now; `run` measures."""
        self._clock = clock
        self._time = ListenedTime(self._clock.monotonic(), 0.0)
        self._longest: deque[tuple[float, float]] = deque()
        """(when, seconds): each is longer than all after it, so that the first is the longest."""

    def listened_seconds(self) -> float:
        """Seconds in which this node could hear others; from an arbitrary beginning."""
        return self._time.at(self._clock.monotonic())

    def longest_seconds(self) -> float:
        """The longest pause of the last `WINDOW_SECONDS`, including one in progress."""
        moment = self._clock.monotonic()
        self._forget(moment)
        under_way = max(0.0, moment - self._time.moment - STEP_SECONDS)
        return max(under_way, self._longest[0][1] if self._longest else 0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        self._time = ListenedTime(self._clock.monotonic(), self._time.listened)
        while True:
            await asyncio.sleep(STEP_SECONDS)
            self._step(self._clock.monotonic())

    def _step(self, moment: float) -> None:
        gap = max(0.0, moment - self._time.moment - STEP_SECONDS)
        self._time = self._time.after(moment)
        while self._longest and self._longest[-1][1] <= gap:
            self._longest.pop()
        self._longest.append((moment, gap))
        self._forget(moment)

    def _forget(self, moment: float) -> None:
        while self._longest and self._longest[0][0] < moment - WINDOW_SECONDS:
            self._longest.popleft()

    def check(self) -> pb.HealthCheck:
        """The health check of the event loop."""
        seconds = self.longest_seconds()
        if seconds < DEGRADED_SECONDS:
            detail = f"it stood still for {seconds * 1000:.0f} ms at most in the last minute"
        else:
            detail = (
                f"it stood still for {seconds:.1f} s in the last minute; see what else keeps the "
                "processor busy, or whether the machine was stopped"
            )
        return pb.HealthCheck(
            name="event_loop", ok=True, degraded=seconds >= DEGRADED_SECONDS, detail=detail
        )

"""Rate limits per address."""

from collections import OrderedDict
from typing import Final

ADDRESSES_MAX: Final = 10_000
"""Remembered addresses; the least recently seen are dropped first."""


class RateLimit:
    """A token bucket per address: `burst` at once, then `per_second`."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By address, the remaining tokens and their time in seconds."""

    def take(self, address: str, now: float) -> float:
        """Take a token at `now`, in monotonic seconds; returns 0.0, or the seconds to wait."""
        left, since = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._per_second
        self._buckets[address] = (left - 1.0 if wait == 0.0 else left, now)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return wait

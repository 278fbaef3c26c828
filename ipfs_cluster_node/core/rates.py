"""How often one address may knock."""

from collections import OrderedDict
from typing import Final

ADDRESSES_MAX: Final = 10_000
"""Addresses that are remembered; those that knocked longest ago are forgotten first."""


class RateLimit:
    """A bucket for each address: `burst` at once, then `per_second`."""

    def __init__(self, *, burst: int, per_second: float) -> None:
        """Start with full buckets."""
        self._burst = float(burst)
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> what was left, and when (seconds)."""

    def take(self, address: str, now: float) -> float:
        """Knock; returns 0.0 if it is let through, else in how many seconds the next one is.

        Args:
            address: Who knocks.
            now: Seconds, of a clock that does not go back.
        """
        left, since = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self._per_second
        self._buckets[address] = (left - 1.0 if wait == 0.0 else left, now)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return wait

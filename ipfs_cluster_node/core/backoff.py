"""Back-off for workers that hand attempts back: for how long they get no others. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import AttemptOutcome

BACKOFF_SECONDS: Final = 1.0
"""The first back-off after an attempt was handed back; other workers get the attempt meanwhile."""
BACKOFF_SECONDS_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """The time until which a worker gets no attempts."""

    until: float = 0.0
    seconds: float = 0.0
    """Length of the latest back-off; 0 once the worker has finished an attempt since."""


def backoff_after(before: Backoff, outcomes: Iterable[AttemptOutcome], now: float) -> Backoff:
    """The back-off of a worker after these outcomes.

    It is twice as long as the previous one if all attempts since then were handed back. Those that
    are handed back during a back-off were assigned before it, and do not make it longer.
    """
    until, seconds = before.until, before.seconds
    came_back = False
    for outcome in outcomes:
        if outcome.failure is not None and outcome.failure.reason is Reason.WORKER_LOST:
            came_back = True
        else:
            seconds = 0.0
    if came_back and now >= until:
        seconds = min(2 * seconds, BACKOFF_SECONDS_MAX) or BACKOFF_SECONDS
        until = now + seconds
    return Backoff(until, seconds)

"""For how long a worker that gives attempts back is given no others. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import AttemptOutcome

HAND_BACK_REST_SECONDS: Final = 1.0
"""After an attempt that came back; others get it meanwhile."""
HAND_BACK_REST_SECONDS_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rest:
    """Until when a worker is given nothing."""

    until: float = 0.0
    seconds: float = 0.0
    """How long the latest rest is; 0 once an attempt has ended at the worker since."""


def rest_after(rest: Rest, outcomes: Iterable[AttemptOutcome], now: float) -> Rest:
    """The rest of a worker after these outcomes of attempts that it had.

    Twice as long as the one before if nothing but attempts given back came since. What comes back
    during a rest was given before it, and does not make it longer.
    """
    until, seconds = rest.until, rest.seconds
    came_back = False
    for outcome in outcomes:
        if outcome.failure is not None and outcome.failure.reason is Reason.WORKER_LOST:
            came_back = True
        else:
            seconds = 0.0
    if came_back and now >= until:
        seconds = min(2 * seconds, HAND_BACK_REST_SECONDS_MAX) or HAND_BACK_REST_SECONDS
        until = now + seconds
    return Rest(until, seconds)

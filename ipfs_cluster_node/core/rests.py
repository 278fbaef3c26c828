"""How long a worker that hands attempts back gets no others. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import AttemptOutcome

HAND_BACK_REST_SECONDS: Final = 1.0
"""Rest after an attempt was handed back; other workers get it meanwhile."""
HAND_BACK_REST_SECONDS_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rest:
    """The time until which a worker gets no attempts."""

    until: float = 0.0
    seconds: float = 0.0
    """Length of the latest rest; 0 once the worker has finished an attempt since."""


def rest_after(rest: Rest, outcomes: Iterable[AttemptOutcome], now: float) -> Rest:
    """The rest of a worker after these outcomes.

    Twice as long as the previous one if only handed-back attempts came since. Attempts handed back
    during a rest were assigned before it, and do not make it longer.
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

"""The time during which this node could hear others, by which silence is measured.

A blocked process (a stopped machine, a full core, one long computation) hears nothing, and must not
mistake that for the others' silence.
"""

from dataclasses import dataclass
from typing import Final

LISTENED_STEP_SECONDS_MAX: Final = 0.25
"""The most that one step of a node's loop adds; the rest of a longer step is a gap."""


@dataclass(frozen=True, slots=True)
class ListenedTime:
    """How long a node has listened, as of a moment; both in seconds.

    It never runs ahead of the given clock, and never goes back.
    """

    moment: float = 0.0
    listened: float = 0.0

    def at(self, now: float) -> float:
        """Seconds listened until `now`, which is at most one step after `moment`."""
        return self.listened + min(max(0.0, now - self.moment), LISTENED_STEP_SECONDS_MAX)

    def after(self, now: float) -> "ListenedTime":
        """The same after a step that ended at `now`."""
        return ListenedTime(now, self.at(now))

"""Whether this node's wall clock is right, by those of the others.

A clock that is a day ahead signs certificates from tomorrow, which nobody takes today. No clock can
tell that of itself, so masters compare theirs. What is compared is how far each wall clock is ahead
of this machine's boot clock, which no setting moves: a sample stays true when this node's own wall
clock jumps later, also where no other node can be reached any more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ipfs_cluster_node.core.ids import NodeId

CLOCK_DIFFERENCE_MS_MAX: Final = 60_000
"""How far two clocks may be apart and still agree. Certificates begin five minutes early."""
SAMPLE_AGE_MS_MAX: Final = 24 * 3_600_000
"""For how long a comparison counts."""
DRIFT_MS_PER_HOUR_MAX: Final = 720
"""200 parts in a million: how much two quartz clocks may go apart after they were compared."""
SETTLE_MS: Final = 3_600_000
"""How long a clock that jumped must go on steadily before a node that nobody can tell better takes
it for right."""

START_MS: Final = 600_000
"""How long after a start a jump is likely to be NTP's, that sets right what the machine began with:
what the clock said at the start is weak evidence then,"""
START_SETTLE_MS: Final = 60_000
"""and so long of steady time is enough, instead of `SETTLE_MS`."""


class Verdict(StrEnum):
    """What is known of this node's clock."""

    TRUSTED = "trusted"
    """A majority of the voters agree with it, or there is nobody to ask and it did not jump."""
    OFF = "off"
    """A majority of the voters agree with one another, and not with it."""
    DISPUTED = "disputed"
    """Some voter's clock says otherwise, and no majority settles it."""
    UNKNOWN = "unknown"
    """Too few clocks were compared yet."""
    JUMPED = "jumped"
    """Nobody to ask, and it was set while the node ran."""


@dataclass(frozen=True, slots=True)
class ClockSample:
    """Another node's wall clock, compared with this machine's boot clock."""

    offset_ms: float
    """How far it is ahead of the boot clock."""
    error_ms: float
    """How wrong that can be: half of the round trip."""
    at_ms: float
    """When, by the boot clock."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What this node knows of its clock."""

    verdict: Verdict
    ahead_ms: float = 0.0
    """How far it is ahead of what it should be (behind, if negative), as far as that is known."""
    agreeing: frozenset[NodeId] = frozenset()
    """Voters whose clocks agree with the majority's."""


def sample_of(*, wall_ms: float, sent_ms: float, received_ms: float) -> ClockSample:
    """Compare a wall clock that was read between two times of the boot clock."""
    half = (received_ms - sent_ms) / 2
    return ClockSample(wall_ms - sent_ms - half, half, received_ms)


def judge_clock(
    own_offset_ms: float,
    samples: Mapping[NodeId, ClockSample],
    *,
    voter_count: int,
    votes: bool,
    now_ms: float,
) -> Judgement:
    """Judge this node's clock by what a majority of the voters shows.

    Args:
        own_offset_ms: How far its wall clock is ahead of its boot clock now.
        samples: Of other voters.
        voter_count: This node included, if it votes.
        votes: Whether its own clock counts among them.
        now_ms: The boot clock.
    """
    majority = voter_count // 2 + 1
    found: list[tuple[float, float, NodeId]] = []
    """How far this clock is ahead of the other's, how wrong that can be, and whose it is."""
    for node_id, sample in samples.items():
        age_ms = now_ms - sample.at_ms
        if age_ms <= SAMPLE_AGE_MS_MAX:
            error_ms = sample.error_ms + DRIFT_MS_PER_HOUR_MAX * age_ms / 3_600_000
            found.append((own_offset_ms - sample.offset_ms, error_ms, node_id))
    agreeing = [(a, e, n) for a, e, n in found if abs(a) - e <= CLOCK_DIFFERENCE_MS_MAX]
    if votes + len(agreeing) >= majority:
        return Judgement(Verdict.TRUSTED, agreeing=frozenset(n for _, _, n in agreeing))
    found.sort()
    for first in range(len(found) - majority + 1):
        group = found[first : first + majority]
        spread_ms = group[-1][0] - group[0][0] - group[-1][1] - group[0][1]
        if spread_ms <= CLOCK_DIFFERENCE_MS_MAX:
            nodes = frozenset(n for _, _, n in group)
            return Judgement(Verdict.OFF, _middle([a for a, _, _ in group]), nodes)
    others = [each for each in found if each not in agreeing]
    if others:
        return Judgement(Verdict.DISPUTED, max((a for a, _, _ in others), key=abs))
    return Judgement(Verdict.UNKNOWN)


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


@dataclass(frozen=True, slots=True)
class SteadyClock:
    """Follows a wall clock that nobody can be asked about: a jump of it does not count at once."""

    offset_ms: float
    """How far it is taken to be ahead of the boot clock."""
    jumped_to_ms: float = 0.0
    jumped_at_ms: float | None = None
    started_ms: float = -math.inf
    """When it was first read, by the boot clock."""

    def seen(self, offset_ms: float, now_ms: float) -> "SteadyClock":
        """What becomes of it with another look at the wall clock; small steps are followed."""
        if abs(offset_ms - self.offset_ms) <= CLOCK_DIFFERENCE_MS_MAX:
            return SteadyClock(offset_ms, started_ms=self.started_ms)
        began_ms = self.jumped_at_ms
        if began_ms is None or abs(offset_ms - self.jumped_to_ms) > CLOCK_DIFFERENCE_MS_MAX:
            began_ms = now_ms
        settle_ms = START_SETTLE_MS if began_ms - self.started_ms <= START_MS else SETTLE_MS
        if now_ms - began_ms >= settle_ms:
            return SteadyClock(offset_ms, started_ms=self.started_ms)
        return SteadyClock(self.offset_ms, offset_ms, began_ms, self.started_ms)

    def judge(self) -> Judgement:
        """The judgement of a node that is alone."""
        if self.jumped_at_ms is None:
            return Judgement(Verdict.TRUSTED)
        return Judgement(Verdict.JUMPED, self.jumped_to_ms - self.offset_ms)

"""Whether this node's wall clock is right, compared with the others'.

A clock that is a day ahead signs certificates from tomorrow, which no node accepts today. A clock
can't detect that itself, so masters compare theirs: how far each wall clock is ahead of this
machine's boot clock, which can't be set. A sample stays valid if this node's own wall clock jumps
later, even if no other node can be reached then.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ipfs_cluster_node.core.ids import NodeId

CLOCK_DIFFERENCE_MS_MAX: Final = 60_000
"""How far two clocks may be apart and still agree. Certificates begin five minutes early."""
SAMPLE_AGE_MS_MAX: Final = 24 * 3_600_000
"""How long a comparison is valid."""
DRIFT_MS_PER_HOUR_MAX: Final = 720
"""200 parts per million: how much two quartz clocks may drift apart after a comparison."""
SETTLE_MS: Final = 3_600_000
"""How long a clock must be steady after a jump before a node without peers trusts it."""

START_MS: Final = 600_000
"""How long after a start a jump is probably NTP correcting the machine's initial time: the clock's
reading at the start is weak evidence then,"""
START_SETTLE_MS: Final = 60_000
"""and this much steady time is enough, instead of `SETTLE_MS`."""


class Verdict(StrEnum):
    """What is known of this node's clock."""

    TRUSTED = "trusted"
    """A majority of the voters agree with it, or there is no other voter and it did not jump."""
    OFF = "off"
    """A majority of the voters agree with each other, but not with it."""
    DISPUTED = "disputed"
    """Some voter's clock disagrees, and there is no majority."""
    UNKNOWN = "unknown"
    """Too few clocks were compared yet."""
    JUMPED = "jumped"
    """There is no other voter, and it was set while the node ran."""


@dataclass(frozen=True, slots=True)
class ClockSample:
    """Another node's wall clock, compared with this machine's boot clock."""

    offset_ms: float
    """How far it is ahead of the boot clock."""
    error_ms: float
    """Uncertainty of the offset: half of the round trip."""
    at_ms: float
    """Time of the sample by the boot clock."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What this node knows of its clock."""

    verdict: Verdict
    ahead_ms: float = 0.0
    """Estimate of how far it is ahead of the right time (behind, if negative)."""
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
    """Judge this node's clock by a majority of the voters.

    Args:
        own_offset_ms: How far its wall clock is ahead of its boot clock now.
        samples: Samples of other voters.
        voter_count: The number of voters, including this node if it votes.
        votes: Whether this node votes.
        now_ms: The boot clock.
    """
    majority = voter_count // 2 + 1
    found: list[tuple[float, float, NodeId]] = []
    """How far this clock is ahead of another, the uncertainty, and that one's node."""
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
            return Judgement(Verdict.OFF, group[len(group) // 2][0], nodes)
    others = [each for each in found if each not in agreeing]
    if others:
        return Judgement(Verdict.DISPUTED, max((a for a, _, _ in others), key=abs))
    return Judgement(Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class SteadyClock:
    """Follows the wall clock of a node without peers: a jump is not trusted at once."""

    offset_ms: float
    """The trusted offset from the boot clock."""
    jumped_to_ms: float = 0.0
    jumped_at_ms: float | None = None
    started_ms: float = -math.inf
    """When it was first read, by the boot clock."""

    def seen(self, offset_ms: float, now_ms: float) -> "SteadyClock":
        """The result of another reading of the wall clock; small steps are followed."""
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
        """The judgement of a node without peers."""
        if self.jumped_at_ms is None:
            return Judgement(Verdict.TRUSTED)
        return Judgement(Verdict.JUMPED, self.jumped_to_ms - self.offset_ms)

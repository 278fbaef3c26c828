"""Who may campaign, who gets a vote, and how long a leader can be sure that it leads.

Three rules, each a pure function of what was heard and when:

- A node that hears no leader first asks whether a candidacy would succeed (pre-vote), so that it
  never raises the term in vain (raft hazard H14).
- A node that heard a leader less than `election_timeout_min` ago votes for nobody, unless that
  leader hands over. Nor does one that has just started, for that time: it may have forgotten.
- So a leader that a majority has heard is the only one for `election_timeout_min` from then. It may
  answer reads for three quarters of that, by its own clock: its lease. Clocks whose rates differ by
  less than a quarter do no harm.

Times are seconds of one node's monotonic clock, which goes on while the machine sleeps.
"""

from collections.abc import Iterable
from typing import Final

from ipfs_cluster_node.core.ids import VoterId

LEASE_SHARE: Final = 0.75
"""Of `election_timeout_min`."""
FOREVER: Final = float("inf")


class Elections:
    """What one node has heard from leaders and voters."""

    def __init__(self, voter: VoterId, *, election_timeout_min: float, now: float) -> None:
        """Begin as if a leader was heard now, since what was heard before the start is unknown."""
        self._voter = voter
        self._timeout = election_timeout_min
        self._heard_at = self._arrived_at = now
        self._round = 0
        self._granted: set[VoterId] = set()
        self._confirmed_at: dict[VoterId, float] = {}
        self._handed_over = False

    # As a follower.

    def heard_leader(self, now: float) -> None:
        """Note that a leader of this term or a later one was heard."""
        self._heard_at = now
        self._granted.clear()

    def hears_leader(self, now: float) -> bool:
        """Whether a leader was heard so recently that nobody else gets a vote."""
        return self.silence(now) < self._timeout

    def leader_arrived(self, now: float) -> None:
        """Note that a message of the leader has come; it may wait for this node's disk."""
        self._arrived_at = now

    def unheard(self, now: float) -> float:
        """Seconds since anything came from a leader, whether handled or not."""
        return now - max(self._heard_at, self._arrived_at)

    def silence(self, now: float) -> float:
        """Seconds since a leader's message was handled."""
        return now - self._heard_at

    # As a candidate.

    @property
    def in_pre_vote(self) -> bool:
        """Whether a pre-vote round is open: neither won, nor ended by a leader."""
        return bool(self._granted)

    def begin_pre_vote(self) -> int:
        """Begin a pre-vote round; returns its number."""
        self._round += 1
        self._granted = {self._voter}
        return self._round

    def take_grant(self, sender: VoterId, in_round: int) -> None:
        """Count a voter that would vote for this node, once per round."""
        if in_round == self._round and self._granted:
            self._granted.add(sender)

    def may_campaign(self, voters: frozenset[VoterId]) -> bool:
        """Whether a majority would vote for this node; true at most once per pre-vote round."""
        won = is_majority(self._granted, voters)
        if won:
            self._granted.clear()
        return won

    # As the leader.

    def begin_leading(self) -> None:
        """Begin to lead a new term, with nothing confirmed yet."""
        self._confirmed_at.clear()
        self._handed_over = False

    def hand_over(self) -> None:
        """End this term's lease for good: another node was asked to campaign."""
        self._handed_over = True

    def confirm(self, sender: VoterId, sent_at: float, now: float) -> None:
        """Note that a voter answered a message sent at `sent_at`."""
        if sent_at <= now:
            self._confirmed_at[sender] = max(sent_at, self._confirmed_at.get(sender, -FOREVER))

    def lease_until(self, voters: frozenset[VoterId]) -> float:
        """Until when no other node can lead, by this node's clock."""
        if self._handed_over or self._voter not in voters:
            return -FOREVER
        times = [FOREVER]
        times += (self._confirmed_at.get(v, -FOREVER) for v in voters if v != self._voter)
        times.sort(reverse=True)
        # The newest time that a majority has confirmed.
        return times[len(voters) // 2] + LEASE_SHARE * self._timeout


def is_majority(these: Iterable[VoterId], voters: frozenset[VoterId]) -> bool:
    """Whether more than half of the voters are among these."""
    return 2 * len(voters.intersection(these)) > len(voters)

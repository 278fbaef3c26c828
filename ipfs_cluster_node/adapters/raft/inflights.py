"""How much of the log is in flight to each follower."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from ipfs_cluster_node.core.ids import VoterId


@dataclass(slots=True)
class _Inflight:
    """What is in flight to one follower."""

    sent: deque[tuple[int, int]] = field(default_factory=deque)
    """Last index and bytes of each message, oldest first."""
    size_bytes: int = 0
    begun_at_ns: int = 0
    """When the follower last said which entry it needs."""

    def forget(self) -> None:
        self.sent.clear()
        self.size_bytes = 0


class Inflights:
    """What a leader has sent and has not seen acknowledged.

    Without a bound all that a follower lacks would be queued at once. That is more than its
    connection takes, which would break and lose it, again and again.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._of: defaultdict[VoterId, _Inflight] = defaultdict(_Inflight)

    def has_room(self, voter: VoterId) -> bool:
        """Whether more may be sent; the last message may exceed the bound."""
        return self._of[voter].size_bytes < self._bytes_max

    def sent(self, voter: VoterId, last_index: int, size_bytes: int) -> None:
        """Note that entries up to an index were sent."""
        inflight = self._of[voter]
        inflight.sent.append((last_index, size_bytes))
        inflight.size_bytes += size_bytes

    def acknowledged(self, voter: VoterId, match_index: int) -> None:
        """Note that the follower has all up to an index."""
        inflight = self._of[voter]
        while inflight.sent and inflight.sent[0][0] <= match_index:
            inflight.size_bytes -= inflight.sent.popleft()[1]

    def restart(self, voter: VoterId, *, at_ns: int) -> None:
        """Forget what is in flight: the follower said which entry it needs next."""
        self.forget(voter)
        self._of[voter].begun_at_ns = at_ns

    def is_old(self, voter: VoterId, sent_at_ns: int) -> bool:
        """Whether an append was sent before the follower last said which entry it needs.

        Several were in flight then, and it refuses each of them in the same way.
        """
        return sent_at_ns < self._of[voter].begun_at_ns

    def forget(self, voter: VoterId) -> None:
        """Forget what is in flight: it was lost with its connection."""
        self._of[voter].forget()

    def clear(self) -> None:
        """Forget everything: a new term of leading begins."""
        self._of.clear()

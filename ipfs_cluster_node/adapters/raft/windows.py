"""How much of the log is under way to each follower."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from ipfs_cluster_node.core.ids import VoterId


@dataclass(slots=True)
class _Window:
    """What is under way to one follower."""

    sent: deque[tuple[int, int]] = field(default_factory=deque)
    """Last index and bytes of each message, oldest first."""
    size_bytes: int = 0
    begun_at_ns: int = 0
    """When the follower last said from where it lacks entries."""

    def forget(self) -> None:
        self.sent.clear()
        self.size_bytes = 0


class Windows:
    """What a leader has sent and has not seen acknowledged.

    Without a bound, all that a follower lacks would be queued at once: more than its connection
    takes, which is then given up with everything on it, again and again.
    """

    def __init__(self, bytes_max: int) -> None:
        """Let so much be under way to each follower."""
        self._bytes_max = bytes_max
        self._of: defaultdict[VoterId, _Window] = defaultdict(_Window)

    def has_room(self, voter: VoterId) -> bool:
        """Whether more may be sent; the last message may go beyond the bound."""
        return self._of[voter].size_bytes < self._bytes_max

    def sent(self, voter: VoterId, last_index: int, size_bytes: int) -> None:
        """Entries up to an index were sent."""
        window = self._of[voter]
        window.sent.append((last_index, size_bytes))
        window.size_bytes += size_bytes

    def acknowledged(self, voter: VoterId, match_index: int) -> None:
        """The follower has all up to an index."""
        window = self._of[voter]
        while window.sent and window.sent[0][0] <= match_index:
            window.size_bytes -= window.sent.popleft()[1]

    def begin_anew(self, voter: VoterId, *, at_ns: int) -> None:
        """What is under way counts no more: the follower said from where it lacks entries."""
        self.forget(voter)
        self._of[voter].begun_at_ns = at_ns

    def is_old(self, voter: VoterId, sent_at_ns: int) -> bool:
        """Whether an append went before the follower's last word on where to begin.

        Several were under way then, each of which it refuses in the same way.
        """
        return sent_at_ns < self._of[voter].begun_at_ns

    def forget(self, voter: VoterId) -> None:
        """What is under way is lost with its connection."""
        self._of[voter].forget()

    def clear(self) -> None:
        """Another term of leading begins."""
        self._of.clear()

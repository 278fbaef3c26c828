"""How much of the log is under way to each follower."""

from collections import deque
from typing import Final

from ipfs_cluster_node.core.ids import VoterId

LONG_AGO: Final = 0


class Windows:
    """What a leader has sent and has not seen acknowledged.

    Without a bound, all that a follower lacks would be queued at once: more than its connection
    takes, which is then given up with everything on it, again and again.
    """

    def __init__(self, bytes_max: int) -> None:
        """Let so much be under way to each follower."""
        self._bytes_max = bytes_max
        self._sent: dict[VoterId, deque[tuple[int, int]]] = {}
        self._bytes: dict[VoterId, int] = {}
        self._begun_at_ns: dict[VoterId, int] = {}

    def has_room(self, voter: VoterId) -> bool:
        """Whether more may be sent; the last message may go beyond the bound."""
        return self._bytes.get(voter, 0) < self._bytes_max

    def sent(self, voter: VoterId, last_index: int, size_bytes: int) -> None:
        """Entries up to an index were sent."""
        self._sent.setdefault(voter, deque()).append((last_index, size_bytes))
        self._bytes[voter] = self._bytes.get(voter, 0) + size_bytes

    def acknowledged(self, voter: VoterId, match_index: int) -> None:
        """The follower has all up to an index."""
        sent = self._sent.get(voter)
        while sent and sent[0][0] <= match_index:
            self._bytes[voter] -= sent.popleft()[1]

    def begin_anew(self, voter: VoterId, *, at_ns: int) -> None:
        """What is under way counts no more: the follower said from where it lacks entries."""
        self.forget(voter)
        self._begun_at_ns[voter] = at_ns

    def is_old(self, voter: VoterId, sent_at_ns: int) -> bool:
        """Whether an append went before the follower's last word on where to begin.

        Several were under way then, each of which it refuses in the same way.
        """
        return sent_at_ns < self._begun_at_ns.get(voter, LONG_AGO)

    def forget(self, voter: VoterId) -> None:
        """What is under way is lost with its connection."""
        self._sent.pop(voter, None)
        self._bytes.pop(voter, None)

    def clear(self) -> None:
        """Another term of leading begins."""
        self._sent.clear()
        self._bytes.clear()
        self._begun_at_ns.clear()

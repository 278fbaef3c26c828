"""Invocations that were used, so that none is used twice.

A node forgets them when it stops. So it refuses, for some minutes after a start, what it may have
taken before: an invocation is let in only if it can't have been used earlier than the start.
"""

from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile
from ipfs_cluster_node.core.ucan.tokens import Invocation

USED_MAX: Final = 262_144
"""Most invocations that are remembered: some 60 MB, and 700 a second of the longest-lived."""
USED_PER_HOLDER_MAX: Final = USED_MAX // 4


class UsedInvocations:
    """The invocations that were used and could be used again."""

    def __init__(
        self,
        *,
        since_s: int,
        profile: ValidationProfile,
        used_max: int = USED_MAX,
        used_per_holder_max: int = USED_PER_HOLDER_MAX,
    ) -> None:
        """Begin to remember.

        Args:
            since_s: When this node began to take invocations, in seconds since 1970.
            profile: Its skew, and how long an invocation may live; without such a limit only
                those with an `iat` get in.
            used_max: Most that are remembered.
            used_per_holder_max: Most of one holder, so that none shuts out the others.
        """
        self._since_s = since_s
        self._latest_s = since_s
        self._profile = profile
        self._used_max = used_max
        self._used_per_holder_max = used_per_holder_max
        self._used: set[bytes] = set()
        self._count_by_holder: dict[Did, int] = {}
        self._by_second: dict[int, list[tuple[bytes, Did]]] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._used)

    def use(self, invocation: Invocation, *, holder: Did, now_s: int) -> None:
        """Take `invocation` as used from now on.

        Args:
            invocation: Checked in all other ways.
            holder: Who got the first link of its chain, and has a share: passing it on to others
                makes it no larger.
            now_s: Seconds since 1970. Where a clock goes back, the latest time so far counts.

        Raises:
            UcanError: Replay: it was used, or may have been; InvalidClaim: it never expires.
            ClusterError: OVERLOADED: no room to remember it until it expires.
        """
        self._forget(now_s)
        if invocation.expires_s is None:
            detail = "an invocation that never expires can't be remembered long enough"
            raise UcanError(Refusal.INVALID_CLAIM, detail, cid=invocation.cid)
        # What ended before the latest time may be forgotten already.
        if invocation.expires_s + self._profile.skew_s <= self._latest_s:
            raise UcanError(Refusal.REPLAY, "used already, or too old to tell", cid=invocation.cid)
        if self._may_precede_start(invocation, invocation.expires_s):
            detail = "it may have been used before this node started; sign a new one"
            raise UcanError(Refusal.REPLAY, detail, cid=invocation.cid)
        if invocation.cid.digest in self._used:
            raise UcanError(Refusal.REPLAY, "used already", cid=invocation.cid)
        self._remember(invocation, holder, invocation.expires_s + self._profile.skew_s)

    def _may_precede_start(self, invocation: Invocation, expires_s: int) -> bool:
        lifetime_s = self._profile.invocation_lifetime_s_max
        # Before this it was refused for living too long.
        if lifetime_s is not None and expires_s - lifetime_s >= self._since_s:
            return False
        issued_s, skew_s = invocation.issued_s, self._profile.skew_s
        if issued_s is None or issued_s > self._latest_s + skew_s:
            return True
        return issued_s - skew_s < self._since_s

    def _remember(self, invocation: Invocation, holder: Did, until_s: int) -> None:
        count = self._count_by_holder.get(holder, 0)
        if len(self._used) >= self._used_max or count >= self._used_per_holder_max:
            raise ClusterError(
                Reason.OVERLOADED, "too many signed invocations; send fewer, or shorter-lived ones"
            )
        self._used.add(invocation.cid.digest)
        self._count_by_holder[holder] = count + 1
        self._by_second.setdefault(until_s, []).append((invocation.cid.digest, holder))

    def _forget(self, now_s: int) -> None:
        if now_s <= self._latest_s:
            return
        self._latest_s = now_s
        # At most lifetime + skew seconds are there, so looking at each is cheap once a second.
        for second in [second for second in self._by_second if second <= now_s]:
            for digest, holder in self._by_second.pop(second):
                self._used.discard(digest)
                self._count_by_holder[holder] -= 1
                if not self._count_by_holder[holder]:
                    del self._count_by_holder[holder]

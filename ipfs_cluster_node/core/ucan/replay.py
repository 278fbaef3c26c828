"""Used invocations, so that none is used twice.

A node forgets them when it stops. So for some minutes after a start it refuses those that it may
have seen before: an invocation is accepted only if it can't have been used before the start.
"""

from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile
from ipfs_cluster_node.core.ucan.tokens import Invocation

USED_MAX: Final = 262_144
"""Most remembered invocations: some 60 MB, and 700 a second of the longest-lived."""
USED_PER_HOLDER_MAX: Final = USED_MAX // 4


class UsedInvocations:
    """The used invocations that have not expired."""

    def __init__(
        self,
        *,
        since_s: int,
        profile: ValidationProfile,
        used_max: int = USED_MAX,
        used_per_holder_max: int = USED_PER_HOLDER_MAX,
    ) -> None:
        """Start empty.

        Args:
            since_s: When this node started accepting invocations, in seconds since 1970.
            profile: Clock skew and the lifetime limit of invocations; without a limit only those
                with an `iat` are accepted.
            used_max: Most that are remembered.
            used_per_holder_max: Most of one holder, so that none crowds out the others.
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
        return len(self._used)

    def use(self, invocation: Invocation, *, holder: Did, now_s: int) -> None:
        """Mark `invocation` as used.

        Args:
            invocation: Passed all other checks.
            holder: The audience of its chain's first link, which has a quota: delegating on does
                not increase it.
            now_s: Seconds since 1970. If the clock goes back, the latest time so far applies.

        Raises:
            UcanError: Replay: it was used, or may have been; InvalidClaim: it never expires.
            ClusterError: OVERLOADED: no room to remember it until it expires.
        """
        self._forget(now_s)
        if invocation.expires_s is None:
            detail = "an invocation that never expires can't be remembered long enough"
            raise UcanError(Refusal.INVALID_CLAIM, detail, cid=invocation.cid)
        # Those that expired before the latest time may already be dropped.
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
        # A longer lifetime was refused above.
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
        # There are at most lifetime + skew entries, so scanning all once a second is cheap.
        for second in [second for second in self._by_second if second <= now_s]:
            for digest, holder in self._by_second.pop(second):
                self._used.discard(digest)
                self._count_by_holder[holder] -= 1
                if not self._count_by_holder[holder]:
                    del self._count_by_holder[holder]

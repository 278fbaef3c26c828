"""Delegations and revocations stored by the cluster, so that calls need not carry them.

A token's signature and form are checked before it is stored. Whether a chain allows something is
decided at every call (`core.ucan.chain`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.tables import Notes, Table, TableName

DELEGATIONS_MAX: Final = 10_000
"""Most stored by all clients together; some 5 MB."""
DELEGATIONS_PER_AUDIENCE_MAX: Final = 32
"""Most to one audience, not counting the cluster's own: a call without tokens is judged by all
delegations to its caller."""
DELEGATIONS_PER_PAIR_MAX: Final = 8
"""Most that one client may store for one audience, so that it can't use up the audience's limit."""
LINKS_MAX: Final = 8
"""Longest chain considered."""
DELEGATIONS_PER_PUTTER_MAX: Final = 1000
"""Most stored by one client, so that none fills the table."""
REVOCATIONS_MAX: Final = 100_000
"""Most remembered of clients; none is ever evicted."""
REVOCATIONS_PER_REVOKER_MAX: Final = 10_000
"""Most by one client."""
FORGET_AFTER_S: Final = 120
"""Margin after expiry by which no node accepts the token, even with clock skew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDelegation:
    """A stored delegation."""

    cid: Cid
    token: bytes
    issuer: Did
    audience: Did
    expires_s: int
    """Seconds since 1970."""
    put_at_ms: int = 0
    put_by: str = ""
    """The client that stored it; empty for the cluster itself."""
    command: str = ""
    """Of a client's preset: its command. Empty for others, and in logs older than the field."""


@dataclass(frozen=True, slots=True)
class StoredRevocation:
    """A revoked delegation."""

    cid: Cid
    revoker: Did
    until_s: int
    """How long to remember it, in seconds since 1970."""


class DelegationTable:
    """Stored delegations and revocations, as replicated."""

    def __init__(
        self,
        delegations: Iterable[StoredDelegation] = (),
        revocations: Iterable[StoredRevocation] = (),
        notes: Notes | None = None,
    ) -> None:
        self._stored: Table[Cid, StoredDelegation] = Table(TableName.DELEGATIONS, notes)
        self._by_audience: dict[Did, dict[Cid, StoredDelegation]] = {}
        self._revoked: Table[tuple[Cid, Did], StoredRevocation] = Table(
            TableName.REVOCATIONS, notes
        )
        self._revokers: dict[Cid, frozenset[Did]] = {}
        self._put_counts: Counter[str] = Counter()
        self._revoked_counts: Counter[Did] = Counter()
        self.version = 0
        """Grows with every change, as a key for caches of derived values."""
        for delegation in delegations:
            self._put(delegation)
        for revocation in revocations:
            self._revoke(revocation)

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def revocations(self) -> Mapping[Cid, frozenset[Did]]:
        """The revokers of each revoked delegation."""
        return self._revokers

    def get(self, cid: Cid) -> StoredDelegation | None:
        """The delegation with this CID, if it is stored."""
        return self._stored.get(cid)

    def of_audience(self, audience: Did) -> Iterable[StoredDelegation]:
        """The delegations to an audience."""
        return self._by_audience.get(audience, {}).values()

    def delegations(self) -> tuple[StoredDelegation, ...]:
        """All, the oldest first."""
        return tuple(self._stored.values())

    def revocation_records(self) -> tuple[StoredRevocation, ...]:
        """All, the oldest first."""
        return tuple(self._revoked.values())

    def chain_of(self, audience: Did) -> list[StoredDelegation]:
        """All that may be links of a chain ending at `audience`, in any order."""
        found: dict[Cid, StoredDelegation] = {}
        seen, holders = {audience}, [audience]
        for _ in range(LINKS_MAX):
            links = [link for holder in holders for link in self.of_audience(holder)]
            found.update((link.cid, link) for link in links)
            issuers = dict.fromkeys(link.issuer for link in links if link.issuer not in seen)
            seen.update(issuers)
            holders = list(issuers)
        return list(found.values())

    def full_for(self, delegations: Iterable[StoredDelegation]) -> str:
        """Why these can't be stored; empty if they can."""
        new = {d.cid: d for d in delegations if d.cid not in self._stored}.values()
        # The cluster's own delegations are bounded by the number of members, and must always find
        # room.
        clients = len(self._stored) - self._put_counts[""] + sum(bool(d.put_by) for d in new)
        if clients > DELEGATIONS_MAX and any(d.put_by for d in new):
            return (
                f"the cluster keeps at most {DELEGATIONS_MAX} delegations of clients; wait until "
                "some end, or remove who put many"
            )
        for putter in {d.put_by for d in new} - {""}:
            count = self._put_counts[putter] + sum(d.put_by == putter for d in new)
            if count > DELEGATIONS_PER_PUTTER_MAX:
                return (
                    f"at most {DELEGATIONS_PER_PUTTER_MAX} delegations of one client are kept; "
                    "revoke some, or hand them over instead"
                )
        for audience in sorted({d.audience for d in new if d.put_by}):
            there = (*self.of_audience(audience), *(d for d in new if d.audience == audience))
            putters = Counter(d.put_by for d in there if d.put_by)
            if putters.total() > DELEGATIONS_PER_AUDIENCE_MAX:
                return (
                    f"at most {DELEGATIONS_PER_AUDIENCE_MAX} delegations are kept for {audience}; "
                    "revoke some"
                )
            if max(putters.values()) > DELEGATIONS_PER_PAIR_MAX:
                return (
                    f"at most {DELEGATIONS_PER_PAIR_MAX} delegations of one client are kept for "
                    f"{audience}; revoke some, or delegate more in one"
                )
        return ""

    def put(self, delegations: Iterable[StoredDelegation]) -> None:
        """Store these; `full_for` has passed."""
        for delegation in delegations:
            if delegation.cid not in self._stored:
                self._put(delegation)

    def revocations_full(self, revocation: StoredRevocation, authority: Did) -> str:
        """Why one more can't be remembered; empty if it can, or already is.

        The cluster itself, `authority`, can always revoke: few principals may do so in its name.
        """
        revoker = revocation.revoker
        if revoker == authority or revoker in self._revokers.get(revocation.cid, ()):
            return ""
        if len(self._revoked) - self._revoked_counts[authority] >= REVOCATIONS_MAX:
            return f"{REVOCATIONS_MAX} revocations are remembered; wait until some end"
        if self._revoked_counts[revoker] >= REVOCATIONS_PER_REVOKER_MAX:
            return (
                f"{REVOCATIONS_PER_REVOKER_MAX} revocations by {revoker} are remembered; revoke "
                "what it all came from instead"
            )
        return ""

    def revoke(self, revocation: StoredRevocation) -> None:
        """Remember a revocation, and drop its delegation if the issuer revoked it."""
        self._revoke(revocation)
        stored = self._stored.get(revocation.cid)
        if stored is not None and stored.issuer == revocation.revoker:
            self._drop(stored)

    def forget(self, now_s: int, count_max: int | None = None) -> bool:
        """Drop expired ones, at most `count_max` of each kind; returns whether some may be left."""
        ended = now_s - FORGET_AFTER_S
        delegations = [
            *islice((d for d in self._stored.values() if d.expires_s <= ended), count_max)
        ]
        for delegation in delegations:
            self._drop(delegation)
        revocations = [
            *islice((key for key, r in self._revoked.items() if r.until_s <= ended), count_max)
        ]
        for key in revocations:
            self._revoked.drop(key)
            cid, revoker = key
            self._revoked_counts[revoker] -= 1
            left = self._revokers[cid] - {revoker}
            if left:
                self._revokers[cid] = left
            else:
                del self._revokers[cid]
        return count_max in (len(delegations), len(revocations))

    def forget_member(self, did: Did) -> None:
        """Drop delegations to a removed member, and those that it stored for others."""
        put = [d for d in self._stored.values() if d.put_by == did and d.audience != did]
        for delegation in [*self.of_audience(did), *put]:
            self._drop(delegation)

    def _put(self, delegation: StoredDelegation) -> None:
        self._stored.put(delegation.cid, delegation)
        self._put_counts[delegation.put_by] += 1
        self._by_audience.setdefault(delegation.audience, {})[delegation.cid] = delegation
        self.version += 1

    def _drop(self, delegation: StoredDelegation) -> None:
        self._stored.drop(delegation.cid)
        self._put_counts[delegation.put_by] -= 1
        of_audience = self._by_audience[delegation.audience]
        del of_audience[delegation.cid]
        if not of_audience:
            del self._by_audience[delegation.audience]
        self.version += 1

    def _revoke(self, revocation: StoredRevocation) -> None:
        key = (revocation.cid, revocation.revoker)
        if key not in self._revoked:
            self._revoked_counts[revocation.revoker] += 1
        self._revoked.put_if_new(key, revocation)
        revokers = self._revokers.get(revocation.cid, frozenset())
        self._revokers[revocation.cid] = revokers | {revocation.revoker}
        self.version += 1

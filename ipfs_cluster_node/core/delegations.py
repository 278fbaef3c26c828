"""Delegations and revocations that the cluster keeps, so that a call need not bring them.

A token's signature and form were checked before it came here. Whether a chain of them lets somebody
do something is decided anew at every call (`core.ucan.chain`).
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
"""Most that clients may have kept, all together; some 5 MB."""
DELEGATIONS_PER_AUDIENCE_MAX: Final = 32
"""Most for one audience, what the cluster itself gives it not counted: a call without tokens is
judged by all of its caller's."""
DELEGATIONS_PER_PAIR_MAX: Final = 8
"""Most for one audience that one client may have kept: nobody takes all the room of another."""
LINKS_MAX: Final = 8
"""Longest chain that is looked for."""
DELEGATIONS_PER_PUTTER_MAX: Final = 1000
"""Most that one client may have kept: nobody fills the table for the others."""
REVOCATIONS_MAX: Final = 100_000
"""Most that are remembered of clients; none is ever pushed out."""
REVOCATIONS_PER_REVOKER_MAX: Final = 10_000
"""Most of one client."""
FORGET_AFTER_S: Final = 120
"""Behind its end a token counts no more anywhere, clocks that are off included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDelegation:
    """A delegation that is kept."""

    cid: Cid
    token: bytes
    issuer: Did
    audience: Did
    expires_s: int
    """Seconds since 1970."""
    put_at_ms: int = 0
    put_by: str = ""
    """The client that had it kept; empty for the cluster itself."""


@dataclass(frozen=True, slots=True)
class StoredRevocation:
    """A delegation that holds no more."""

    cid: Cid
    revoker: Did
    until_s: int
    """Until when it must be remembered, in seconds since 1970."""


class DelegationTable:
    """What is kept, as the log has made it."""

    def __init__(
        self,
        delegations: Iterable[StoredDelegation] = (),
        revocations: Iterable[StoredRevocation] = (),
        notes: Notes | None = None,
    ) -> None:
        """Start with these."""
        self._stored: Table[Cid, StoredDelegation] = Table(TableName.DELEGATIONS, notes)
        self._by_audience: dict[Did, dict[Cid, StoredDelegation]] = {}
        self._revoked: Table[tuple[Cid, Did], StoredRevocation] = Table(
            TableName.REVOCATIONS, notes
        )
        self._revokers: dict[Cid, frozenset[Did]] = {}
        self._put_counts: Counter[str] = Counter()
        self._revoked_counts: Counter[Did] = Counter()
        self.version = 0
        """Grows with every change, so that what was concluded from the table can be kept."""
        for delegation in delegations:
            self._put(delegation)
        for revocation in revocations:
            self._revoke(revocation)

    def __len__(self) -> int:
        """How many delegations are kept."""
        return len(self._stored)

    @property
    def revocations(self) -> Mapping[Cid, frozenset[Did]]:
        """A revoked delegation -> who revoked it."""
        return self._revokers

    def get(self, cid: Cid) -> StoredDelegation | None:
        """The delegation of this CID, if it is kept."""
        return self._stored.get(cid)

    def of_audience(self, audience: Did) -> Iterable[StoredDelegation]:
        """What was delegated to somebody."""
        return self._by_audience.get(audience, {}).values()

    def delegations(self) -> tuple[StoredDelegation, ...]:
        """All, the oldest first."""
        return tuple(self._stored.values())

    def revocation_records(self) -> tuple[StoredRevocation, ...]:
        """All, the oldest first."""
        return tuple(self._revoked.values())

    def chain_of(self, audience: Did) -> list[StoredDelegation]:
        """All that may be a link of a chain that ends at `audience`, in any order."""
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
        """Why these can't be kept; empty if they can."""
        new = {d.cid: d for d in delegations if d.cid not in self._stored}.values()
        # What the cluster gives at enrolment and renewal is bounded by its members, and never
        # shut out by what they delegate.
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
        """Keep these; `full_for` has passed."""
        for delegation in delegations:
            if delegation.cid not in self._stored:
                self._put(delegation)

    def revocations_full(self, revocation: StoredRevocation, authority: Did) -> str:
        """Why one more can't be remembered; empty if it can, or is already.

        The cluster itself, `authority`, can always revoke: who may do that in its name is few.
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
        """Remember a revocation, and keep its delegation no more if its issuer revoked it."""
        self._revoke(revocation)
        stored = self._stored.get(revocation.cid)
        if stored is not None and stored.issuer == revocation.revoker:
            self._drop(stored)

    def forget(self, now_s: int, count_max: int | None = None) -> bool:
        """Drop what has ended, at most so many of each kind; returns whether some may be left."""
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
        """Drop what was delegated to one who is gone, and what that one had kept for others."""
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

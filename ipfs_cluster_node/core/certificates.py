"""Issued and revoked certificates, and the cluster's sealed keys.

All of it is replicated through the log. Nothing here opens a key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.tables import Notes, Table, TableName

SERIAL_BYTES_MAX: Final = 20
"""Source: RFC 5280, 4.1.2.2."""
RENEW_EXPIRED_MAX: Final = timedelta(days=30)
"""How long after its expiry a certificate can still be renewed with the identity key."""
CERTIFICATES_MAX: Final = 100_000
"""Most that are remembered; some 20 MB. Beyond it the oldest expired ones are dropped first."""
CERTIFICATES_PER_OWNER_MAX: Final = 64
"""Most unexpired ones of one member: it renews once or twice in their lifetime."""
REPEAT_MS_MAX: Final = 120_000
"""How long a TLS key can get another certificate: the answer with the first may be lost."""
REVOCATIONS_MAX: Final = 20_000
"""Most that are remembered; a member's are dropped at its removal, which implies them."""
FORGET_AFTER_S: Final = 3600
"""Margin after expiry by which no node accepts a certificate, even with clock skew."""


class RotationPhase(StrEnum):
    """The phase of a root rotation."""

    STEADY = "steady"
    SPREADING = "spreading"
    """Every member learns to trust the new root; the old one signs."""
    REISSUING = "reissuing"
    """The new root signs; every member gets a certificate of it. Both are trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """An issued certificate."""

    serial: int
    did: Did
    spki_hash: bytes
    """SHA-256 of the public key (DER SubjectPublicKeyInfo)."""
    not_after_s: int
    """Seconds since 1970 (UTC)."""
    issued_at_ms: int
    epoch: int
    """The authority's epoch when it was issued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRevocation:
    """Revokes one certificate, or every one of a member: one of `serial` and `did` is set."""

    serial: int = 0
    did: Did = Did("")
    until_s: int = 0
    """How long to remember it, in seconds since 1970 (UTC); 0 for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The cluster's keys, sealed, and its roots."""

    version: int = 0
    """Grows with every change, so that of two changes based on one version only one is applied."""
    key_id: str = ""
    ciphertext: bytes = b""
    wraps: tuple[tuple[Did, bytes], ...] = ()
    """The data key, sealed to each master that may sign."""
    recovery_key: bytes = b""
    recovery_wrap: bytes = b""
    roots: tuple[str, ...] = ()
    """Certificates in PEM, the oldest first."""
    signer: int = 0
    """Index of the root that signs."""
    epoch: int = 0
    """Grows whenever every member needs a new certificate or bundle."""
    phase: RotationPhase = RotationPhase.STEADY
    phase_at_ms: int = 0

    @property
    def bundle_pem(self) -> bytes:
        """Every root to trust."""
        return "".join(self.roots).encode()

    def wrap_of(self, did: Did) -> bytes | None:
        """The data key, sealed to one master."""
        return dict(self.wraps).get(did)


class CertificateTable:
    """Issued certificates and revocations, as replicated."""

    def __init__(
        self,
        records: Iterable[CertificateRecord] = (),
        revocations: Iterable[CertificateRevocation] = (),
        authority: Authority | None = None,
        notes: Notes | None = None,
    ) -> None:
        notes = Notes() if notes is None else notes
        self._records: Table[int, CertificateRecord] = Table(TableName.CERTIFICATES, notes)
        self._newest: dict[Did, CertificateRecord] = {}
        self._by_owner: dict[Did, dict[int, CertificateRecord]] = {}
        self._by_end: list[tuple[int, int]] = []
        """A heap of expiry times and serial numbers; may include dropped ones."""
        revoked = TableName.CERTIFICATE_REVOCATIONS
        self._serials: Table[int, CertificateRevocation] = Table(revoked, notes)
        self._dids: Table[Did, CertificateRevocation] = Table(revoked, notes)
        self.authority = authority or Authority()
        self._cluster_touched = notes.of(TableName.CLUSTER)
        self.version = 0
        """Grows with every revocation and removal, as a key for caches of derived values."""
        for record in records:
            self._put(record)
        for revocation in revocations:
            self.revoke(revocation)

    def get(self, serial: int) -> CertificateRecord | None:
        """The certificate of this serial number, if it is remembered."""
        return self._records.get(serial)

    def newest(self, did: Did) -> CertificateRecord | None:
        """A member's latest certificate."""
        return self._newest.get(did)

    def of_owner(self, did: Did) -> tuple[CertificateRecord, ...]:
        """A member's remembered certificates, oldest first."""
        return tuple(self._by_owner.get(did, {}).values())

    def records(self) -> tuple[CertificateRecord, ...]:
        """All, the oldest first."""
        return tuple(self._records.values())

    def revocations(self) -> tuple[CertificateRevocation, ...]:
        """All."""
        return (*self._serials.values(), *self._dids.values())

    def revoked_dids(self) -> tuple[Did, ...]:
        """Members all of whose certificates are revoked."""
        return tuple(self._dids)

    def is_revoked(self, serial: int, did: Did) -> bool:
        """Whether a certificate is revoked."""
        return serial in self._serials or did in self._dids

    def revokes(self, did: object) -> bool:
        """Whether every certificate of this member was revoked."""
        return did in self._dids

    def refuses(self, record: CertificateRecord, now_ms: int) -> Rejected | None:
        """Why a certificate can't be issued; None if it can."""
        if not 0 < record.serial < 1 << (8 * SERIAL_BYTES_MAX - 1):
            return Rejected(Reason.OVERLOADED, "a serial number has 1 to 20 bytes")
        if record.serial in self._records:
            return Rejected(
                Reason.OVERLOADED, "a certificate of this serial number was issued already"
            )
        if record.did in self._dids:
            return Rejected(
                Reason.CERTIFICATE_REVOKED,
                f"every certificate of {record.did} was revoked; join with a new identity",
            )
        owned = self._by_owner.get(record.did, {}).values()
        # Otherwise a stolen TLS key would be usable for longer than its certificate.
        if any(
            r.spki_hash == record.spki_hash and now_ms - r.issued_at_ms > REPEAT_MS_MAX
            for r in owned
        ):
            return Rejected(
                Reason.INVALID_ARGUMENT, "this TLS key had a certificate already; make a new key"
            )
        if sum(r.not_after_s * 1000 > now_ms for r in owned) >= CERTIFICATES_PER_OWNER_MAX:
            return Rejected(
                Reason.OVERLOADED,
                f"at most {CERTIFICATES_PER_OWNER_MAX} certificates of one member are good at a "
                "time; wait until some end",
            )
        return None

    def issue(self, record: CertificateRecord) -> None:
        """Remember a certificate; `refuses` has passed."""
        self._put(record)
        while len(self._records) > CERTIFICATES_MAX:
            _, serial = heappop(self._by_end)
            if serial in self._records:  # It may have been dropped before.
                self._drop(self._records[serial])
        if len(self._by_end) > 2 * CERTIFICATES_MAX:
            self._by_end = [(r.not_after_s, r.serial) for r in self._records.values()]
            heapify(self._by_end)

    def full(self) -> bool:
        """Whether the limit of revocations is reached."""
        return len(self._serials) + len(self._dids) >= REVOCATIONS_MAX

    def forget_member(self, did: Did) -> None:
        """Drop a removed member's revocations: its removal implies them."""
        if did in self._dids:
            self._dids.drop(did)
        for serial in self._by_owner.get(did, {}).keys() & self._serials.keys():
            self._serials.drop(serial)
        self.version += 1

    def set_authority(self, authority: Authority) -> bool:
        """Replace the authority; False if another change came first."""
        if authority.version != self.authority.version + 1:
            return False
        self._take_authority(authority)
        return True

    def begin(self, records: Iterable[CertificateRecord], authority: Authority) -> None:
        """Take the cluster's initial certificates and keys."""
        self._take_authority(authority)
        for record in records:
            self.issue(record)

    def forget(self, now_s: int, count_max: int | None = None) -> bool:
        """Drop expired records: of each member, all but the newest at once.

        At most `count_max` of each kind; returns whether some may be left.
        """
        ended = now_s - FORGET_AFTER_S
        long_ended = now_s - int(RENEW_EXPIRED_MAX.total_seconds())
        ending = (
            record
            for record in self._records.values()
            if record.not_after_s <= ended
            and (record.not_after_s <= long_ended or self._newest.get(record.did) is not record)
        )
        gone = list(islice(ending, count_max))
        for record in gone:
            self._drop(record)
        over = [
            *islice(
                (r for r in self._serials.values() if r.until_s and r.until_s <= long_ended),
                count_max,
            )
        ]
        for revocation in over:
            self._serials.drop(revocation.serial)
            self.version += 1
        return count_max in (len(gone), len(over))

    def _take_authority(self, authority: Authority) -> None:
        if authority != self.authority:
            self.authority = authority
            self._cluster_touched.append("authority")

    def _put(self, record: CertificateRecord) -> None:
        self._records.put(record.serial, record)
        heappush(self._by_end, (record.not_after_s, record.serial))
        self._newest[record.did] = record
        self._by_owner.setdefault(record.did, {})[record.serial] = record

    def _drop(self, record: CertificateRecord) -> None:
        self._records.drop(record.serial)
        of_owner = self._by_owner[record.did]
        del of_owner[record.serial]
        if not of_owner:
            del self._by_owner[record.did]
        if self._newest.get(record.did) is record:
            del self._newest[record.did]

    def revoke(self, revocation: CertificateRevocation) -> None:
        """Remember a revocation."""
        if revocation.did:
            self._dids.put_if_new(revocation.did, revocation)
        else:
            self._serials.put_if_new(revocation.serial, revocation)
        self.version += 1

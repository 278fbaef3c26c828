"""Issues, renews, revokes and rotates certificates. The leader signs once the log allows it."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from ipfs_cluster_node.adapters.keys.certificates import (
    CertificateAuthority,
    pin_of,
    read_certificate,
    record_of,
    renewal_message,
    request_spki,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.delegation import delegate_preset
from ipfs_cluster_node.adapters.keys.sealing import ClusterKeys
from ipfs_cluster_node.cluster.certificates.authority import (
    BY_ITSELF,
    Asked,
    ClusterAuthority,
)
from ipfs_cluster_node.cluster.cluster_clock import ClusterClock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.core.authorization import GRANTS, preset
from ipfs_cluster_node.core.certificates import (
    RENEW_EXPIRED_MAX,
    Authority,
    CertificateRecord,
    CertificateRevocation,
    RotationPhase,
)
from ipfs_cluster_node.core.clocks import Verdict
from ipfs_cluster_node.core.commands import (
    IssueCertificate,
    PutDelegation,
    RevokeCertificate,
    SetAuthority,
)
from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, node_id_of_voter
from ipfs_cluster_node.core.model import Liveness, Principal, Role
from ipfs_cluster_node.core.state import ClusterState

log = logging.getLogger(__name__)

ISSUE_ATTEMPTS_MAX: Final = 3
"""The roots may change between signing and committing."""
ALONE_LIFETIME: Final = timedelta(hours=1)
"""Of a certificate that a master signs for itself."""
TEND_SECONDS: Final = 1.0
HAND_OVER_SECONDS: Final = 10.0
"""Between two attempts to transfer leadership while the leader's clock is off."""
WAITING_SHOWN_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A new certificate."""

    certificate_pem: str
    trust_bundle_pem: str
    enrolment_endpoints: tuple[str, ...]
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Progress of a rotation."""

    authority: Authority
    confirmed_count: int
    waiting: tuple[Did, ...]
    """The first `WAITING_SHOWN_MAX`."""
    waiting_count: int

    @property
    def root_pins(self) -> list[str]:
        """SHA-256 of each root's public key, in hexadecimal."""
        return [pin_of(root.encode()) for root in self.authority.roots]


class Certificates:
    """Issues certificates while this node leads."""

    def __init__(
        self,
        consensus: Consensus,
        authority: ClusterAuthority,
        clock: ClusterClock,
        observations: Observations,
    ) -> None:
        """Sign with the keys that `authority` opens, while `clock` can be trusted."""
        self._clock = clock
        self._next_hand_over = 0.0
        self._consensus = consensus
        self._authority = authority
        self._epochs = observations.epochs

    def check_clock(self) -> None:
        """Check that this node's clock may date a validity; raises CLOCK_OFF."""
        self._clock.check()

    def check(self, did: Did, request_der: bytes, endpoints: tuple[str, ...]) -> None:
        """Check that a certificate could be signed; raises what signing would raise."""
        authority = self._consensus.leader_state().certificates.authority
        ca = self._signer(authority, self._authority.keys(authority))
        hosts = [parse_endpoint(each).host for each in endpoints]
        ca.issue(request_der, did, hosts=hosts, is_node=True, now=self._clock.own.wall())

    def sign_alone(self, request_der: bytes, did: Did, endpoints: tuple[str, ...]) -> bytes | None:
        """Sign this master's own certificate; it enters the log when it is renewed.

        Otherwise masters that were all off for longer than their certificates last could not
        return: none would accept another, so that none could lead and sign.

        Raises:
            ClusterError: CLOCK_OFF, if there is evidence against this clock; AUTHORITY_SEALED.
        """
        authority = self._authority.kept()
        if authority is None:
            return None
        self._clock.check_alone()
        ca = self._authority.keys(authority).cas[authority.signer]
        return ca.issue(
            request_der,
            did,
            hosts=[parse_endpoint(each).host for each in endpoints],
            is_node=True,
            now=self._clock.utc_now(),
            lifetime=ALONE_LIFETIME,
        )

    async def renew(self, did: Did, request_der: bytes) -> Issued:
        """Renew a member's certificate, and a client's preset delegations.

        Raises:
            ClusterError: CALLER_UNKNOWN, CERTIFICATE_REVOKED, PROOF_INVALID, INVALID_ARGUMENT,
                AUTHORITY_SEALED, or that this node does not lead.
        """
        for attempt in range(1, ISSUE_ATTEMPTS_MAX + 1):
            state = self._consensus.leader_state()
            owner = state.members.get(did)
            if owner is None or owner.removed:
                raise ClusterError(
                    Reason.CALLER_UNKNOWN,
                    f"{did} is not a member of this cluster; join with a new identity",
                )
            authority = state.certificates.authority
            keys = self._authority.keys(authority)
            now, now_ms = self._clock.own.wall(), self._clock.own.wall_ms()
            pem = sign_for(state, self._signer(authority, keys), owner, request_der, now=now)
            record = record_of(pem, issued_at_ms=now_ms, epoch=authority.epoch)
            try:
                # Logged before it is handed out, so that every valid certificate can be revoked.
                await self._consensus.propose(IssueCertificate(record=record))
            except ClusterError as error:
                if error.reason is not Reason.AUTHORITY_SEALED or attempt == ISSUE_ATTEMPTS_MAX:
                    raise
                continue
            await self._renew_grants(did, keys, record)
            log.info(
                "certificate issued",
                extra={"did": did, "serial": f"{record.serial:x}", "epoch": record.epoch},
            )
            return Issued(
                certificate_pem=pem.decode(),
                trust_bundle_pem=authority.bundle_pem.decode(),
                enrolment_endpoints=self._consensus.state().members.enrolment_endpoints(),
                epoch=authority.epoch,
            )
        raise AssertionError("the last attempt raises")

    async def renew_current(
        self, certificate_pem: bytes, request_der: bytes, proof: bytes
    ) -> Issued:
        """Renew a member's certificate by its present one and its identity's signature.

        Raises:
            ClusterError: PROOF_INVALID, and as `renew`.
        """
        check_renewal(certificate_pem, request_der, proof, now=self._clock.own.wall())
        return await self.renew(read_certificate(certificate_pem).did, request_der)

    async def renew_expired_certificate(
        self, certificate_pem: bytes, request_der: bytes, proof: bytes
    ) -> Issued:
        """Renew a member's expired certificate by its identity's signature.

        Raises:
            ClusterError: CERTIFICATE_INVALID, CERTIFICATE_REVOKED, PROOF_INVALID, and as `renew`.
        """
        state = self._consensus.leader_state()
        check_renewal(certificate_pem, request_der, proof, now=self._clock.own.wall())
        peer = read_certificate(certificate_pem)
        if state.certificates.is_revoked(peer.serial, peer.did):
            raise ClusterError(
                Reason.CERTIFICATE_REVOKED,
                "the certificate was revoked; have the member removed, join with a new identity",
            )
        known = state.certificates.get(peer.serial)
        keys = self._authority.keys(state.certificates.authority)
        # One that a master signed alone is not in the log; a former root's has no signer here.
        ours = known is not None and known.did == peer.did
        if not ours and not any(ca.signed(certificate_pem) for ca in keys.cas):
            raise ClusterError(
                Reason.CERTIFICATE_INVALID,
                "this cluster did not issue the certificate, or has forgotten it; join again",
            )
        return await self.renew(peer.did, request_der)

    async def revoke(
        self, *, serial: int | None, did: Did | None, caller: Did, request_id: str
    ) -> None:
        """Revoke one certificate, or every certificate of a member."""
        state = self._consensus.leader_state()
        if (serial is None) == (did is None):
            raise invalid_field("serial", "set either it or did")
        if serial is not None:
            record = state.certificates.get(serial)
            until_s = 0 if record is None else record.not_after_s
            revocation = CertificateRevocation(serial=serial, until_s=until_s)
            owner = None if record is None else record.did
        else:
            assert did is not None
            revocation = CertificateRevocation(did=did)
            owner = did
        if owner == caller:
            raise invalid_field("did", "it is your own; let another operator revoke it")
        member = None if owner is None else state.members.get(owner)
        if member is not None and member.role is Role.MASTER and not member.removed:
            raise invalid_field("did", "a master can't be revoked; remove it with `node remove`")
        await self._consensus.propose(
            RevokeCertificate(revocation=revocation), caller=caller, request_id=request_id
        )
        log.warning("certificate revoked", extra={"did": did, "serial": f"{serial or 0:x}"})

    async def rotate(self, *, new: bool, proceed: bool, caller: Did, request_id: str) -> int:
        """Have every node renew, under a new root if `new`; returns the epoch to reach."""
        what = "proceed" if proceed else "root" if new else "certificates"
        async with self._authority.changing:
            return await self._rotate(
                new=new, proceed=proceed, asked=Asked(caller, request_id, what)
            )

    async def _rotate(self, *, new: bool, proceed: bool, asked: Asked) -> int:
        state = self._consensus.leader_state()
        authority = state.certificates.authority
        repeat = SetAuthority(authority=authority, asked=asked.what)
        answer = state.answer_to(asked.caller, asked.request_id, repeat)
        if isinstance(answer, Rejected):
            raise ClusterError(answer.reason, answer.message)
        if answer is not None:
            return authority.epoch
        if authority.phase is not RotationPhase.STEADY:
            if not proceed:
                raise ClusterError(
                    Reason.ROTATION_IN_PROGRESS,
                    f"the root is being rotated already ({authority.phase}); watch it with "
                    "`cert rotate-ca --status`",
                )
            return (await self._advance(state, asked)).epoch
        if proceed:
            raise invalid_field("proceed", "no rotation is under way")
        keys = self._authority.keys(authority)
        if new:
            self._clock.check()  # A new root is dated by it too.
        else:
            changed = replace(authority, version=authority.version + 1, epoch=authority.epoch + 1)
            await self._authority.commit(changed, asked)
            return changed.epoch
        new_root = CertificateAuthority.create(state.cluster_name, self._clock.own.wall())
        both = ClusterKeys((*keys.cas, new_root), keys.authority)
        changed = await self._authority.put(
            state,
            authority,
            both,
            phase=RotationPhase.SPREADING,
            signer=authority.signer,
            asked=asked,
        )
        log.warning("root rotation started", extra={"epoch": changed.epoch})
        return changed.epoch

    def rotation(self) -> Rotation:
        """How far the members have come."""
        state = self._consensus.leader_state()
        authority = state.certificates.authority
        live = _live(state, now_s=self._clock.own.wall_ms() // 1000)
        waiting = tuple(
            member.did for member in live if not self._confirms(state, member, authority.epoch)
        )
        return Rotation(
            authority=authority,
            confirmed_count=len(live) - len(waiting),
            waiting=waiting[:WAITING_SHOWN_MAX],
            waiting_count=len(waiting),
        )

    async def seal_to_masters(self) -> None:
        """Seal the cluster's keys to every master that has registered.

        Raises:
            ClusterError: AUTHORITY_SEALED, if this master can't open them itself.
        """
        await self._authority.tend()

    async def run(self) -> None:
        """Keep the keys sealed to the masters, and advance rotations; until cancelled."""
        said = ""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            self._authority.keep()
            if not self._consensus.is_leader:
                continue
            try:
                await self._hand_over_if_off()
                await self._authority.tend()
                async with self._authority.changing:
                    state = self._consensus.leader_state()
                    # Only during a rotation: `waiting` takes a pass over all members.
                    steady = state.certificates.authority.phase is RotationPhase.STEADY
                    if not steady and not self.rotation().waiting:
                        await self._advance(state)
                said = ""
            except ClusterError as error:
                if error.message != said:
                    log.warning("certificates not maintained", extra={"error": error.message})
                said = error.message

    async def _hand_over_if_off(self) -> None:
        """Transfer leadership to a master whose clock is right: this one can't sign."""
        judged, replica = self._clock.judge(), self._consensus.replica
        if judged.verdict is not Verdict.OFF or replica is None:
            return
        if self._clock.own.monotonic() < self._next_hand_over:
            return
        self._next_hand_over = self._clock.own.monotonic() + HAND_OVER_SECONDS
        log.warning("leadership transferred", extra={"ahead_seconds": judged.ahead_ms / 1000})
        for voter in sorted(replica.voters):
            if node_id_of_voter(voter) not in judged.agreeing:
                continue
            with suppress(ClusterError):  # Another master is tried, or later again.
                await replica.transfer_leadership(voter)
            if not self._consensus.is_leader:
                return

    async def _advance(self, state: ClusterState, asked: Asked = BY_ITSELF) -> Authority:
        authority = state.certificates.authority
        keys = self._authority.keys(authority)
        last = len(keys.cas) - 1
        if authority.phase is RotationPhase.SPREADING:
            changed = await self._authority.put(
                state, authority, keys, phase=RotationPhase.REISSUING, signer=last, asked=asked
            )
        else:
            # No later log entry and no snapshot has the old key.
            newest = ClusterKeys(keys.cas[last:], keys.authority)
            changed = await self._authority.put(
                state, authority, newest, phase=RotationPhase.STEADY, signer=0, asked=asked
            )
        log.warning(
            "root rotation advanced",
            extra={"phase": changed.phase.value, "epoch": changed.epoch},
        )
        return changed

    def _confirms(self, state: ClusterState, member: Principal, epoch: int) -> bool:
        if member.is_node:
            return self._epochs.get(member.node_id, -1) >= epoch
        newest = state.certificates.newest(member.did)
        return newest is None or newest.epoch >= epoch

    def _signer(self, authority: Authority, keys: ClusterKeys) -> CertificateAuthority:
        self._clock.check()
        ca = keys.cas[authority.signer]
        if self._clock.own.wall() < ca.certificate.not_valid_before_utc:
            raise ClusterError(
                Reason.AUTHORITY_SEALED,
                "the leader's clock is behind the cluster's own root; set it right",
            )
        return ca

    async def _renew_grants(self, did: Did, keys: ClusterKeys, record: CertificateRecord) -> None:
        """Issue a client's preset delegations again, until its new certificate ends.

        None for a node, and none that was revoked: revoking a delegation that the cluster itself
        issued ends its command (`ClusterState`).
        """
        client = self._consensus.leader_state().members.get(did)
        if client is None or client.removed or client.grant not in GRANTS:
            return
        commands = preset(client.grant, client.namespace, client.ended_commands)
        if not commands:
            return
        grants = delegate_preset(
            keys.authority,
            did,
            commands,
            expires_s=record.not_after_s,
            at_ms=self._clock.own.wall_ms(),
            seed=f"renewal {did} {record.not_after_s}",
        )
        try:
            await self._consensus.propose(PutDelegation(delegations=tuple(grants)))
        except ClusterError as error:
            if error.reason is not Reason.TOO_MANY_DELEGATIONS:
                raise
            log.warning("grant not renewed", extra={"did": did, "error": error.message})


def sign_for(
    state: ClusterState,
    ca: CertificateAuthority,
    owner: Principal,
    request_der: bytes,
    *,
    now: datetime,
) -> bytes:
    """Sign a certificate with the names in the member's entry.

    Only masters get addresses: a worker chooses its own, and could use them to impersonate a
    master's enrolment port. Every node has its PeerID as a name.
    """
    life = timedelta(milliseconds=state.settings["certificate_lifetime"])
    is_master = owner.role is Role.MASTER
    endpoints = (*owner.endpoints, *owner.enrolment_endpoints) if is_master else ()
    hosts = [parse_endpoint(each).host for each in endpoints]
    return ca.issue(
        request_der, owner.did, hosts=hosts, is_node=owner.is_node, now=now, lifetime=life
    )


def check_renewal(
    certificate_pem: bytes, request_der: bytes, proof: bytes, *, now: datetime
) -> None:
    """Check that the request is the owner's, and not too late after the certificate expired.

    Raises:
        ClusterError: CERTIFICATE_INVALID, PROOF_INVALID, INVALID_ARGUMENT.
    """
    peer = read_certificate(certificate_pem)
    spki = request_spki(request_der)
    if not verify_signature(peer.did, proof, renewal_message(certificate_pem, spki)):
        raise ClusterError(
            Reason.PROOF_INVALID, "the identity did not sign this request; sign it with its key"
        )
    if now - validity_of(certificate_pem)[1] > RENEW_EXPIRED_MAX:
        raise ClusterError(
            Reason.CERTIFICATE_INVALID,
            f"the certificate ended over {RENEW_EXPIRED_MAX.days} days ago; join again",
        )


def _live(state: ClusterState, *, now_s: int) -> list[Principal]:
    nodes = [node for node in state.members.nodes() if node.liveness is Liveness.ALIVE]
    clients = []
    for member in state.members.principals():
        newest = state.certificates.newest(member.did)
        if member.is_node or member.removed or newest is None or newest.not_after_s <= now_s:
            continue
        if not state.certificates.is_revoked(newest.serial, member.did):
            clients.append(member)
    return nodes + clients

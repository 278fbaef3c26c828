"""Certificate operations, and renewal of the client's own once half of its lifetime is over."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import (
    TlsKey,
    make_tls_key,
    renewal_message,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls
from ipfs_cluster_node.client.connection import Connection, new_request_id
from ipfs_cluster_node.codec import views as codecs
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.credentials import (
    ENROLMENT_NAME,
    IDENTITY_NAME,
    Credentials,
    read_credentials,
    read_enrolment,
    write_credentials,
    write_enrolment,
)
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.core.errors import ClusterError, Reason, most_useful
from ipfs_cluster_node.core.views import ListedCertificate, RotationStatus
from ipfs_cluster_node.v1 import certificate_pb2 as pb
from ipfs_cluster_node.v1 import enrolment_pb2
from ipfs_cluster_node.v1.enrolment_pb2_grpc import EnrolmentServiceStub

log = logging.getLogger(__name__)

RENEW_FROM: Final = 0.5
"""Fraction of its lifetime after which a certificate is renewed when used."""
RENEWED_SHARE_MIN: Final = 0.1
"""Fraction of its lifetime within which a process does not renew it again, even if a wrong clock
makes it look old: otherwise it would soon reach the limit of certificates per member."""
RENEW_SECONDS_MAX: Final = 10.0
RETRY_SECONDS: Final = 60.0


class ProfileCertificate:
    """The certificate of a profile."""

    def __init__(
        self, profile: Profile, connection: Connection, kept: Credentials, *, clock: Clock
    ) -> None:
        """Renew `kept`, the profile's credentials, which `connection` presents."""
        tls = ClientTls(kept.ca_pem, kept.certificate_pem, kept.key_pem)
        self._clock = clock
        self._profile = profile
        self._connection = connection
        self._tls = tls
        self._epoch = kept.epoch
        self._directory = profile.certificate.parent
        self._renewing: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        """Held during a renewal: its proof names the certificate presented now."""
        self._next_at = 0.0
        self._new_until = 0.0
        self._written_ns = self._modified_ns()
        self._not_before, self._not_after = validity_of(tls.certificate_pem)

    def keep(self, *, epoch: int = 0) -> None:
        """Renew in the background if it is due; a later call retries after a failure.

        `epoch` is the required certificate epoch, as heard with the last answer.
        """
        if self._renewing is not None and not self._renewing.done():
            return
        now = asyncio.get_running_loop().time()
        if self._modified_ns() != self._written_ns:
            # Another process with this profile has renewed; its roots may be newer as well.
            self._renewing = asyncio.create_task(self._take_up(), name="take-up-certificate")
            return
        due = epoch > self._epoch or (self._past_half() and now >= self._new_until)
        if not due or now < self._next_at:
            return
        self._next_at = now + RETRY_SECONDS
        self._renewing = asyncio.create_task(self._try_to_renew(), name="renew-certificate")

    async def renew_if_expired(self) -> None:
        """Renew before the first call if the certificate has expired.

        Raises:
            ClusterError: As the enrolment port answered.
        """
        if self._is_good():
            return
        try:
            await self.renew()
        except ClusterError as error:
            # The member has enough valid certificates, so this machine's clock is wrong.
            if error.reason is not Reason.OVERLOADED:
                raise
            log.warning("certificate not renewed", extra={"error": error.message})

    async def renew(self) -> None:
        """Get a new certificate, store it and use it.

        Raises:
            ClusterError: It was not issued, or could not be stored.
        """
        async with self._changing:
            await self._renew()
        life = (self._not_after - self._not_before).total_seconds()
        self._new_until = asyncio.get_running_loop().time() + RENEWED_SHARE_MIN * life

    async def _renew(self) -> None:
        path = self._directory / IDENTITY_NAME
        if not path.exists():
            raise ClusterError(
                Reason.CONFIG_INVALID,
                f"{path} is missing, which renews the certificate; restore it, or join "
                "with a new identity in another --home",
            )
        identity = Identity.load(path)
        key = make_tls_key(identity)
        proof = identity.sign(renewal_message(self._tls.certificate_pem, key.spki_der))
        if not self._is_good():
            enrolment = self._directory / ENROLMENT_NAME
            unknown = ClusterError(
                Reason.CERTIFICATE_INVALID,
                "the certificate is not valid now (check this machine's clock), and no enrolment "
                f"port is known to renew it at; write a master's into {enrolment}: "
                '["HOST:PORT"]',
            )
            answer: Any = await renew_expired_certificate(
                read_enrolment(enrolment),
                self._tls,
                key.request_der,
                proof,
                RENEW_SECONDS_MAX,
                unknown,
            )
        else:
            answer = await self._connection.unary(
                pb.RenewCertificateRequest(certificate_request=key.request_der, proof=proof),
                timeout=RENEW_SECONDS_MAX,
            )
        credentials = credentials_in(answer, key)
        profile = self._profile
        await asyncio.to_thread(
            write_credentials, credentials, profile.ca, profile.certificate, profile.key
        )
        write_enrolment(self._directory / ENROLMENT_NAME, answer.enrolment_endpoints)
        await self._use(credentials)

    async def close(self) -> None:
        """Wait for a renewal in progress."""
        if self._renewing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS_MAX):
                    await asyncio.gather(self._renewing, return_exceptions=True)

    async def _use(self, credentials: Credentials) -> None:
        self._written_ns = self._modified_ns()
        self._tls = ClientTls(credentials.ca_pem, credentials.certificate_pem, credentials.key_pem)
        self._epoch = credentials.epoch
        self._not_before, self._not_after = validity_of(self._tls.certificate_pem)
        await self._connection.renew(self._tls)

    async def _take_up(self) -> None:
        profile = self._profile
        try:
            async with self._changing:
                kept = read_credentials(profile.ca, profile.certificate, profile.key)
                await self._use(kept)
        except (ClusterError, OSError) as error:
            log.warning("renewed certificate not taken up", extra={"error": str(error)})

    def _is_good(self) -> bool:
        return self._not_before <= self._clock.wall() <= self._not_after

    def _past_half(self) -> bool:
        half = self._not_before + (self._not_after - self._not_before) * RENEW_FROM
        return self._clock.wall() >= half

    def _modified_ns(self) -> int:
        try:
            return self._profile.certificate.stat().st_mtime_ns
        except OSError:
            return 0

    async def _try_to_renew(self) -> None:
        try:
            await self.renew()
        except (ClusterError, OSError) as error:
            log.warning("certificate not renewed", extra={"error": str(error)})


def credentials_in(answer: Any, key: TlsKey) -> Credentials:
    """The new certificate in an answer, with its key."""
    roots, certificate = answer.trust_bundle_pem.encode(), answer.certificate_pem.encode()
    return Credentials(roots, certificate, key.key_pem, answer.epoch)


async def renew_expired_certificate(
    endpoints: Iterable[str],
    tls: ClientTls,
    request_der: bytes,
    proof: bytes,
    seconds_max: float,
    unknown: ClusterError,
) -> enrolment_pb2.RenewExpiredCertificateResponse:
    """Renew an expired certificate at one enrolment port after another, for `seconds_max` each.

    Raises:
        ClusterError: The most useful of their answers; `unknown`, if there is no endpoint.
    """
    request = enrolment_pb2.RenewExpiredCertificateRequest(
        certificate_pem=tls.certificate_pem.decode(),
        certificate_request=request_der,
        proof=proof,
    )
    errors: list[ClusterError] = []
    for endpoint in endpoints:
        channel = open_channel(endpoint, tls=None, ca_pem=tls.ca_pem)
        try:
            return await EnrolmentServiceStub(channel).RenewExpiredCertificate(
                request, timeout=seconds_max
            )
        except grpc.aio.AioRpcError as rpc_error:
            errors.append(error_from_rpc(rpc_error))
        finally:
            await channel.close()
    raise most_useful(errors) or unknown


class CertificateCalls(Calls):
    """The operations of CertificateService."""

    async def list_certificates(
        self,
        *,
        did: str = "",
        serial: str = "",
        serial_prefix: str = "",
        limit: int | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[ListedCertificate]:
        """The issued certificates, by serial number; of one member or all.

        With `serial` only that one, with `serial_prefix` only those that begin with it; with
        `limit` at most so many.
        """
        if did:
            did = await self.lookups.did(did, timeout)
        if serial:
            serial = await self.lookups.serial(serial, timeout)
        request = pb.ListCertificatesRequest(did=did, serial=serial, serial_prefix=serial_prefix)
        return await self._list(request, "certificates", codecs.CERTIFICATE.decode, timeout, limit)

    async def revoke_certificate(
        self, *, serial: str = "", did: str = "", timeout: timedelta = TIMEOUT_DEFAULT
    ) -> None:
        """Revoke a certificate, or every one of a member, for good.

        Raises:
            ClusterError: CERTIFICATE_NOT_FOUND, INVALID_ARGUMENT.
        """
        if bool(serial) == bool(did):
            raise ClusterError(
                Reason.INVALID_ARGUMENT, "give the serial number of one certificate, or a DID"
            )
        if serial:
            target = {"serial": await self.lookups.serial(serial, timeout)}
        else:
            target = {"did": str(await self.lookups.did(did, timeout))}
        request = pb.RevokeCertificateRequest(request_id=new_request_id(), **target)
        await self._unary(request, timeout)

    async def rotate_certificates(
        self, *, new_root: bool, proceed: bool = False, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> int:
        """Make every node renew its certificate, optionally under a new root; returns the epoch.

        Raises:
            ClusterError: ROTATION_IN_PROGRESS, AUTHORITY_SEALED.
        """
        request = pb.RotateCertificatesRequest(
            request_id=new_request_id(), new_root=new_root, proceed=proceed
        )
        answer = await self._unary(request, timeout)
        return int(answer.epoch)

    async def get_rotation(self, *, timeout: timedelta = TIMEOUT_DEFAULT) -> RotationStatus:
        """The progress of a rotation."""
        answer = await self._unary(pb.GetRotationRequest(), timeout)
        return codecs.ROTATION.decode(answer)

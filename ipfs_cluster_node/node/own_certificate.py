"""This node's own certificate: used, renewed in time, and replaced without losing a call."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import (
    make_tls_key,
    renewal_message,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, ServerTls
from ipfs_cluster_node.client.certificates import credentials_in, renew_expired_certificate
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.config.credentials import (
    Credentials,
    read_enrolment,
    write_credentials,
    write_enrolment,
)
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.clocks import CLOCK_DIFFERENCE_MS_MAX
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.v1 import certificate_pb2, enrolment_pb2
from ipfs_cluster_node.v1.health_pb2 import HealthCheck

log = logging.getLogger(__name__)

RENEW_FROM: Final = 0.5
RENEW_UNTIL: Final = 0.8
"""Share of a certificate's life after which it is renewed, at random: not all nodes at once."""
RENEWED_SHARE_MIN: Final = 0.1
"""Of a certificate's life: pause between two renewals whatever the clock says. One that is far
ahead would take every new certificate for an old one, and use up the member's limit."""
RETRY_SECONDS_MIN: Final = 1.0
RETRY_SECONDS_MAX: Final = 600.0
SESSIONS_SECONDS_MAX: Final = 3600.0
"""After which existing TLS sessions are no longer resumed."""
CALL_SECONDS_MAX: Final = 15.0
HURRY_SECONDS_MAX: Final = 2.0
"""Nodes that hear of a new epoch spread their renewals over this time."""
TICK_SECONDS: Final = 0.5
ENROLMENT_SECONDS_MAX: Final = 4.0
"""For one enrolment port: while no master leads, all of them answer late."""
ALONE_AFTER: Final = (
    Reason.UNREACHABLE,
    Reason.NO_LEADER,
    Reason.NOT_LEADER,
    Reason.DEADLINE_EXCEEDED,
)

Renewal = certificate_pb2.RenewCertificateResponse | enrolment_pb2.RenewExpiredCertificateResponse


class OwnCertificate:
    """The certificate that this node presents. Runs in the event loop's thread."""

    def __init__(
        self,
        home: Home,
        identity: Identity,
        credentials: Credentials,
        connection: Connection,
        *,
        clock: Clock,
    ) -> None:
        """Begin with the one on disk; renew over `connection`."""
        self._monotonic = clock.monotonic
        self._home = home
        self._identity = identity
        self._connection = connection
        self.tls = ClientTls(credentials.ca_pem, credentials.certificate_pem, credentials.key_pem)
        self.epoch = credentials.epoch
        self._wanted_epoch = credentials.epoch
        self._hurry_at = 0.0
        self.on_renewed: list[Callable[[ClientTls], Awaitable[None]]] = []
        self.servers: list[ServerTls] = []
        self.sign_alone: Callable[[bytes], bytes | None] = lambda _request: None
        """On a master: signs its own while no leader is reachable for lack of certificates."""
        self._last_error = ""
        self.now: Callable[[], datetime] = clock.wall
        """The time, as far as this node knows it."""
        self._set_validity()

    @property
    def is_good(self) -> bool:
        """Whether it is valid now: otherwise no node accepts this one."""
        return self._not_before <= self.now() <= self._not_after

    def want(self, epoch: int) -> None:
        """Renew a certificate of an older epoch: the leader has roots of this one."""
        if epoch > max(self.epoch, self._wanted_epoch):
            self._wanted_epoch = epoch
            self._hurry_at = self._monotonic() + random.uniform(0, HURRY_SECONDS_MAX)  # noqa: S311

    def end_sessions(self) -> None:
        """Have every caller do a full handshake with its next connection."""
        for server in self.servers:
            server.renew()

    def check(self, now: datetime | None = None) -> HealthCheck:
        """Its health: degraded from 80 % of its life on, failed once it has expired."""
        now = now or self.now()
        life = self._not_after - self._not_before
        used = (now - self._not_before) / life
        ok, degraded = self._not_before <= now <= self._not_after, used >= RENEW_UNTIL
        detail = f"the certificate is valid until {self._not_after:%F %T} UTC"
        if not ok:
            when = (
                f"ended {self._not_after:%F %T}"
                if now > self._not_after
                else f"begins {self._not_before:%F %T}"
            )
            detail = f"the certificate {when} UTC, and could not be renewed"
        elif degraded:
            detail += ", and was not renewed in time"
        if not ok or degraded:
            why = self._last_error or "no attempt yet"
            detail += f" ({why}); check that a leader can be reached"
        return HealthCheck(name="certificate", ok=ok, degraded=ok and degraded, detail=detail)

    async def run(self) -> None:
        """Renew in time, until cancelled."""
        retry = RETRY_SECONDS_MIN
        next_at = renewed_until = 0.0
        steps = _ClockSteps(self.now, self._monotonic)
        sessions_at = self._monotonic() + SESSIONS_SECONDS_MAX
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self._monotonic() >= sessions_at:
                sessions_at = self._monotonic() + SESSIONS_SECONDS_MAX
                self.end_sessions()
            if steps.stepped():
                # A renewal that failed by a wrong clock is retried as soon as it is set.
                retry, next_at, renewed_until = RETRY_SECONDS_MIN, 0.0, 0.0
            behind = self._wanted_epoch > self.epoch and self._monotonic() >= self._hurry_at
            due = not self.is_good or self.now() >= self._renew_at
            if not behind and (not due or self._monotonic() < renewed_until):
                continue
            if self._monotonic() < next_at:
                continue
            try:
                alone = await self.renew()
                retry, next_at = RETRY_SECONDS_MIN, 0.0
                life = self._not_after - self._not_before
                pause = 0.0 if alone else RENEWED_SHARE_MIN * life.total_seconds()
                renewed_until = self._monotonic() + pause
            except (ClusterError, OSError) as error:  # OSError: perhaps the disk is full.
                if str(error) != self._last_error:
                    log.warning("certificate not renewed", extra={"error": str(error)})
                self._last_error = str(error)
                next_at = self._monotonic() + retry * random.uniform(0.5, 1.5)  # noqa: S311
                retry = min(2 * retry, RETRY_SECONDS_MAX)

    async def renew(self) -> bool:
        """Get a new certificate and use it; returns whether this node signed it alone.

        Raises:
            ClusterError: Why there is none.
        """
        key = make_tls_key(self._identity)
        alone = False
        proof = self._identity.sign(renewal_message(self.tls.certificate_pem, key.spki_der))
        if not self.is_good:
            answer, alone = await self._renew_expired_certificate(key.request_der, proof)
        else:
            answer = await self._connection.unary(
                certificate_pb2.RenewCertificateRequest(
                    certificate_request=key.request_der, proof=proof
                ),
                timeout=CALL_SECONDS_MAX,
            )
        await self.install(credentials_in(answer, key))
        if alone:
            self._renew_at = self.now()  # Not in the log: renewed as soon as possible.
        write_enrolment(self._home.enrolment, answer.enrolment_endpoints)
        log.info(
            "certificate renewed",
            extra={"until": f"{self._not_after:%F %T}", "epoch": self.epoch},
        )
        return alone

    async def install(self, credentials: Credentials) -> None:
        """Write a certificate to disk, then use it: for new connections, then for old ones."""
        home = self._home
        await asyncio.to_thread(
            write_credentials, credentials, home.ca, home.certificate, home.tls_key
        )
        self.tls = ClientTls(credentials.ca_pem, credentials.certificate_pem, credentials.key_pem)
        self._last_error = ""
        self._set_validity()
        for server in self.servers:
            server.renew(self.tls)
        for renewed in self.on_renewed:
            await renewed(self.tls)
        # Last: it tells the leader that this node trusts and presents what the epoch brought.
        self.epoch = credentials.epoch

    async def _renew_expired_certificate(
        self, request_der: bytes, proof: bytes
    ) -> tuple[Renewal, bool]:
        endpoints = read_enrolment(self._home.enrolment)
        unknown = ClusterError(
            Reason.UNREACHABLE,
            "no enrolment port is known; start with: ipfs-cluster-node serve --enrolment HOST:PORT",
        )
        try:
            renewed = await renew_expired_certificate(
                endpoints, self.tls, request_der, proof, ENROLMENT_SECONDS_MAX, unknown
            )
            return renewed, False
        except ClusterError as error:
            if error.reason not in ALONE_AFTER:
                raise
            alone = self.sign_alone(request_der)
            if alone is None:
                raise
            log.warning("no leader to renew an expired certificate: signed alone")
            signed = enrolment_pb2.RenewExpiredCertificateResponse(
                certificate_pem=alone.decode(),
                trust_bundle_pem=self.tls.ca_pem.decode(),
                enrolment_endpoints=endpoints,
                epoch=self.epoch,
            )
            return signed, True

    def _set_validity(self) -> None:
        self._not_before, self._not_after = validity_of(self.tls.certificate_pem)
        life = self._not_after - self._not_before
        self._renew_at = renewal_time(self._not_before, life, random.random())  # noqa: S311


def renewal_time(not_before: datetime, life: timedelta, chance: float) -> datetime:
    """When a certificate is renewed; `chance` is from 0 to 1."""
    return not_before + life * (RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * chance)


class _ClockSteps:
    """Notices that the wall clock was set."""

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._now, self._monotonic = now, monotonic
        self._offset = self._read()

    def stepped(self) -> bool:
        """Whether it was set since the last look."""
        before, self._offset = self._offset, self._read()
        return abs(self._offset - before) * 1000 > CLOCK_DIFFERENCE_MS_MAX

    def _read(self) -> float:
        return self._now().timestamp() - self._monotonic()

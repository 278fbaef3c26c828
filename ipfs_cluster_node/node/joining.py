"""Makes this machine a member of a cluster, by a join token.

What could make it fail is checked before the token is redeemed. The new identity and request are
written to disk before that too: after an interruption, the same command continues with them.
"""

import asyncio
import errno
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Final

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import (
    BACKDATE,
    enrolment_message,
    make_tls_key,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import SealKey
from ipfs_cluster_node.adapters.keys.tokens import JoinSecret, fetch_trust_bundle, parse_token
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.client.certificates import credentials_in
from ipfs_cluster_node.cluster.members import APPROVAL_RETRY, TOKEN_TTL_MAX
from ipfs_cluster_node.cluster.peers import save_masters
from ipfs_cluster_node.codec.enums import ROLE
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.tasks import ms_of_timestamp
from ipfs_cluster_node.config.credentials import ENROLMENT_NAME, write_enrolment
from ipfs_cluster_node.config.files import read_regular, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.config.settings import (
    ClusterSection,
    NodeSection,
    NodeSettings,
    write_settings,
)
from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.health_calls import check_home_free
from ipfs_cluster_node.node.setup import Made, profile_of, write_client, write_keys
from ipfs_cluster_node.v1 import enrolment_pb2 as pb
from ipfs_cluster_node.v1.enrolment_pb2_grpc import EnrolmentServiceStub

ENROL_SECONDS_MAX: Final = 20.0
ENROL_RETRY_SECONDS: Final = 0.3
RETRIED: Final = (
    Reason.NO_LEADER,
    Reason.UNKNOWN_OUTCOME,
    Reason.DEADLINE_EXCEEDED,
    Reason.CLOCK_OFF,
    Reason.SHUTTING_DOWN,
)
RETRIED_WAITING: Final = (*RETRIED, Reason.UNREACHABLE)
TRIED_ELSEWHERE: Final = (Reason.UNREACHABLE, Reason.CERTIFICATE_INVALID, Reason.NO_LEADER)
"""Failures, besides those that concern one master, after which another one may admit the joiner."""
DECIDED: Final = frozenset(
    {Reason.TOKEN_INVALID, Reason.TOKEN_EXPIRED, Reason.TOKEN_USED, Reason.JOIN_REJECTED}
)
"""Refusals after which the same request can't be admitted: none of it need be kept."""
CLOCK_DIFFERENCE_MAX: Final = BACKDATE
"""With a larger difference, a certificate issued just now may not be valid yet by this clock."""
PORT_RETRY_SECONDS: Final = 0.5
WAIT_SECONDS_MAX: Final = TOKEN_TTL_MAX.total_seconds()
"""No token is valid for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """Identity and request generated for one join, as written to disk."""

    request_id: str
    token_id: str
    identity: str
    """Its private key in PEM, as that of `seal_key`."""
    seal_key: str
    name: str
    endpoints: tuple[str, ...]

    @classmethod
    def found_or_new(cls, home: Home, token_id: str, settings: NodeSection) -> "Joining":
        """Continue a join begun with the same token, or begin one.

        Raises:
            ClusterError: INVALID_ARGUMENT, if it was begun under another name or other addresses.
        """
        endpoints = settings.advertise or (settings.bind,)
        try:
            kept = cls(**json.loads(read_regular(home.begun)))
        except (OSError, ValueError, TypeError):
            kept = None  # Nothing, or the start of another join.
        if kept is None or kept.token_id != token_id:
            return cls(
                request_id=secrets.token_hex(12),
                token_id=token_id,
                identity=Identity.create().pem().decode(),
                seal_key=SealKey.create().pem().decode(),
                name=settings.name,
                endpoints=endpoints,
            )
        kept = replace(kept, endpoints=tuple(kept.endpoints))
        if (kept.name, kept.endpoints) != (settings.name, endpoints):
            raise ClusterError(
                Reason.INVALID_ARGUMENT,
                f"a join as {kept.name} at {', '.join(kept.endpoints)} was begun in {home.path} "
                "with this token; repeat it so, or name another --home and have a new token made",
            )
        return kept


async def join_at_any(
    home: Home,
    settings: NodeSection,
    *,
    token: str,
    enrolment: Sequence[str],
    on_failed: Callable[[str], None] = lambda _why: None,
    **how: Any,
) -> Made:
    """Join at the first of one or more enrolment ports that admits this machine.

    The next one is tried where a port does not answer, is of another cluster, or of a master that
    can't admit joiners now; `on_failed` is told why. The rest is as for `join_cluster`.

    Raises:
        ClusterError: As `join_cluster`; if none admits it, the first one's, naming all.
    """
    failed: list[ClusterError] = []
    for n, each in enumerate(enrolment, start=1):
        try:
            return await join_cluster(home, settings, token=token, enrolment=each, **how)
        except ClusterError as error:
            if not (error.reason in TRIED_ELSEWHERE or error.reason.has(Trait.MASTER_LOCAL)):
                raise
            failed.append(error)
            if n < len(enrolment):
                on_failed(f"{error.message}; trying {enrolment[n]}")
    if len(failed) == 1:
        raise failed[0]
    raise ClusterError(failed[0].reason, "; ".join(error.message for error in failed))


async def join_cluster(
    home: Home,
    settings: NodeSection,
    *,
    token: str,
    enrolment: str,
    on_waiting: Callable[[NodeId], None] = lambda _node_id: None,
    on_busy: Callable[[str], None] = lambda _why: None,
    check_ports: bool = True,
    replace_node: Callable[[Role], Awaitable[None]] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Made:
    """Enrol this machine with a join token; as a node, or as a client if the token says so.

    Args:
        home: Where its files will be.
        settings: Its own; the role is the token's.
        token: The join token.
        enrolment: A master's enrolment port, `host:port`.
        on_waiting: Called once if an operator has to approve this identity first; the join then
            waits while the token is valid.
        on_busy: Called once if a port is in use here, or the master's is busy, with which; the join
            then waits while the token is valid.
        check_ports: Whether the ports must be free here and now; not if the node will run in
            another network than this process.
        replace_node: Removes the node in whose place this one joins, and frees the home; called
            with the token's role, once it is known that it admits this one. None: the home must be
            free.
        clock: This machine's.

    Raises:
        ClusterError: TOKEN_*, JOIN_REJECTED, CERTIFICATE_INVALID, UNREACHABLE, HOME_EXISTS,
            HOME_IN_USE, CONFIG_INVALID, PORT_IN_USE, INVALID_ARGUMENT. It may be called again, with
            the same token unless the error concerns that.
    """
    secret = parse_token(token)
    endpoint = parse_endpoint(enrolment)
    if replace_node is None:
        await check_home_free(home)
    joining = Joining.found_or_new(home, secret.token_id, settings)
    ca_pem = await fetch_trust_bundle(endpoint.host, endpoint.port, secret.ca_pin, clock=clock)
    joiner = _Joiner(joining, secret, str(endpoint), ca_pem, clock=clock)
    joiner.on_waiting, joiner.on_busy = on_waiting, on_busy
    offered = await joiner.ask(check_only=True)
    server_ms = ms_of_timestamp(offered.server_time)
    _check_clock(clock.wall_ms(), server_ms)
    whole = None
    role = ROLE.word(offered.role, "role")
    if role is not Role.CLIENT:
        whole = NodeSettings(
            node=replace(settings, role=role),
            cluster=ClusterSection(id=offered.cluster_id, name=offered.cluster_name),
        )
        # By the leader's clock only: this machine's may be minutes off.
        ends_in_ms = ms_of_timestamp(offered.token_expire_time) - server_ms
        if check_ports:
            until = clock.monotonic() + ends_in_ms / 1000
            await _wait_for_ports(whole, until=until, on_busy=on_busy, monotonic=clock.monotonic)
    if replace_node is not None:
        await replace_node(role)
    with home.making(json.dumps(asdict(joining)).encode()):
        try:
            response = await joiner.ask()
        except ClusterError as error:
            if error.reason in DECIDED:
                home.begun.unlink()
            raise
        profile = joiner.write(home, whole, response)
    return Made(
        cluster_id=response.cluster_id,
        cluster_name=response.cluster_name,
        node_id=joiner.identity.node_id,
        role=ROLE.word(response.role, "role"),
        profile=profile,
    )


class _Joiner:
    """One attempt to join."""

    def __init__(
        self, joining: Joining, secret: JoinSecret, address: str, ca_pem: bytes, *, clock: Clock
    ) -> None:
        """Call `address`, with a TLS key of this attempt."""
        self._monotonic = clock.monotonic
        self._address, self._ca_pem = address, ca_pem
        self.identity = Identity.from_pem(joining.identity.encode())
        self._seal_key = SealKey.from_pem(joining.seal_key.encode())
        self._key = make_tls_key(self.identity)
        self.on_waiting: Callable[[NodeId], None] = lambda _node_id: None
        self.on_busy: Callable[[str], None] = lambda _why: None
        self._told_busy = False
        self._request = pb.EnrolRequest(
            request_id=joining.request_id,
            token_id=secret.token_id,
            token_secret=secret.secret,
            did=self.identity.did,
            certificate_request=self._key.request_der,
            proof=self.identity.sign(enrolment_message(secret.token_id, self._key.spki_der)),
            name=joining.name,
            endpoints=joining.endpoints,
            seal_key=self._seal_key.public_key,
        )

    async def ask(self, *, check_only: bool = False) -> pb.EnrolResponse:
        """Ask until there is an answer, while that is worthwhile."""
        request = pb.EnrolRequest()
        request.CopyFrom(self._request)
        request.check_only = check_only
        started = self._monotonic()
        deadline, waits, busy = started + ENROL_SECONDS_MAX, False, False
        while True:
            pause = ENROL_RETRY_SECONDS
            channel = open_channel(self._address, tls=None, ca_pem=self._ca_pem)
            try:
                return await EnrolmentServiceStub(channel).Enrol(request, timeout=ENROL_SECONDS_MAX)
            except grpc.aio.AioRpcError as rpc_error:
                error = error_from_rpc(rpc_error)
                if error.reason is Reason.APPROVAL_PENDING:
                    if not waits:
                        self.on_waiting(self.identity.node_id)
                    # The master may restart meanwhile: each answer restarts the timeout.
                    deadline, waits = self._monotonic() + ENROL_SECONDS_MAX, True
                    pause = (error.retry_after or APPROVAL_RETRY).total_seconds()
                elif (
                    error.reason is Reason.OVERLOADED
                    and self._monotonic() < started + WAIT_SECONDS_MAX
                ):
                    # The master tells when the token has expired.
                    if not self._told_busy:
                        self.on_busy(f"{self._address} is busy")
                    self._told_busy = busy = True
                    deadline = self._monotonic() + ENROL_SECONDS_MAX
                    pause = max(pause, (error.retry_after or timedelta()).total_seconds())
                elif (
                    error.reason not in (RETRIED_WAITING if waits or busy else RETRIED)
                    or self._monotonic() > deadline
                ):
                    raise error from rpc_error
            finally:
                await channel.close()
            await asyncio.sleep(pause)

    def write(
        self, home: Home, settings: NodeSettings | None, response: pb.EnrolResponse
    ) -> Profile:
        """Write what a member needs, the node's `config.toml` last; blocks."""
        masters = {NodeId(m.node_id): tuple(m.endpoints) for m in response.masters}
        credentials = credentials_in(response, self._key)
        enrolment = response.enrolment_endpoints or [self._address]
        if settings is None:
            profile = write_client(home.path, self.identity, credentials, masters)
            write_enrolment(home.path / ENROLMENT_NAME, enrolment)
            return profile
        home.create()
        write_keys(home, self.identity, credentials)
        write_enrolment(home.enrolment, enrolment)
        if response.role == ROLE.numbers[Role.MASTER]:
            write_private(home.seal_key, self._seal_key.pem())
            voter = voter_id(self.identity.node_id, response.incarnation)
            create_store(DirectoryDisk(home.raft), voter, [])
        save_masters(home.masters, masters)
        # Last, since it marks that there is a node.
        write_private(home.config, write_settings(settings).encode())
        return profile_of(home.ca, home.certificate, home.tls_key, masters)


def _check_clock(now_ms: int, server_ms: int) -> None:
    """Refuse a clock by which no certificate of the cluster would be valid.

    Raises:
        ClusterError: CONFIG_INVALID.
    """
    ahead = timedelta(milliseconds=now_ms - server_ms)
    if abs(ahead) > CLOCK_DIFFERENCE_MAX:
        how = "ahead of" if ahead > timedelta() else "behind"
        raise ClusterError(
            Reason.CONFIG_INVALID,
            f"this machine's clock is {abs(ahead).total_seconds():.0f} s {how} the cluster's; set "
            "it, and join again: the token was not used",
        )


async def _wait_for_ports(
    settings: NodeSettings,
    *,
    until: float,
    on_busy: Callable[[str], None],
    monotonic: Callable[[], float],
) -> None:
    """Return once the node could listen at its addresses.

    Raises:
        ClusterError: CONFIG_INVALID for an address that is not of this machine, or not allowed;
            PORT_IN_USE, if it is in use for as long as the token is good.
    """
    wanted = [("--bind", settings.node.bind)]
    if settings.node.role == Role.MASTER:
        wanted.append(("--enrolment-bind", settings.node.enrolment_bind))
    told = False
    for flag, address in wanted:
        while True:
            error = await asyncio.to_thread(_why_not, parse_endpoint(address))
            if error is None:
                break
            if error.errno != errno.EADDRINUSE:
                raise ClusterError(
                    Reason.CONFIG_INVALID,
                    f"can't listen on {address} ({error}); choose another with {flag}, and join "
                    "again: the token was not used",
                )
            if monotonic() > until:
                raise ClusterError(
                    Reason.PORT_IN_USE,
                    f"something listened on {address} until the token ended, unused; stop that, or "
                    f"choose another with {flag}, and have a new token made",
                )
            if not told:
                on_busy(f"something listens on {address} already, see {flag}")
                told = True
            await asyncio.sleep(PORT_RETRY_SECONDS)


def _why_not(endpoint: Endpoint) -> OSError | None:
    """Why the node could not listen there now; None if it could."""
    try:
        [(family, kind, protocol, _, place), *_] = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            # As the servers do: remains of closed connections don't block it.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        return error
    return None

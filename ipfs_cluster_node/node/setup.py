"""Makes a cluster, or a member of one: keys, certificates, the home directory."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import grpc

from ipfs_cluster_node.adapters.keys.certificates import (
    LEAF_LIFETIME,
    CertificateAuthority,
    TlsKey,
    enrolment_message,
    make_tls_key,
    record_of,
    utc_now,
)
from ipfs_cluster_node.adapters.keys.delegation import delegate
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import (
    ClusterKeys,
    SealKey,
    make_passphrase,
    recovery_key,
    seal,
)
from ipfs_cluster_node.adapters.keys.tokens import fetch_trust_bundle, parse_token
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import create_store
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.credentials import (
    ENROLMENT_NAME,
    IDENTITY_NAME,
    Credentials,
    write_credentials,
    write_enrolment,
)
from ipfs_cluster_node.config.files import make_private_directory, write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import Profile, ProfileEndpoint
from ipfs_cluster_node.config.settings import (
    ClusterSettings,
    NodeSettings,
    Settings,
    write_settings,
)
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.commands import BootstrapCluster, Command
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.ucan.commands import TOP
from ipfs_cluster_node.node.clock import now_ms
from ipfs_cluster_node.node.members import APPROVAL_RETRY
from ipfs_cluster_node.node.peers import save_masters
from ipfs_cluster_node.node.standing import refuse_taken
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
RETRIED_WAITING: Final = (*RETRIED, Reason.UNREACHABLE, Reason.OVERLOADED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was made."""

    cluster_id: str
    cluster_name: str
    node_id: NodeId
    role: str
    profile: Profile
    recovery_passphrase: str = ""
    """One that was made here, to be shown this once."""


def init_cluster(
    home: Home, settings: NodeSettings, *, cluster_name: str, recovery_passphrase: str = ""
) -> Made:
    """Make a cluster whose first master is this node; also the operator's client identity.

    The keys of the CA and of the authority are sealed in the log; no file holds them.

    Raises:
        ClusterError: HOME_EXISTS, CONFIG_INVALID; INVALID_ARGUMENT for a short passphrase.
    """
    cluster = ClusterSettings(id=secrets.token_hex(8), name=cluster_name)
    document = write_settings(Settings(node=settings, cluster=cluster))
    endpoints = settings.advertise or (settings.bind,)
    hosts = [parse_endpoint(e).host for e in (*endpoints, settings.enrolment_bind)]
    passphrase = recovery_passphrase or make_passphrase()
    recovery = recovery_key(passphrase, cluster.id)
    home.create()
    ca = CertificateAuthority.create(cluster_name, utc_now())
    identity, operator, authority = Identity.create(), Identity.create(), Identity.create()
    key, operator_key = make_tls_key(identity), make_tls_key(operator)
    certificate = ca.issue(key.request_der, identity.did, hosts=hosts, is_node=True, now=utc_now())
    operator_certificate = ca.issue(
        operator_key.request_der, operator.did, hosts=(), is_node=False, now=utc_now()
    )
    seal_key = SealKey.create()
    write_private(home.seal_key, seal_key.pem())
    write_keys(home, identity, key, certificate, ca.certificate_pem)
    client = home.path / "client"
    profile = _write_client(
        client,
        operator,
        operator_key,
        operator_certificate,
        ca.certificate_pem,
        {identity.node_id: endpoints},
    )
    sealed = seal(
        ClusterKeys((ca,), authority),
        cluster_id=cluster.id,
        seal_keys={identity.did: seal_key.public_key},
        recovery_public_key=recovery.public_key,
    )
    body = _bootstrap(cluster, authority, identity, operator, endpoints, settings.name)
    own = Settings(node=settings, cluster=cluster).enrolment_endpoints
    at_ms = now_ms()
    body = replace(
        body,
        principals=tuple(
            replace(p, seal_key=seal_key.public_key, enrolment_endpoints=own) if p.is_node else p
            for p in body.principals
        ),
        authority=Authority(
            version=1,
            key_id=sealed.key_id,
            ciphertext=sealed.ciphertext,
            wraps=sealed.wraps,
            recovery_key=recovery.public_key,
            recovery_wrap=sealed.recovery_wrap,
            roots=(ca.certificate_pem.decode(),),
            epoch=0,
            phase_at_ms=at_ms,
        ),
        certificates=tuple(
            record_of(pem, issued_at_ms=at_ms, epoch=0)
            for pem in (certificate, operator_certificate)
        ),
    )
    voter = voter_id(identity.node_id, 1)
    create_store(
        DirectoryDisk(home.raft),
        voter,
        [voter],
        first=encode_command(Command(at_ms=at_ms, body=body)),
    )
    save_masters(home.masters, {identity.node_id: endpoints})
    write_enrolment(home.enrolment, own)
    write_enrolment(client / ENROLMENT_NAME, own)
    # Last, since it says that there is a node.
    write_private(home.config, document.encode())
    return Made(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        node_id=identity.node_id,
        role=settings.role,
        profile=profile,
        recovery_passphrase="" if recovery_passphrase else passphrase,
    )


def _bootstrap(
    cluster: ClusterSettings,
    authority: Identity,
    identity: Identity,
    operator: Identity,
    endpoints: tuple[str, ...],
    name: str,
) -> BootstrapCluster:
    at_ms = now_ms()
    master = Principal(
        did=identity.did,
        name=name,
        role=Role.MASTER,
        endpoints=endpoints,
        incarnation=1,
        enrolled_at_ms=at_ms,
        liveness_at_ms=at_ms,
    )
    client = Principal(
        did=operator.did,
        name="operator",
        role=Role.CLIENT,
        grant="operator",
        enrolled_at_ms=at_ms,
        liveness_at_ms=at_ms,
    )
    return BootstrapCluster(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        cluster_did=authority.did,
        principals=(master, client),
        delegations=(
            delegate(
                authority,
                operator.did,
                TOP,
                expires_s=at_ms // 1000 + int(LEAF_LIFETIME.total_seconds()),
                at_ms=at_ms,
            ),
        ),
    )


async def join_cluster(
    home: Home,
    settings: NodeSettings,
    *,
    token: str,
    enrolment: str,
    on_waiting: Callable[[NodeId], None] = lambda _node_id: None,
) -> Made:
    """Enrol this machine with a join token; as a node, or as a client if the token says so.

    Args:
        home: Where its files will be.
        settings: Its own; the role is the token's.
        token: The join token.
        enrolment: A master's enrolment port, `host:port`.
        on_waiting: Called once if somebody has to let this identity in first; that is waited for
            as long as the token is good.

    Raises:
        ClusterError: TOKEN_*, JOIN_REJECTED, CERTIFICATE_INVALID, UNREACHABLE, HOME_EXISTS,
            CONFIG_INVALID.
    """
    secret = parse_token(token)
    endpoint = parse_endpoint(enrolment)
    await refuse_taken(home)
    ca_pem = await fetch_trust_bundle(endpoint.host, endpoint.port, secret.ca_pin)
    identity = Identity.create()
    key, seal_key = make_tls_key(identity), SealKey.create()
    endpoints = settings.advertise or (settings.bind,)
    request = pb.EnrolRequest(
        request_id=secrets.token_hex(12),
        token_id=secret.token_id,
        token_secret=secret.secret,
        did=identity.did,
        certificate_request=key.request_der,
        proof=identity.sign(enrolment_message(secret.token_id, key.spki_der)),
        name=settings.name,
        endpoints=endpoints,
        seal_key=seal_key.public_key,
    )
    response = await _enrol(
        str(endpoint), ca_pem, request, on_waiting=lambda: on_waiting(identity.node_id)
    )
    masters = {NodeId(m.node_id): tuple(m.endpoints) for m in response.masters}
    certificate, bundle = response.certificate_pem.encode(), response.trust_bundle_pem.encode()
    if response.role == Role.CLIENT:
        profile = _write_client(
            home.path, identity, key, certificate, bundle, masters, epoch=response.epoch
        )
        write_enrolment(home.path / ENROLMENT_NAME, response.enrolment_endpoints or [str(endpoint)])
    else:
        role_settings = Settings(
            node=NodeSettings(
                name=settings.name,
                role=response.role,
                bind=settings.bind,
                enrolment_bind=settings.enrolment_bind,
                advertise=settings.advertise,
            ),
            cluster=ClusterSettings(id=response.cluster_id, name=response.cluster_name),
        )
        home.create()
        write_keys(home, identity, key, certificate, bundle, epoch=response.epoch)
        write_enrolment(home.enrolment, response.enrolment_endpoints or [str(endpoint)])
        if response.role == Role.MASTER:
            write_private(home.seal_key, seal_key.pem())
            create_store(
                DirectoryDisk(home.raft), voter_id(identity.node_id, response.incarnation), []
            )
        save_masters(home.masters, masters)
        profile = _profile(home.ca, home.certificate, home.tls_key, masters)
        write_private(home.config, write_settings(role_settings).encode())
    return Made(
        cluster_id=response.cluster_id,
        cluster_name=response.cluster_name,
        node_id=identity.node_id,
        role=response.role,
        profile=profile,
    )


async def _enrol(
    address: str, ca_pem: bytes, request: pb.EnrolRequest, *, on_waiting: Callable[[], None]
) -> pb.EnrolResponse:
    deadline, waits = asyncio.get_running_loop().time() + ENROL_SECONDS_MAX, False
    while True:
        pause = ENROL_RETRY_SECONDS
        channel = open_channel(address, tls=None, ca_pem=ca_pem)
        try:
            return await EnrolmentServiceStub(channel).Enrol(request, timeout=ENROL_SECONDS_MAX)
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
            if error.reason is Reason.APPROVAL_PENDING:
                if not waits:
                    on_waiting()
                # The master asked may restart meanwhile: the time begins anew with each answer.
                deadline, waits = asyncio.get_running_loop().time() + ENROL_SECONDS_MAX, True
                pause = (error.retry_after or APPROVAL_RETRY).total_seconds()
            elif (
                error.reason not in (RETRIED_WAITING if waits else RETRIED)
                or asyncio.get_running_loop().time() > deadline
            ):
                raise error from rpc_error
        finally:
            await channel.close()
        await asyncio.sleep(pause)


def write_keys(
    home: Home,
    identity: Identity,
    key: TlsKey,
    certificate: bytes,
    ca_pem: bytes,
    *,
    epoch: int = 0,
) -> None:
    """Write a node's identity, and what it shows in TLS."""
    write_private(home.identity, identity.pem())
    credentials = Credentials(ca_pem, certificate, key.key_pem, epoch)
    write_credentials(credentials, home.ca, home.certificate, home.tls_key)


def _write_client(
    directory: Path,
    identity: Identity,
    key: TlsKey,
    certificate: bytes,
    ca_pem: bytes,
    masters: dict[NodeId, tuple[str, ...]],
    *,
    epoch: int = 0,
) -> Profile:
    make_private_directory(directory)
    write_private(directory / IDENTITY_NAME, identity.pem())
    files = (directory / "ca.pem", directory / "client.pem", directory / "client.key")
    write_credentials(Credentials(ca_pem, certificate, key.key_pem, epoch), *files)
    return _profile(*files, masters)


def _profile(
    ca: Path, certificate: Path, key: Path, masters: dict[NodeId, tuple[str, ...]]
) -> Profile:
    return Profile(
        endpoints=tuple(
            ProfileEndpoint(address, node_id)
            for node_id, addresses in masters.items()
            for address in addresses
        ),
        ca=ca.absolute(),
        certificate=certificate.absolute(),
        key=key.absolute(),
    )

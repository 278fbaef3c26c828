"""Creates a cluster, and what every member has: keys, certificates, the home directory."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.keys.certificates import (
    LEAF_LIFETIME,
    CertificateAuthority,
    make_tls_key,
    record_of,
)
from ipfs_cluster_node.adapters.keys.delegation import delegate
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import (
    ClusterKeys,
    SealKey,
    make_passphrase,
    recovery_key,
    resealed,
)
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cluster.peers import save_masters
from ipfs_cluster_node.codec.commands import encode_command
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
    ClusterSection,
    NodeSection,
    NodeSettings,
    write_settings,
)
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.commands import BootstrapCluster, LogCommand
from ipfs_cluster_node.core.endpoints import parse_endpoint
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.core.model import Principal, Role
from ipfs_cluster_node.core.ucan.commands import TOP

CLIENT_FILES: Final = ("ca.pem", "client.pem", "client.key")
"""A client's trust bundle, certificate and TLS key, in its directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was created."""

    cluster_id: str
    cluster_name: str
    node_id: NodeId
    role: str
    profile: Profile
    recovery_passphrase: str = ""
    """One that was generated here, to be shown only this once."""


def init_cluster(
    home: Home,
    settings: NodeSection,
    *,
    cluster_name: str,
    recovery_passphrase: str = "",
    passphrase_file: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Made:
    """Create a cluster whose first master is this node; also the operator's client identity.

    The keys of the CA and of the authority are sealed in the log; no file holds them. A passphrase
    that is generated here is in `passphrase_file`, if there is to be one, before there is a node.

    Raises:
        ClusterError: HOME_EXISTS, CONFIG_INVALID; INVALID_ARGUMENT for a short passphrase.
    """
    cluster = ClusterSection(id=secrets.token_hex(8), name=cluster_name)
    document = write_settings(NodeSettings(node=settings, cluster=cluster))
    endpoints = settings.advertise or (settings.bind,)
    hosts = [parse_endpoint(e).host for e in (*endpoints, settings.enrolment_bind)]
    passphrase = recovery_passphrase or make_passphrase()
    recovery = recovery_key(passphrase, cluster.id)
    with home.making():
        home.create()
        ca = CertificateAuthority.create(cluster_name, clock.wall())
        identity, operator, authority = Identity.create(), Identity.create(), Identity.create()
        key, operator_key = make_tls_key(identity), make_tls_key(operator)
        certificate = ca.issue(
            key.request_der, identity.did, hosts=hosts, is_node=True, now=clock.wall()
        )
        operator_certificate = ca.issue(
            operator_key.request_der, operator.did, hosts=(), is_node=False, now=clock.wall()
        )
        seal_key = SealKey.create()
        write_private(home.seal_key, seal_key.pem())
        roots = ca.certificate_pem
        write_keys(home, identity, Credentials(roots, certificate, key.key_pem))
        client = home.path / "client"
        shown = Credentials(roots, operator_certificate, operator_key.key_pem)
        profile = write_client(client, operator, shown, {identity.node_id: endpoints})
        at_ms = clock.wall_ms()
        sealed = resealed(
            Authority(
                recovery_key=recovery.public_key,
                roots=(roots.decode(),),
                phase_at_ms=at_ms,
            ),
            ClusterKeys((ca,), authority),
            cluster_id=cluster.id,
            seal_keys={identity.did: seal_key.public_key},
        )
        own = NodeSettings(node=settings, cluster=cluster).enrolment_endpoints
        body = BootstrapCluster(
            cluster_id=cluster.id,
            cluster_name=cluster.name,
            cluster_did=authority.did,
            principals=(
                Principal(
                    did=identity.did,
                    name=settings.name,
                    role=Role.MASTER,
                    endpoints=endpoints,
                    incarnation=1,
                    enrolled_at_ms=at_ms,
                    liveness_at_ms=at_ms,
                    seal_key=seal_key.public_key,
                    enrolment_endpoints=own,
                ),
                Principal(
                    did=operator.did,
                    name="operator",
                    role=Role.CLIENT,
                    grant="operator",
                    enrolled_at_ms=at_ms,
                    liveness_at_ms=at_ms,
                ),
            ),
            delegations=(
                delegate(
                    authority,
                    operator.did,
                    TOP,
                    expires_s=at_ms // 1000 + int(LEAF_LIFETIME.total_seconds()),
                    at_ms=at_ms,
                ),
            ),
            authority=sealed,
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
            first=encode_command(LogCommand(at_ms=at_ms, body=body)),
        )
        save_masters(home.masters, {identity.node_id: endpoints})
        write_enrolment(home.enrolment, own)
        write_enrolment(client / ENROLMENT_NAME, own)
        if passphrase_file is not None and not recovery_passphrase:
            write_private(passphrase_file, f"{passphrase}\n".encode())
        # Last, since it marks that there is a node.
        write_private(home.config, document.encode())
    return Made(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        node_id=identity.node_id,
        role=settings.role,
        profile=profile,
        recovery_passphrase="" if recovery_passphrase else passphrase,
    )


def write_keys(home: Home, identity: Identity, credentials: Credentials) -> None:
    """Write a node's identity and TLS credentials."""
    write_private(home.identity, identity.pem())
    write_credentials(credentials, home.ca, home.certificate, home.tls_key)


def write_client(
    directory: Path,
    identity: Identity,
    credentials: Credentials,
    masters: dict[NodeId, tuple[str, ...]],
) -> Profile:
    """Write a client's identity and TLS credentials; returns a profile that uses them."""
    make_private_directory(directory)
    write_private(directory / IDENTITY_NAME, identity.pem())
    ca, certificate, key = (directory / name for name in CLIENT_FILES)
    write_credentials(credentials, ca, certificate, key)
    return profile_of(ca, certificate, key, masters)


def profile_of(
    ca: Path, certificate: Path, key: Path, masters: dict[NodeId, tuple[str, ...]]
) -> Profile:
    """A profile that uses these files, and calls these masters."""
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

"""Certificates of a real cluster that no day has to pass for: signed with its own opened keys."""

from dataclasses import replace
from datetime import timedelta

from ipfs_cluster_node.adapters.keys.certificates import (
    make_tls_key,
    utc_now,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import ClusterKeys, SealKey, open_keys
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.codec.commands import authority_from_log
from ipfs_cluster_node.config.credentials import Credentials, read_credentials, write_credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.log.v1 import command_pb2


def kept_authority(home: Home) -> Authority:
    return authority_from_log(command_pb2.Authority.FromString(home.authority.read_bytes()))


def cluster_keys(home: Home) -> ClusterKeys:
    """Open the keys as the master of this home directory would."""
    cluster_id = load_settings(home.config, environment={}).cluster.id
    authority = kept_authority(home)
    did = Identity.load(home.identity).did
    wrapped = authority.wrap_of(did)
    assert wrapped is not None, "not sealed to this master"
    key = SealKey.load(home.seal_key)
    data_key = key.open(wrapped, cluster_id=cluster_id, key_id=authority.key_id)
    return open_keys(authority, data_key, cluster_id=cluster_id)


def certificate_ending(
    home: Home,
    identity: Identity,
    *,
    ends_in: timedelta,
    is_node: bool,
    hosts: tuple[str, ...] = (),
) -> Credentials:
    """A certificate of the cluster's root whose end is near or past."""
    keys = cluster_keys(home)
    ca = keys.cas[kept_authority(home).signer]
    key = make_tls_key(identity)
    life = timedelta(hours=1)
    began = utc_now() + ends_in - life
    pem = ca.issue(
        key.request_der, identity.did, hosts=hosts, is_node=is_node, now=began, lifetime=life
    )
    assert abs(validity_of(pem)[1] - (utc_now() + ends_in)) < timedelta(seconds=2)
    return Credentials(ca.certificate_pem, pem, key.key_pem)


def tls_of(credentials: Credentials) -> ClientTls:
    return ClientTls(credentials.ca_pem, credentials.certificate_pem, credentials.key_pem)


def node_credentials(node: LocalNode) -> Credentials:
    home = node.home
    return read_credentials(home.ca, home.certificate, home.tls_key)


def operator_credentials(cluster: LocalCluster) -> Credentials:
    profile = cluster.profile
    return read_credentials(profile.ca, profile.certificate, profile.key)


def put_node_credentials(node: LocalNode, credentials: Credentials) -> None:
    home = node.home
    write_credentials(replace(credentials), home.ca, home.certificate, home.tls_key)

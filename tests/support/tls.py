"""Real certificates of a throw-away CA."""

from dataclasses import dataclass

from ipfs_cluster_node.adapters.keys.certificates import (
    CertificateAuthority,
    make_tls_key,
    utc_now,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls


@dataclass(frozen=True)
class Member:
    identity: Identity
    tls: ClientTls


def make_ca() -> CertificateAuthority:
    return CertificateAuthority.create("test", utc_now())


def enrol(ca: CertificateAuthority, *, is_node: bool = True) -> Member:
    identity = Identity.create()
    key = make_tls_key(identity)
    certificate = ca.issue(
        key.request_der,
        identity.did,
        hosts=["127.0.0.1", "localhost"],
        is_node=is_node,
        now=utc_now(),
    )
    return Member(identity, ClientTls(ca.certificate_pem, certificate, key.key_pem))

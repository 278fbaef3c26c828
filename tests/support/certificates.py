"""Certificates of a real cluster that no day has to pass for: signed with its own opened keys."""

from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ipfs_cluster_node.adapters.keys.certificates import (
    BACKDATE,
    TlsKey,
    make_tls_key,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import ClusterKeys, SealKey, open_keys
from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.codec.records import AUTHORITY
from ipfs_cluster_node.config.credentials import Credentials, read_credentials, write_credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.log.v1 import command_pb2
from tests.support.virtual_time import utc_now


def kept_authority(home: Home) -> Authority:
    return AUTHORITY.decode(command_pb2.Authority.FromString(home.authority.read_bytes()))


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
    began = utc_now() + ends_in - timedelta(hours=1)
    life = timedelta(hours=1)
    return certificate_of(home, identity, began=began, life=life, is_node=is_node, hosts=hosts)


def certificate_of(
    home: Home,
    identity: Identity,
    *,
    began: datetime,
    life: timedelta,
    is_node: bool,
    hosts: tuple[str, ...] = (),
) -> Credentials:
    """A certificate of the cluster's root, for however long."""
    keys = cluster_keys(home)
    ca = keys.cas[kept_authority(home).signer]
    key = make_tls_key(identity)
    pem = ca.issue(
        key.request_der,
        identity.did,
        hosts=hosts,
        is_node=is_node,
        now=began + BACKDATE,
        lifetime=life - BACKDATE,
    )
    found = validity_of(pem)
    assert abs(found[0] - began) < timedelta(seconds=2)
    assert abs(found[1] - began - life) < timedelta(seconds=2)
    return Credentials(ca.certificate_pem, pem, key.key_pem)


def asking_for_more(key: TlsKey, victim: Did) -> TlsKey:
    """The same key with a request for names and rights that its owner does not have."""
    private = load_pem_private_key(key.key_pem, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    names = [x509.DNSName("master.example"), x509.UniformResourceIdentifier(victim)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")])
    )
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    own = x509.load_der_x509_csr(key.request_der).extensions[0].value
    request = builder.add_extension(own, critical=False).sign(private, hashes.SHA256())
    return replace(key, request_der=request.public_bytes(Encoding.DER))


def check_names(certificate_pem: str, did: Did) -> None:
    """It names its owner, and nothing of what `asking_for_more` asked for."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    given = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert given.get_values_for_type(x509.UniformResourceIdentifier) == [did]
    assert "master.example" not in given.get_values_for_type(x509.DNSName)
    [common_name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common_name.value == did
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def spki_of(certificate_pem: bytes) -> bytes:
    """The public TLS key."""
    key = x509.load_pem_x509_certificate(certificate_pem).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


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

"""Certificates bind a TLS key to an identity, twice."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from ipfs_cluster_node.adapters.keys.certificates import (
    CertificateAuthority,
    PeerVerifier,
    enrolment_message,
    make_tls_key,
    read_certificate,
    request_spki,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.tokens import mint_token, parse_token
from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import tls_name
from tests.support.tls import make_ca
from tests.support.virtual_time import utc_now


def issue(ca: CertificateAuthority, identity: Identity, hosts: tuple[str, ...] = ()) -> bytes:
    key = make_tls_key(identity)
    return ca.issue(key.request_der, identity.did, hosts=hosts, is_node=True, now=utc_now())


def test_a_certificate_says_whose_it_is_and_where_it_is_reached() -> None:
    identity = Identity.create()
    pem = issue(make_ca(), identity, ("node.example", "10.0.0.1"))
    peer = read_certificate(pem)
    assert (peer.did, peer.node_id, peer.is_node) == (identity.did, identity.node_id, True)
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    dns = names.value.get_values_for_type(x509.DNSName)
    assert dns == [tls_name(identity.node_id), "node.example"]


def test_a_stolen_ca_key_makes_no_certificate_of_another_identity() -> None:
    ca, victim, thief = make_ca(), Identity.create(), Identity.create()
    key = make_tls_key(thief)
    with pytest.raises(ClusterError) as caught:
        ca.issue(key.request_der, victim.did, hosts=(), is_node=True, now=utc_now())
    assert caught.value.reason is Reason.PROOF_INVALID
    # Signed by hand with the stolen key, without the identity's signature: refused when it is read.
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(victim.did)])
    forged = (
        x509.CertificateBuilder()
        .subject_name(ca.certificate.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(x509.load_der_x509_csr(key.request_der).public_key())
        .serial_number(1)
        .not_valid_before(utc_now())
        .not_valid_after(utc_now() + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca._key, hashes.SHA256())
    )
    with pytest.raises(ClusterError) as caught:
        read_certificate(forged.public_bytes(Encoding.PEM))
    assert caught.value.reason is Reason.CERTIFICATE_INVALID


@pytest.mark.parametrize("host", ["*.example", "k51qz.peer", "a.PEER.", "exämple"])
def test_names_that_stand_for_others_are_refused(host: str) -> None:
    with pytest.raises(ClusterError) as caught:
        issue(make_ca(), Identity.create(), (host,))
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_an_expired_certificate_is_refused_although_it_was_verified_before() -> None:
    verifier, pem = PeerVerifier(), issue(make_ca(), Identity.create())
    day_ms, now_ms = 86_400_000, int(utc_now().timestamp() * 1000)
    verifier.verify(pem, now_ms)
    for days in (91, -1):
        with pytest.raises(ClusterError) as caught:
            verifier.verify(pem, now_ms + days * day_ms)
        assert caught.value.reason is Reason.CERTIFICATE_INVALID


def test_a_damaged_request_is_refused() -> None:
    key = make_tls_key(Identity.create())
    broken = bytearray(key.request_der)
    broken[-1] ^= 1
    for request in (bytes(broken), b"", b"\x30\x00"):
        with pytest.raises(ClusterError) as caught:
            request_spki(request)
        assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_a_proof_is_good_for_one_token_and_one_key() -> None:
    identity = Identity.create()
    key = make_tls_key(identity)
    proof = identity.sign(enrolment_message("t", key.spki_der))
    assert verify_signature(identity.did, proof, enrolment_message("t", key.spki_der))
    assert not verify_signature(identity.did, proof, enrolment_message("u", key.spki_der))
    other = Identity.create().did
    assert not verify_signature(other, proof, enrolment_message("t", key.spki_der))


def test_a_token_reads_back_and_never_shows_its_secret_in_a_log() -> None:
    token = mint_token("ab" * 32)
    assert parse_token(f" {token}\n") == token
    assert token.secret not in repr(token)
    for bad in ("", "cj1.x.y.z", str(token)[:-1], "cj2" + str(token)[3:]):
        with pytest.raises(ClusterError) as caught:
            parse_token(bad)
        assert caught.value.reason is Reason.TOKEN_INVALID
        assert token.secret not in str(caught.value)


def test_secrets_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = Home(tmp_path / "home")
        home.create()
        write_private(home.identity, Identity.create().pem())
    finally:
        os.umask(before)
    assert home.identity.stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700
    home.identity.chmod(0o640)
    with pytest.raises(ClusterError) as caught:
        Identity.load(home.identity)
    assert "chmod 600" in caught.value.message

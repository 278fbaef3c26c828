"""Certificates: requests, the certificate authority, and verification of a peer.

A leaf is P-256, since gRPC's TLS takes no Ed25519 leaf. The Ed25519 identity is bound to it twice:
as the only `did:key` URI among its names, which the CA vouches for, and in the libp2p extension, a
signature of the identity key over the TLS key, which only the identity's owner can make. A stolen
CA key alone is therefore not enough to impersonate a node.

Source: libp2p specs, tls/tls.md, "Peer Authentication".
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.core.certificates import CertificateRecord
from ipfs_cluster_node.core.endpoints import certified_hosts
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import (
    Did,
    NodeId,
    did_from_public_key,
    node_id_from_did,
    parse_did,
    tls_name,
)

CA_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(hours=24)
"""Default of the setting `certificate_lifetime`."""
BACKDATE: Final = timedelta(minutes=5)
"""Certificates are valid from so long before issuance, for peers whose clocks are behind."""
ROOT_BACKDATE: Final = timedelta(days=366)
"""Likewise for a root: if it is not yet valid, neither is anything that it signs."""
LIBP2P_EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
VERIFIED_CERTIFICATES_MAX: Final = 4096

_LIBP2P_PREFIX: Final = b"libp2p-tls-handshake:"
_ENROL_PREFIX: Final = b"cluster-enrol-v1:"
_RENEW_PREFIX: Final = b"cluster-renew-v1:"
_KEY_PROTOBUF_PREFIX: Final = b"\x08\x01\x12\x20"  # type Ed25519, 32 bytes
_SIGNED_KEY_HEAD: Final = b"\x30\x68\x04\x24"  # SEQUENCE of 36 and 64 octets
_SIGNED_KEY_BYTES: Final = 106


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A new TLS key and its certificate request."""

    key_pem: bytes
    request_der: bytes
    spki_der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """The holder named in a certificate."""

    did: Did
    is_node: bool
    serial: int
    not_before: datetime
    not_after: datetime
    not_before_ms: int
    """The same, as calls are judged by it."""
    not_after_ms: int

    @property
    def node_id(self) -> NodeId:
        """The DID as a PeerID."""
        return node_id_from_did(self.did)


def make_tls_key(identity: Identity) -> TlsKey:
    """Make a P-256 key, and a request that binds it to the identity."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = identity.sign(_LIBP2P_PREFIX + spki)
    signed_key = (
        _SIGNED_KEY_HEAD + _KEY_PROTOBUF_PREFIX + identity.public_key + b"\x04\x40" + signature
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.UnrecognizedExtension(LIBP2P_EXTENSION, signed_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return TlsKey(pem, request.public_bytes(Encoding.DER), spki)


def enrolment_message(token_id: str, spki_der: bytes) -> bytes:
    """The message a joiner signs to prove possession of its identity key."""
    return _ENROL_PREFIX + token_id.encode() + spki_der


def renewal_message(certificate_pem: bytes, spki_der: bytes) -> bytes:
    """The message a member signs to replace this certificate; raises CERTIFICATE_INVALID."""
    why = "that is not a certificate; send the one that has expired"
    certificate = _loaded(certificate_pem, why)
    return _RENEW_PREFIX + certificate.fingerprint(hashes.SHA256()) + spki_der


def request_spki(request_der: bytes) -> bytes:
    """The public key of a valid certificate request, P-256; raises INVALID_ARGUMENT."""
    return _spki(_load_request(request_der).public_key())


def spki_pin(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's public key, in hexadecimal."""
    return sha256(_spki(certificate.public_key())).hexdigest()


def pin_of(certificate_pem: bytes) -> str:
    """The `spki_pin` of a certificate in PEM."""
    return spki_pin(x509.load_pem_x509_certificate(certificate_pem))


class CertificateAuthority:
    """A root of the cluster and its key, kept sealed in the log; only the leader signs."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @classmethod
    def create(cls, cluster_name: str, now: datetime) -> "CertificateAuthority":
        """Make a new CA, valid for 10 years."""
        key = ec.generate_private_key(ec.SECP256R1())
        # A unique name: TLS finds a root by name, and of two with equal names takes the first.
        own = sha256(_spki(key.public_key())).hexdigest()[:16]
        title = f"{cluster_name[:36]} cluster CA {own}"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - ROOT_BACKDATE)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def load_der(cls, key_der: bytes, certificate_pem: bytes) -> "CertificateAuthority":
        """Read a CA; raises HOME_DAMAGED, if the two do not belong together."""
        try:
            key = load_der_private_key(key_der, None)
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError as error:
            raise ClusterError(
                Reason.HOME_DAMAGED, "the CA's key or certificate is damaged; restore it"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or _spki(key.public_key()) != _spki(
            certificate.public_key()
        ):
            raise ClusterError(Reason.HOME_DAMAGED, "the CA's key and certificate do not match")
        return cls(key, certificate)

    @property
    def key_der(self) -> bytes:
        """The private key as PKCS#8. It is only ever stored sealed."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def signed(self, certificate_pem: bytes) -> bool:
        """Whether this CA signed a certificate."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        request_der: bytes,
        did: Did,
        *,
        hosts: Sequence[str],
        is_node: bool,
        now: datetime,
        lifetime: timedelta = LEAF_LIFETIME,
    ) -> bytes:
        """Sign a leaf certificate for a holder with a proof of possession of its key; returns PEM.

        Of the request only its key and its libp2p extension are taken. `hosts` are DNS names and
        addresses of a node (see `certified_hosts`), which may serve; a client may only call. The
        lifetime counts from `now`, and is at most as long as the CA's own.

        Raises:
            ClusterError: INVALID_ARGUMENT for an invalid request, PROOF_INVALID for an extension
                that the identity did not sign.
        """
        request = _load_request(request_der)
        spki = _spki(request.public_key())
        extension = _libp2p_extension(request.extensions)
        if extension is None or _extension_did(extension, spki) != did:
            raise ClusterError(
                Reason.PROOF_INVALID,
                "the request's key is not signed by the identity; make a new one",
            )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(did)]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if is_node:
            names.append(x509.DNSName(tls_name(node_id_from_did(did))))
            names.extend(_general_name(host) for host in certified_hosts(hosts))
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, did[:64])]))
            .issuer_name(self.certificate.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.UnrecognizedExtension(LIBP2P_EXTENSION, extension), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)


class PeerVerifier:
    """Identifies a TLS peer, whose chain the TLS layer has already verified."""

    def __init__(self) -> None:
        self._verified: OrderedDict[bytes, PeerIdentity] = OrderedDict()

    def verify(self, certificate_pem: bytes, now_ms: int) -> PeerIdentity:
        """Read and check a peer's certificate, at a time in milliseconds since 1970 (UTC).

        Runs for every call: a certificate's content is cached, its expiry is checked each time,
        since a TLS session outlives its certificate.

        Raises:
            ClusterError: CERTIFICATE_INVALID.
        """
        peer = self._verified.get(certificate_pem)
        if peer is None:
            peer = read_certificate(certificate_pem)
            self._verified[certificate_pem] = peer
            if len(self._verified) > VERIFIED_CERTIFICATES_MAX:
                self._verified.popitem(last=False)
        if not peer.not_before_ms <= now_ms <= peer.not_after_ms:
            raise ClusterError(
                Reason.CERTIFICATE_INVALID,
                f"the certificate is valid from {peer.not_before:%F %T} to {peer.not_after:%F %T} "
                "UTC; check the clock, or renew it",
            )
        return peer


def read_certificate(certificate_pem: bytes) -> PeerIdentity:
    """Read a certificate's holder, who signed its key; raises CERTIFICATE_INVALID."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
        did = parse_did(uri)
        extension = _libp2p_extension(certificate.extensions)
        spki = _spki(certificate.public_key())
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
            raise ValueError("no client certificate")
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, ClusterError) as error:
        raise ClusterError(
            Reason.CERTIFICATE_INVALID, "the certificate names no identity; join again"
        ) from error
    if extension is None or _extension_did(extension, spki) != did:
        raise ClusterError(
            Reason.CERTIFICATE_INVALID, "the certificate's key is not signed by its identity"
        )
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return PeerIdentity(
        did=did,
        is_node=ExtendedKeyUsageOID.SERVER_AUTH in usages,
        serial=certificate.serial_number,
        not_before=begins,
        not_after=ends,
        not_before_ms=int(begins.timestamp()) * 1000,
        not_after_ms=int(ends.timestamp()) * 1000,
    )


def record_of(certificate_pem: bytes, *, issued_at_ms: int, epoch: int) -> CertificateRecord:
    """The log's record of a certificate just signed."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return CertificateRecord(
        serial=certificate.serial_number,
        did=read_certificate(certificate_pem).did,
        spki_hash=sha256(_spki(certificate.public_key())).digest(),
        not_after_s=int(certificate.not_valid_after_utc.timestamp()),
        issued_at_ms=issued_at_ms,
        epoch=epoch,
    )


def validity_of(certificate_pem: bytes) -> tuple[datetime, datetime]:
    """The validity period of a certificate; raises CERTIFICATE_INVALID."""
    why = "the certificate is damaged; restore it, or join in another --home"
    certificate = _loaded(certificate_pem, why)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _loaded(certificate_pem: bytes, why: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise ClusterError(Reason.CERTIFICATE_INVALID, why) from error


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ClusterError(Reason.INVALID_ARGUMENT, "the TLS key must be on the curve P-256")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load_request(request_der: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_der_x509_csr(request_der)
        if not request.is_signature_valid:
            raise InvalidSignature
        _spki(request.public_key())
        _ = request.extensions  # Parses them, so that a malformed one is refused here.
    except (
        ValueError,
        InvalidSignature,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise ClusterError(
            Reason.INVALID_ARGUMENT, "the certificate request is damaged; make a new one"
        ) from error
    return request


def _libp2p_extension(extensions: x509.Extensions) -> bytes | None:
    try:
        value = extensions.get_extension_for_oid(LIBP2P_EXTENSION).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else None


def _extension_did(extension: bytes, spki: bytes) -> Did | None:
    """The signer of `spki` by the extension; None if malformed or wrongly signed."""
    if (
        len(extension) != _SIGNED_KEY_BYTES
        or extension[:4] != _SIGNED_KEY_HEAD
        or extension[4:8] != _KEY_PROTOBUF_PREFIX
        or extension[40:42] != b"\x04\x40"
    ):
        return None
    did = did_from_public_key(extension[8:40])
    return did if verify_signature(did, extension[42:], _LIBP2P_PREFIX + spki) else None


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    # A name under .peer stands for an identity, so a joiner may not advertise one.
    if not host.isascii() or "*" in host or host.lower().rstrip(".").endswith(".peer"):
        raise ClusterError(
            Reason.INVALID_ARGUMENT, f"{host[:80]!r} can't be in a certificate; advertise another"
        )
    return x509.DNSName(host)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )

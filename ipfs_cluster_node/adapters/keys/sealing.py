"""Seals the cluster's keys: the CA's and the authority's under a data key, that one to each master.

Everything except the masters' own X25519 keys and the passphrase is in the log, its snapshots and
backups. docs/security.md, "Certificates", has the form byte by byte.

Source: RFC 9180 (HPKE, base mode); RFC 9106 (Argon2id), 4, second recommended parameters.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ipfs_cluster_node.adapters.keys.certificates import CertificateAuthority
from ipfs_cluster_node.adapters.keys.identity import Identity, load_private
from ipfs_cluster_node.core.certificates import Authority
from ipfs_cluster_node.core.dag_cbor import DagCborError, decode, encode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did

DATA_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
X25519_BYTES: Final = 32
TIME_BYTES: Final = 8
KEY_ID_BYTES: Final = 8
PLAINTEXT_BYTES_MAX: Final = 4096
PASSPHRASE_CHARS_MIN: Final = 16
ARGON2_ITERATIONS: Final = 3
ARGON2_LANES: Final = 4
ARGON2_MEMORY_KIB: Final = 64 * 1024

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_FORM: Final = 1


@dataclass(frozen=True, slots=True, repr=False)
class ClusterKeys:
    """The cluster's keys in the clear. Never stored, never logged."""

    cas: tuple[CertificateAuthority, ...]
    """One per root, in the order of the roots."""
    authority: Identity


class SealKey:
    """A master's X25519 key, to which the cluster's keys are sealed."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()

    @classmethod
    def create(cls) -> "SealKey":
        """Make a new key."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> "SealKey":
        """Load a key from the output of `pem`."""
        key = load_pem_private_key(pem, None)
        assert isinstance(key, X25519PrivateKey)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> "SealKey":
        """Read a key file; raises HOME_DAMAGED, also if others may read it."""
        way_out = "or move it away and run: ipfs-cluster-node recover keys"
        return cls(load_private(path, X25519PrivateKey, f"an X25519 key; restore it, {way_out}"))

    def pem(self) -> bytes:
        """The private key as PKCS#8 PEM. Store it 0600."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def open(self, sealed: bytes, *, cluster_id: str, key_id: str) -> bytes:
        """Open a data key sealed to this key for this use; raises AUTHORITY_SEALED."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=_info(cluster_id, key_id))
        except (InvalidTag, ValueError) as error:
            raise ClusterError(
                Reason.AUTHORITY_SEALED,
                "the cluster's keys are not sealed to this master's seal.key; restore that file, "
                "or run: ipfs-cluster-node recover keys",
            ) from error


def recovery_key(passphrase: str, cluster_id: str) -> SealKey:
    """Derive the key of a passphrase; takes 0.2 s and 64 MiB. INVALID_ARGUMENT for a short one."""
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"a recovery passphrase has at least {PASSPHRASE_CHARS_MIN} characters; choose a "
            "longer one",
        )
    # Derived from the cluster, not random: the passphrase alone must be enough to make the key.
    salt = sha256(f"ipfs-cluster-node recovery v1 {cluster_id}".encode()).digest()[:16]
    secret = Argon2id(
        salt=salt,
        length=32,
        iterations=ARGON2_ITERATIONS,
        lanes=ARGON2_LANES,
        memory_cost=ARGON2_MEMORY_KIB,
    ).derive(passphrase.encode())
    return SealKey(X25519PrivateKey.from_private_bytes(secret))


def make_passphrase() -> str:
    """Make a recovery passphrase of 150 bits, in groups that are easy to write down."""
    alphabet = "abcdefghjkmnpqrstuvwxyz023456789"
    groups = ("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(6))
    return "-".join(groups)


def resealed(
    authority: Authority, keys: ClusterKeys, *, cluster_id: str, seal_keys: Mapping[Did, bytes]
) -> Authority:
    """Return the authority's next version: the keys under a new data key, the same passphrase.

    A new cluster's authority has no sealed keys yet. `seal_keys` are the masters' public keys.
    """
    key_id = secrets.token_hex(KEY_ID_BYTES)
    data_key = secrets.token_bytes(DATA_KEY_BYTES)
    nonce = secrets.token_bytes(NONCE_BYTES)
    plaintext = encode(
        {
            "v": _FORM,
            "authority": keys.authority.private_key.private_bytes_raw(),
            "ca": [ca.key_der for ca in keys.cas],
        }
    )
    sealed = AESGCM(data_key).encrypt(nonce, plaintext, _info(cluster_id, key_id))
    return replace(
        authority,
        version=authority.version + 1,
        key_id=key_id,
        ciphertext=nonce + sealed,
        wraps=tuple(
            (did, wrap(data_key, public_key, cluster_id=cluster_id, key_id=key_id))
            for did, public_key in sorted(seal_keys.items())
        ),
        recovery_wrap=wrap(data_key, authority.recovery_key, cluster_id=cluster_id, key_id=key_id),
    )


def open_data_key(
    authority: Authority,
    *,
    wrapped: bytes | None,
    cluster_id: str,
    seal_key: SealKey | None,
    recovery: SealKey | None,
) -> bytes:
    """Open the data key with whichever key works: the passphrase may have changed meanwhile.

    `wrapped` is the data key as sealed to this master; None if it is not.

    Raises:
        ClusterError: AUTHORITY_SEALED.
    """
    error = ClusterError(
        Reason.AUTHORITY_SEALED,
        "the cluster's keys are not sealed to this master yet; make another master lead, or "
        "run: ipfs-cluster-node recover keys",
    )
    for opener, sealed in ((seal_key, wrapped), (recovery, authority.recovery_wrap)):
        if opener is not None and sealed:
            try:
                return opener.open(sealed, cluster_id=cluster_id, key_id=authority.key_id)
            except ClusterError as refused:
                error = refused
    raise error


def recovery_request(public_key: bytes, *, until_ms: int) -> bytes:
    """A request for another passphrase, which the leader accepts until the given time."""
    return public_key + until_ms.to_bytes(TIME_BYTES)


def recovery_change(request: bytes, *, now_ms: int) -> bytes | None:
    """The requested public key; None if the request is too old or malformed."""
    public_key, until = request[:X25519_BYTES], request[X25519_BYTES:]
    if len(until) != TIME_BYTES or now_ms > int.from_bytes(until):
        return None
    return public_key


def wrap(data_key: bytes, public_key: bytes, *, cluster_id: str, key_id: str) -> bytes:
    """Seal a data key to an X25519 public key."""
    key = X25519PublicKey.from_public_bytes(public_key)
    return _SUITE.encrypt(data_key, key, info=_info(cluster_id, key_id))


def open_keys(authority: Authority, data_key: bytes, *, cluster_id: str) -> ClusterKeys:
    """Open the cluster's keys; raises AUTHORITY_SEALED for another data key, or damage."""
    nonce, sealed = authority.ciphertext[:NONCE_BYTES], authority.ciphertext[NONCE_BYTES:]
    try:
        plaintext = AESGCM(data_key).decrypt(nonce, sealed, _info(cluster_id, authority.key_id))
        document = decode(plaintext, bytes_max=PLAINTEXT_BYTES_MAX, depth_max=4)
        assert isinstance(document, dict)
        if document["v"] != _FORM:
            raise ValueError("unknown form")
        secret, ca_keys = document["authority"], document["ca"]
        assert isinstance(secret, bytes)
        assert isinstance(ca_keys, list)
        cas = []
        for der, root in zip(ca_keys, authority.roots, strict=True):
            assert isinstance(der, bytes)
            cas.append(CertificateAuthority.load_der(der, root.encode()))
        return ClusterKeys(tuple(cas), Identity(Ed25519PrivateKey.from_private_bytes(secret)))
    except (InvalidTag, DagCborError, ValueError, KeyError, AssertionError) as error:
        raise ClusterError(
            Reason.AUTHORITY_SEALED, "the cluster's sealed keys can't be opened with this data key"
        ) from error


def _info(cluster_id: str, key_id: str) -> bytes:
    """Binds a ciphertext to one cluster, one data key and this use."""
    return f"ipfs-cluster-node keys v1 {cluster_id} {key_id}".encode()

"""The Ed25519 identity of a node or a client."""

import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ipfs_cluster_node.config.files import is_of_another_user, read_regular
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import (
    Did,
    NodeId,
    did_from_public_key,
    node_id_from_public_key,
)


class Identity:
    """A principal's key. It never changes; certificates and TLS keys do."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()

    @classmethod
    def create(cls) -> "Identity":
        """Make a new identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> "Identity":
        """Load a key from the output of `pem`."""
        key = load_pem_private_key(pem, None)
        assert isinstance(key, Ed25519PrivateKey)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read an identity file; raises HOME_DAMAGED, also if others may read it."""
        way_out = "or join with a new identity in another --home"
        return cls(load_private(path, Ed25519PrivateKey, f"an Ed25519 key; restore it, {way_out}"))

    @property
    def did(self) -> Did:
        """The key as a DID."""
        return did_from_public_key(self.public_key)

    @property
    def node_id(self) -> NodeId:
        """The key as a PeerID."""
        return node_id_from_public_key(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Sign; 64 bytes."""
        return self._key.sign(message)

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """The key itself, for other signature formats."""
        return self._key

    def pem(self) -> bytes:
        """The private key as PKCS#8 PEM. Store it 0600."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def check_private(path: Path) -> None:
    """Raise HOME_DAMAGED for a secret that others may read, or another user may open."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{path} is missing; restore it, or join with a new identity in another --home",
        ) from error
    if is_of_another_user(status):
        raise ClusterError(
            Reason.HOME_DAMAGED,
            f"{path} belongs to the user with id {status.st_uid}; run this as that user, or: chown "
            f"{os.geteuid()} '{path}'",
        )
    if status.st_mode & 0o077:
        raise ClusterError(
            Reason.HOME_DAMAGED, f"{path} is open to others; run: chmod 600 '{path}'"
        )


def load_private(path: Path, kind: Any, wanted: str) -> Any:
    """Read a secret key in PEM; `wanted` names its kind, and the way out.

    Raises:
        ClusterError: HOME_DAMAGED, if it is missing, of another kind, or readable by others.
    """
    check_private(path)
    try:
        key = load_pem_private_key(read_regular(path), None)
    except ValueError:
        key = None
    if not isinstance(key, kind):
        raise ClusterError(Reason.HOME_DAMAGED, f"{path} is not {wanted}")
    return key

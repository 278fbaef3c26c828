"""The forms in which a secret might leak."""

import base64
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def spellings(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # However it is aligned in what was encoded, but for its ends.
        for lead in range(3):
            yield encode(b"\0" * lead + secret)[4 * (lead > 0) : -4]


def secret_of(key: object) -> bytes:
    """The 32 bytes that are the private key."""
    if isinstance(key, EllipticCurvePrivateKey):
        return key.private_numbers().private_value.to_bytes(32, "big")
    assert isinstance(key, Ed25519PrivateKey | X25519PrivateKey), key
    return key.private_bytes_raw()


def found(needles: dict[bytes, str], text: bytes) -> set[str]:
    return {name for needle, name in needles.items() if needle in text}

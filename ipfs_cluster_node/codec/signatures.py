"""Signatures of principals: Ed25519, by the key that a DID spells.

Source: RFC 8032; the points of small order by curve arithmetic, as tests/codec does it.
"""

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ipfs_cluster_node.core.ids import CONVERSIONS_MAX, Did, public_key_from_did

_P: Final = (1 << 255) - 19
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        int("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16),
        int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16),
    }
)
"""The y of the points whose order divides 8: for such a key anyone can forge signatures."""


def verify_signature(did: Did, signature: bytes, message: bytes) -> bool:
    """Whether `did` signed `message`; False for a key that anyone can sign for."""
    try:
        _public_key(did).verify(signature, message)
    except (ValueError, InvalidSignature):
        return False
    return True


@lru_cache(maxsize=CONVERSIONS_MAX)
def _public_key(did: Did) -> Ed25519PublicKey:
    binary = public_key_from_did(did)
    y = int.from_bytes(binary, "little") & ((1 << 255) - 1)
    if y >= _P or y in _SMALL_ORDER_Y:
        raise ValueError("a key of small order, or not in its one encoding")
    return Ed25519PublicKey.from_public_bytes(binary)

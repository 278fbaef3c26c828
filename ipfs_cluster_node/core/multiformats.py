"""The few multiformats this project speaks: varint, base32, base36, base58btc and CIDs.

Source: multiformats/unsigned-varint, multiformats/multibase, multiformats/cid.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

RAW: Final = 0x55
DAG_PB: Final = 0x70
DAG_CBOR: Final = 0x71
LIBP2P_KEY: Final = 0x72
SHA2_256: Final = 0x12

STORED_CODECS: Final = frozenset({RAW, DAG_PB})
"""Codecs of the blocks that this project stores and serves."""
TOKEN_CODECS: Final = frozenset({DAG_CBOR})
"""Codec of UCAN tokens."""
CID_TEXT_CHARS_MAX: Final = 128
"""Longest CID text that is parsed at all; a base32 SHA-256 CIDv1 has 59 characters."""

_VARINT_BYTES_MAX: Final = 9
_CANONICAL: Final = re.compile(r"b(?:afkrei|afybei)[a-h][a-z2-7]{50}[aeimquy4]")
"""The prefixes of this version, codec and hash, and a last character with two unused bits."""
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_INDEX: Final = {char: value for value, char in enumerate(_BASE58)}
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def encode_varint(value: int) -> bytes:
    """Encode `value` (0 or more) as an unsigned LEB128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Read one minimal varint at `offset`; return its value and the offset after it.

    Raises:
        ValueError: Truncated, longer than 9 bytes, or not minimal.
    """
    value = 0
    for count in range(_VARINT_BYTES_MAX):
        if offset + count >= len(data):
            raise ValueError("varint is cut off")
        byte = data[offset + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if byte == 0 and count > 0:
                raise ValueError("varint is not minimal")
            return value, offset + count + 1
    raise ValueError("varint is longer than 9 bytes")


def encode_base58(data: bytes) -> str:
    """Encode as base58btc without a multibase prefix."""
    number = int.from_bytes(data, "big")
    chars: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        chars.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(chars))


def decode_base58(text: str) -> bytes:
    """Decode base58btc without a multibase prefix.

    Raises:
        ValueError: A character outside the alphabet.
    """
    number = 0
    for char in text:
        digit = _BASE58_INDEX.get(char)
        if digit is None:
            raise ValueError(f"{char!r} is not a base58 character")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode_base36(data: bytes) -> str:
    """Encode as lower-case base36 without a multibase prefix."""
    number = int.from_bytes(data, "big")
    chars: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        chars.append(_BASE36[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "0" * zeros + "".join(reversed(chars))


@dataclass(frozen=True, slots=True)
class Cid:
    """A content identifier with a SHA-256 multihash, as this project knows them."""

    codec: int
    """`RAW` or `DAG_PB` of content, `DAG_CBOR` of a UCAN token."""
    digest: bytes
    """32 bytes."""

    @property
    def binary(self) -> bytes:
        """The CIDv1 in binary, 36 bytes."""
        return b"\x01" + encode_varint(self.codec) + b"\x12\x20" + self.digest

    def __str__(self) -> str:
        """The CIDv1 in base32, as `ipfs add --cid-version=1` prints it."""
        return "b" + base64.b32encode(self.binary).decode("ascii").lower().rstrip("=")

    def matches(self, block: bytes) -> bool:
        """Whether this CID is that of `block`."""
        return hashlib.sha256(block).digest() == self.digest


RAW_TEXT_BEGINS: Final = str(Cid(RAW, bytes(32)))[:7]
"""How each `str(Cid)` of codec `RAW` begins, and no other: such a block needs no parsing."""


def cid_of(codec: int, block: bytes) -> Cid:
    """The CID of `block` under `codec`."""
    return Cid(codec, hashlib.sha256(block).digest())


def is_canonical(text: str) -> bool:
    """Whether this is the CID of a stored block, spelled as `str(Cid)` does: no need to parse it.

    False means nothing: it may be a CID in another spelling, or no CID.
    """
    return _CANONICAL.fullmatch(text) is not None


def parse_cid(text: str, *, codecs: frozenset[int] = STORED_CODECS) -> Cid:
    """Parse a CIDv1 in base32 or base58btc, or a CIDv0 (`Qm…`).

    Raises:
        ValueError: Not such a CID, or of a codec or hash that is not taken; the message says which.
    """
    if not text or len(text) > CID_TEXT_CHARS_MAX or not text.isascii():
        raise ValueError(f"a CID has 1 to {CID_TEXT_CHARS_MAX} ASCII characters")
    if len(text) == 46 and text.startswith("Qm"):
        return _parse_binary(b"\x01\x70" + decode_base58(text), codecs)
    if text[0] == "z":
        return _parse_binary(decode_base58(text[1:]), codecs)
    if text[0] not in "bB":
        raise ValueError("a CID begins with 'b' (base32), 'z' (base58btc) or 'Qm' (version 0)")
    body = text[1:].upper()
    try:
        binary = base64.b32decode(body + "=" * (-len(body) % 8))
    except binascii.Error as error:
        raise ValueError("not base32") from error
    return _parse_binary(binary, codecs)


def parse_cid_binary(binary: bytes, *, codecs: frozenset[int] = STORED_CODECS) -> Cid:
    """Parse a CID as links hold it: CIDv1 in binary, or a bare SHA-256 multihash (CIDv0).

    Raises:
        ValueError: Not such a CID, or of a codec or hash that is not taken.
    """
    if len(binary) == 34 and binary[:2] == b"\x12\x20" and DAG_PB in codecs:
        return Cid(DAG_PB, binary[2:])
    return _parse_binary(binary, codecs)


def _parse_binary(binary: bytes, codecs: frozenset[int]) -> Cid:
    version, offset = decode_varint(binary)
    if version != 1:
        raise ValueError(f"CID version {version} is not known")
    codec, offset = decode_varint(binary, offset)
    if codec not in codecs:
        taken = " and ".join(f"0x{known:x}" for known in sorted(codecs))
        raise ValueError(f"codec 0x{codec:x} is not taken here; {taken} is")
    algorithm, offset = decode_varint(binary, offset)
    length, offset = decode_varint(binary, offset)
    if (algorithm, length) != (SHA2_256, 32):
        raise ValueError("only CIDs with a 32-byte SHA-256 hash are taken here")
    digest = binary[offset:]
    if len(digest) != length:
        raise ValueError(f"the hash has {len(digest)} bytes, not {length}")
    return Cid(codec, digest)

"""Strict DAG-CBOR: every value has one encoding, and any other is refused.

Size and depth are checked first, so hostile input costs no more than its length.

Source: ipld.io/specs/codecs/dag-cbor; RFC 8949 for the heads.
"""

import math
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from ipfs_cluster_node.core.multiformats import Cid, decode_varint

DEPTH_MAX: Final = 64
"""Deepest nesting that any caller may allow; Python's own stack bears several times that."""

_UNSIGNED: Final = 0
_NEGATIVE: Final = 1
_BYTES: Final = 2
_TEXT: Final = 3
_LIST: Final = 4
_MAP: Final = 5
_TAG: Final = 6

_LINK_TAG: Final = 42
_SIMPLE: Final[dict[int, bool | None]] = {0xF4: False, 0xF5: True, 0xF6: None}
_FLOAT64: Final = 0xFB
_ARGUMENT_MIN: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""Smallest value that needs 1, 2, 4 or 8 bytes, by the kind of head."""
_HEADS: Final = tuple((first >> 5, first & 0x1F) for first in range(256))
_INT_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Link:
    """A CID of any codec and hash, as data may contain it."""

    binary: bytes
    """The CID in binary, well formed: 34 bytes of version 0, or version 1."""

    @classmethod
    def to(cls, cid: Cid) -> "Link":
        """A link to `cid`."""
        return cls(cid.binary)


Value: TypeAlias = "bool | int | float | str | bytes | Link | list[Value] | dict[str, Value] | None"
"""The values of DAG-CBOR. Ints lie in -2^64 to 2^64 - 1, floats are finite."""


class DagCborError(ValueError):
    """Bytes that are not canonical DAG-CBOR, or a value that it can't hold."""


def decode(data: bytes, *, bytes_max: int, depth_max: int) -> Value:
    """Decode the one value that `data` encodes.

    Args:
        data: Canonical DAG-CBOR, with nothing after it.
        bytes_max: Largest size.
        depth_max: Deepest nesting of lists and maps, 0 to `DEPTH_MAX`.

    Raises:
        DagCborError: Too large, too deep, cut off, or not canonical.
    """
    if len(data) > bytes_max:
        raise DagCborError(f"over {bytes_max} bytes")
    reader = _Reader(data)
    value = reader.value(min(depth_max, DEPTH_MAX))
    if reader.offset != len(data):
        raise DagCborError("bytes follow the value")
    return value


def encode(value: Value, *, depth_max: int = DEPTH_MAX) -> bytes:
    """Encode `value` canonically.

    Raises:
        DagCborError: Nested deeper than `depth_max`, or holding what DAG-CBOR can't: another type,
            an int out of range, a float that is not finite, text with lone surrogates.
    """
    out = bytearray()
    _encode(value, out, min(depth_max, DEPTH_MAX))
    return bytes(out)


class _Reader:
    """A position in the bytes."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def value(self, depth: int) -> Value:
        """Read one value with at most `depth` levels of lists and maps."""
        major, argument = self._head()
        if major == _TEXT:
            return _text(self._take(argument))
        if major == _UNSIGNED:
            return argument
        if major == _BYTES:
            return self._take(argument)
        if major == _NEGATIVE:
            return -1 - argument
        if major == _TAG:
            return self._link(argument)
        if major > _TAG:
            return self._simple()
        if depth == 0:
            raise DagCborError("nested too deep")
        return self._list(argument, depth) if major == _LIST else self._map(argument, depth)

    def _head(self) -> tuple[int, int]:
        """Read a head; that of a simple value is left unread."""
        data, offset = self.data, self.offset
        if offset >= len(data):
            raise DagCborError("cut off")
        major, argument = _HEADS[data[offset]]
        if major > _TAG:
            return major, 0
        if argument < 24:
            self.offset = offset + 1
            return major, argument
        least = _ARGUMENT_MIN.get(argument)
        if least is None:
            raise DagCborError("indefinite or reserved length")
        end = offset + 1 + (1 << (argument - 24))
        if end > len(data):
            raise DagCborError("cut off")
        argument = int.from_bytes(data[offset + 1 : end], "big")
        if argument < least:
            raise DagCborError("a number is not in its shortest form")
        self.offset = end
        return major, argument

    def _take(self, count: int) -> bytes:
        start = self.offset
        end = start + count
        if end > len(self.data):
            raise DagCborError("cut off")
        self.offset = end
        return self.data[start:end]

    def _simple(self) -> Value:
        first = self.data[self.offset]
        self.offset += 1
        if first in _SIMPLE:
            return _SIMPLE[first]
        if first != _FLOAT64:
            raise DagCborError("a simple value or float that DAG-CBOR does not have")
        [number] = struct.unpack(">d", self._take(8))
        if not math.isfinite(number):
            raise DagCborError("a float is not finite")
        return float(number)

    def _link(self, tag: int) -> Link:
        if tag != _LINK_TAG:
            raise DagCborError("a tag other than 42")
        major, argument = self._head()
        if major != _BYTES:
            raise DagCborError("a link is not bytes")
        content = self._take(argument)
        if content[:1] != b"\0":
            raise DagCborError("a link lacks its leading zero")
        _check_cid(content[1:])
        return Link(content[1:])

    def _list(self, count: int, depth: int) -> list[Value]:
        if count > len(self.data) - self.offset:
            raise DagCborError("cut off")
        return [self.value(depth - 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, Value]:
        if 2 * count > len(self.data) - self.offset:
            raise DagCborError("cut off")
        found: dict[str, Value] = {}
        longest, previous = -1, b""
        for _ in range(count):
            major, length = self._head()
            if major != _TEXT:
                raise DagCborError("a key is not text")
            key = self._take(length)
            if length < longest or (length == longest and key <= previous):
                raise DagCborError("keys repeat or are not in order")
            longest, previous = length, key
            found[_text(key)] = self.value(depth - 1)
        return found


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        raise DagCborError("text is not UTF-8") from None


def _check_cid(binary: bytes) -> None:
    if len(binary) == 34 and binary[:2] == b"\x12\x20":
        return
    if len(binary) == 36 and binary[2:4] == b"\x12\x20" and binary[0] == 1 and binary[1] < 0x80:
        return  # Fast path for the usual one: a one-byte codec and SHA-256.
    try:
        version, offset = decode_varint(binary)
        _, offset = decode_varint(binary, offset)
        _, offset = decode_varint(binary, offset)
        length, offset = decode_varint(binary, offset)
    except ValueError:
        raise DagCborError("a link is not a CID") from None
    if version != 1 or length != len(binary) - offset:
        raise DagCborError("a link is not a CID")


def _encode(value: Value, out: bytearray, depth: int) -> None:
    # By exact type: a bool is an int to Python, and subclasses may lie about their content.
    kind = type(value)
    if kind is str:
        _encode_text(value, out)  # type: ignore[arg-type]
    elif kind is int:
        _encode_int(value, out)  # type: ignore[arg-type]
    elif isinstance(value, bytes):
        _encode_head(_BYTES, len(value), out)
        out += value
    elif isinstance(value, Link):
        _check_cid(value.binary)
        _encode_head(_TAG, _LINK_TAG, out)
        _encode(b"\0" + value.binary, out, depth)
    elif value is None or kind is bool:
        out.append(0xF6 if value is None else 0xF4 + bool(value))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DagCborError("a float is not finite")
        out += struct.pack(">Bd", _FLOAT64, value)
    elif isinstance(value, list | dict):
        if depth == 0:
            raise DagCborError("nested too deep")
        _encode_collection(value, out, depth - 1)
    else:
        raise DagCborError(f"DAG-CBOR holds no {kind.__name__}")


def _encode_collection(value: list[Value] | dict[str, Value], out: bytearray, depth: int) -> None:
    if isinstance(value, list):
        _encode_head(_LIST, len(value), out)
        for item in value:
            _encode(item, out, depth)
        return
    keyed = []
    for key, item in value.items():
        text = bytearray()
        _encode_text(key, text)
        keyed.append((text, item))
    # The head grows with the length, so this is the order by length, then by bytes.
    keyed.sort(key=lambda pair: bytes(pair[0]))
    _encode_head(_MAP, len(keyed), out)
    for text, item in keyed:
        out += text
        _encode(item, out, depth)


def _encode_text(text: str, out: bytearray) -> None:
    if not isinstance(text, str):
        raise DagCborError("a key is not text")
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise DagCborError("text has lone surrogates") from None
    _encode_head(_TEXT, len(encoded), out)
    out += encoded


def _encode_int(number: int, out: bytearray) -> None:
    if not -_INT_MAX - 1 <= number <= _INT_MAX:
        raise DagCborError("an int is out of range")
    if number < 0:
        _encode_head(_NEGATIVE, -1 - number, out)
    else:
        _encode_head(_UNSIGNED, number, out)


def _encode_head(major: int, argument: int, out: bytearray) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
        return
    size = next(size for size in (1, 2, 4, 8) if argument < 1 << (8 * size))
    out.append(major << 5 | (23 + size.bit_length()))
    out += argument.to_bytes(size, "big")

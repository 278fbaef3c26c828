"""Counts the elements of an encoded message before parsing it.

Two bytes on the wire may become a hundred in memory: an empty message of a repeated field. So a
request's size in bytes bounds neither the memory nor the time of parsing.
"""

from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_VARINT_BYTES_MAX: Final = 10
_HIGH_BYTES: Final = bytes(range(0x80, 0x100))
"""Bytes after which a varint continues."""
_FIXED: Final = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}
_VARINTS: Final = 0


def count_elements(data: bytes, descriptor: Descriptor, most: int) -> int:
    """Count the fields of a message, of the messages in it, and its packed numbers.

    A message whose type has no repeated field, even nested, counts as one and is not entered.
    Counting stops at the first element beyond `most`.

    Raises:
        ValueError: The bytes are not a message. They must not pass uncounted, as a parser may
            accept what this does not.
    """
    try:
        return _count(data, descriptor, most)
    except IndexError:
        raise ValueError("ends too early") from None


def _count(data: bytes, descriptor: Descriptor, most: int) -> int:
    at, end, fields = 0, len(data), _inner(descriptor)
    outer: list[tuple[int, dict[int, Descriptor | int]]] = []
    count = 0
    while True:
        if at >= end:
            if at > end:
                raise ValueError("malformed")
            if not outer:
                return count
            end, fields = outer.pop()
            continue
        # Fast path: most varints have one byte.
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1)
        count += 1
        if count > most:
            return count
        if tag & 7 == _BYTES:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
            inner = fields.get(tag >> 3)
            if inner is None:
                at += size
            elif isinstance(inner, int):
                count += _packed(data, at, size, inner)
                at += size
            elif at + size > end:
                raise ValueError("malformed")
            else:
                outer.append((end, fields))
                end, fields = at + size, _inner(inner)
        else:
            at = _after(data, at, tag & 7)


def _after(data: bytes, at: int, wire: int) -> int:
    """The end of a value other than bytes."""
    if wire == _VARINT:
        return _varint(data, at)[1]
    if wire == _FIXED64:
        return at + 8
    if wire == _FIXED32:
        return at + 4
    if wire in (_GROUP, _GROUP_END):
        return at
    raise ValueError("malformed")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift in range(_VARINT_BYTES_MAX):
        byte = data[at + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("malformed")


def _packed(data: bytes, at: int, size: int, width: int) -> int:
    if width != _VARINTS:
        return size // width
    return len(data[at : at + size].translate(None, _HIGH_BYTES))


@cache
def _inner(descriptor: Descriptor) -> dict[int, Descriptor | int]:
    """The fields with elements: messages to enter, and the width of packed numbers."""
    found: dict[int, Descriptor | int] = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            if _has_repeated(field.message_type, frozenset()):
                found[field.number] = field.message_type
        elif field.is_repeated and field.type not in _UNPACKED:
            found[field.number] = _FIXED.get(field.type, _VARINTS)
    return found


_UNPACKED: Final = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def _has_repeated(descriptor: Descriptor, above: frozenset[Descriptor]) -> bool:
    return any(
        field.is_repeated
        or (
            field.message_type is not None
            and field.message_type not in above
            and _has_repeated(field.message_type, above | {descriptor})
        )
        for field in descriptor.fields
    )

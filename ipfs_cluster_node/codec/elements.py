"""How many elements an encoded message has, counted before anything of it is built.

Two bytes on the wire may become a hundred in memory: an empty message of a repeated field. So a
request's size in bytes bounds neither the memory that parsing takes nor the time.
"""

from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_VARINT_BYTES_MAX: Final = 10
_HIGH_BYTES: Final = bytes(range(0x80, 0x100))
"""Those that a varint goes on after."""
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

    A message of a type that has no repeated field, itself or below, counts as one and is not
    looked into: nothing in it can be there often. Counting ends with the first beyond `most`, or
    where the bytes are no message; what parses them says so.
    """
    try:
        return _count(data, descriptor, most)
    except _MalformedError as error:
        return error.count


class _MalformedError(Exception):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


def _count(data: bytes, descriptor: Descriptor, most: int) -> int:
    at, end, fields = 0, len(data), _inner(descriptor)
    outer: list[tuple[int, dict[int, Descriptor | int]]] = []
    count = 0
    while True:
        if at == end:
            if not outer:
                return count
            end, fields = outer.pop()
            continue
        tag, at = _varint(data, at, end, count)
        count += 1
        if count > most:
            return count
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(data, at, end, count)
        elif wire == _BYTES:
            size, at = _varint(data, at, end, count)
            inner = fields.get(tag >> 3)
            if at + size > end:
                raise _MalformedError(count)
            if inner is None:
                at += size
            elif isinstance(inner, int):
                count += _packed(data, at, size, inner)
                at += size
            else:
                outer.append((end, fields))
                end, fields = at + size, _inner(inner)
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire not in (_GROUP, _GROUP_END):
            raise _MalformedError(count)
        if at > end:
            raise _MalformedError(count)


def _varint(data: bytes, at: int, end: int, count: int) -> tuple[int, int]:
    """A number and where it ends."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = 0
    for shift, byte in enumerate(data[at : min(at + _VARINT_BYTES_MAX, end)]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise _MalformedError(count)


def _packed(data: bytes, at: int, size: int, width: int) -> int:
    if width != _VARINTS:
        return size // width
    return len(data[at : at + size].translate(None, _HIGH_BYTES))


@cache
def _inner(descriptor: Descriptor) -> dict[int, Descriptor | int]:
    """The fields that have elements: messages to look into, and the width of packed numbers."""
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

"""Codecs derived from a dataclass and its message, which alone declare the fields.

`codec` writes two plain functions for a pair, as `dataclasses` writes `__init__`: nothing is looked
up while records pass. A field of one side without a partner on the other is an error when it is
made, at import.

An unset field of the log means what it meant when it did not exist: its own empty value, or the
dataclass's default where an enumeration has no empty value.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from types import NoneType, UnionType
from typing import (
    Any,
    Generic,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ipfs_cluster_node.core.multiformats import DAG_CBOR, Cid

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Codec(Generic[T, M]):
    """Converts between a core value and its message."""

    encode: Callable[[T], M]
    decode: Callable[[M], T]
    named: Callable[[T], dict[str, Any]]
    """The message's fields by their names: within another one it need not be made and copied."""


class By(NamedTuple):
    """How one field is encoded and decoded, where its type does not say it."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


Codecs = Mapping[type, Codec[Any, Any]]

_VALUE, _MESSAGE = "v", "m"


def serial_bytes(serial: int) -> bytes:
    """A serial number, big-endian, in as few bytes as it needs."""
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def codec(
    kind: type[T],
    message: type[M],
    *,
    codecs: Codecs | None = None,
    renamed: Mapping[str, str] | None = None,
    by: Mapping[str, By] | None = None,
    inner: str = "",
    unused: str = "",
) -> Codec[T, M]:
    """Derive the codec of a dataclass or named tuple.

    Args:
        kind: The dataclass.
        message: The message that holds it.
        codecs: Codecs of the records that it contains.
        renamed: Fields whose name in the message is another one.
        by: Fields with a codec of their own.
        inner: A field of the message, itself a message that holds fields of the dataclass.
        unused: A field of the message that has no partner.

    Raises:
        TypeError: A field without a partner, or one of a type that has no codec.
    """
    renamed, by = renamed or {}, by or {}
    hints = get_type_hints(kind)
    theirs = dict(message.DESCRIPTOR.fields_by_name)
    within = theirs.pop(inner).message_type.fields_by_name if inner else {}
    theirs |= within
    theirs.pop(unused, None)
    scope: dict[str, Any] = {"K": kind, "M": message}
    there: list[str] = []
    inside: list[str] = []
    back: list[str] = []
    for field, default in _defaults(kind).items():
        name = renamed.get(field, field)
        partner = theirs.pop(name, None)
        if partner is None:
            raise TypeError(f"{message.__name__} has no {name} for {kind.__name__}.{field}")
        holder = f"{_MESSAGE}.{inner}" if name in within else _MESSAGE
        value, stored = f"{_VALUE}.{field}", f"{holder}.{name}"
        if field in by:
            scope[f"e_{field}"], scope[f"d_{field}"] = by[field]
            encoded, decoded = f"e_{field}({value})", f"d_{field}({stored})"
        else:
            writer = _Writer(scope, codecs or {}, field, default, partner)
            encoded, decoded = writer.of(hints[field], value, stored)
        (inside if name in within else there).append(f"{name}={encoded}")
        back.append(f"{field}={decoded}")
    if inner:
        there.append(f"{inner}=dict({', '.join(inside)})")
    if theirs:
        raise TypeError(f"{kind.__name__} has no {', '.join(theirs)} of {message.__name__}")
    source = (
        f"def encode({_VALUE}): return M({', '.join(there)})\n"
        f"def named({_VALUE}): return dict({', '.join(there)})\n"
        f"def decode({_MESSAGE}): return K({', '.join(back)})\n"
    )
    exec(source, scope)  # noqa: S102  # nosec B102: of nothing but the declarations above.
    return Codec(scope["encode"], scope["decode"], scope["named"])


def by_hand(encode: Callable[[T], M], decode: Callable[[M], T]) -> Codec[T, Any]:
    """A hand-written codec."""
    return Codec(encode, decode, encode)  # type: ignore[arg-type]


def _defaults(kind: Any) -> dict[str, Any]:
    """The default of each field, or MISSING."""
    if issubclass(kind, tuple):
        return {name: kind._field_defaults.get(name, MISSING) for name in kind._fields}
    return {field.name: field.default for field in fields(kind)}


class _Writer:
    """Writes the two expressions of one field."""

    def __init__(
        self,
        scope: dict[str, Any],
        codecs: Codecs,
        field: str,
        default: Any,
        partner: FieldDescriptor,
    ) -> None:
        self._scope, self._codecs, self._partner = scope, codecs, partner
        self._field, self._default = field, default

    def of(self, hint: Any, value: str, stored: str) -> tuple[str, str]:
        """Encode `value`, and decode `stored`."""
        origin, arguments = get_origin(hint), get_args(hint)
        hint = getattr(hint, "__supertype__", hint)
        if origin in (Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
            return self._optional(next(a for a in arguments if a is not NoneType), value, stored)
        if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
            encoded, decoded = self.of(arguments[0], "x", "x")
            if encoded == decoded == "x":
                return value, f"tuple({stored})"
            return f"[{encoded} for x in {value}]", f"tuple([{decoded} for x in {stored}])"
        if origin is not None and issubclass(origin, Mapping):
            # A protobuf map is iterated much faster than its views, and filled by Python code, even
            # with nothing.
            return f"{value} or None", f"{{k: {stored}[k] for k in {stored}}}"
        if hint is Cid:
            self._scope |= {"Cid": Cid, "DAG_CBOR": DAG_CBOR}
            return f"{value}.digest", f"Cid(DAG_CBOR, {stored})"
        if hint is int and self._partner.type == FieldDescriptor.TYPE_BYTES:
            self._scope["serial_bytes"] = serial_bytes
            return f"serial_bytes({value})", f"int.from_bytes({stored})"
        is_double = hint is float and self._partner.type == FieldDescriptor.TYPE_DOUBLE
        if is_double or hint in (str, int, bool, bytes):
            return value, stored
        if isinstance(hint, type) and issubclass(hint, Enum):
            return value, self._enumerated(hint, stored)
        if isinstance(hint, type) and hint in self._codecs:
            encode, decode = f"e_{hint.__name__}", f"d_{hint.__name__}"
            self._scope[encode] = self._codecs[hint].named
            self._scope[decode] = self._codecs[hint].decode
            return f"{encode}({value})", f"{decode}({stored})"
        raise TypeError(f"{self._field} is a {hint}, which has no codec")

    def _optional(self, hint: Any, value: str, stored: str) -> tuple[str, str]:
        encoded, decoded = self.of(hint, value, stored)
        if self._partner.has_presence:
            encoded = f"None if {value} is None else {encoded}"
            return encoded, f"{decoded} if m.HasField({self._partner.name!r}) else None"
        return f"{value} or ''", f"{stored} or None"

    def _enumerated(self, kind: type[Enum], stored: str) -> str:
        members = f"by_value_{kind.__name__}"
        self._scope[members] = _ByValue(kind)
        if self._default is MISSING:
            return f"{members}[{stored}]"
        self._scope[f"default_{self._field}"] = self._default
        return f"{members}[{stored}] if {stored} else default_{self._field}"


class _ByValue(dict[str, Any]):
    """The members of an enumeration by value; an unknown value raises like the enumeration."""

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__((member.value, member) for member in kind)
        self._kind = kind

    def __missing__(self, value: str) -> Any:
        return self._kind(value)

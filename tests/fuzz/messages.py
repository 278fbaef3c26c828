"""Strategies for messages of any type, from its descriptor, and for names that some code may trust."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import strategies as st

TEXTS = (
    "",
    "a",
    "default",
    "echo",
    "user.k",
    "*",
    "../x",
    "team-a/x",
    "\x00",
    "\u2028é",
    "x" * 70,
    "x" * 5000,
    "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
    "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
    "127.0.0.1:1",
)
DEPTH_MAX = 4
REPEATS_MAX = 2
TEXT_CHARS_MAX = 12

_INT32 = st.sampled_from((0, 1, -1, 100, 2**31 - 1, -(2**31)))
_INT64 = st.sampled_from((0, 1, -1, 100, 2**63 - 1, -(2**63)))
_UNSIGNED = st.sampled_from((0, 1, 100, 2**32 - 1))
_VALUES = {
    Field.TYPE_BYTES: st.sampled_from((0, 1, 32, 36, 300)).map(bytes)
    | st.binary(max_size=TEXT_CHARS_MAX),
    Field.TYPE_BOOL: st.booleans(),
    Field.TYPE_DOUBLE: st.sampled_from((0.0, -1.0, float("nan"), float("inf"), 1e300)),
    Field.TYPE_FLOAT: st.sampled_from((0.0, -1.0, float("nan"), float("inf"))),
    Field.TYPE_ENUM: st.sampled_from((0, 1, 2, 99, -1)),
    Field.TYPE_INT32: _INT32,
    Field.TYPE_SINT32: _INT32,
    Field.TYPE_SFIXED32: _INT32,
    Field.TYPE_INT64: _INT64,
    Field.TYPE_SINT64: _INT64,
    Field.TYPE_SFIXED64: _INT64,
    Field.TYPE_UINT32: _UNSIGNED,
    Field.TYPE_UINT64: _UNSIGNED,
    Field.TYPE_FIXED32: _UNSIGNED,
    Field.TYPE_FIXED64: _UNSIGNED,
}


@st.composite
def messages(
    draw: st.DrawFn, kind: Any, known: Sequence[str], depth: int = 0, *, full: float = 0.7
) -> Any:
    """A message of a class, some of its fields set.

    Args:
        draw: Hypothesis's.
        kind: The class.
        known: Texts that mean something where it is sent.
        depth: How far it is inside another one.
        full: Which share of the fields is set, about.
    """
    message = kind()
    for field in message.DESCRIPTOR.fields:
        inner = field.message_type
        if draw(st.floats(0, 1)) > full or (inner is not None and depth >= DEPTH_MAX):
            continue
        target = getattr(message, field.name)
        if inner is not None and inner.GetOptions().map_entry:
            value = inner.fields_by_name["value"]
            entries = st.dictionaries(texts(known), values(value, known), max_size=REPEATS_MAX)
            for key, each in draw(entries).items():
                target[key] = each
        elif inner is not None and field.is_repeated:
            for _ in range(draw(st.integers(0, REPEATS_MAX))):
                target.add().CopyFrom(draw(messages(inner._concrete_class, known, depth + 1)))
        elif inner is not None:
            target.CopyFrom(draw(messages(inner._concrete_class, known, depth + 1)))
            target.SetInParent()
        elif field.is_repeated:
            target.extend(draw(st.lists(values(field, known), max_size=REPEATS_MAX)))
        else:
            setattr(message, field.name, draw(values(field, known)))
    return message


def values(field: Any, known: Sequence[str]) -> st.SearchStrategy[Any]:
    """Values of a field that is no message."""
    return texts(known) if field.type == Field.TYPE_STRING else _VALUES[field.type]


def texts(known: Sequence[str]) -> st.SearchStrategy[str]:
    """Mostly a value that has a meaning somewhere, otherwise anything that can be sent."""
    anything = st.text(st.characters(codec="utf-8"), max_size=TEXT_CHARS_MAX)
    return st.sampled_from(tuple(known)) | anything

"""Selectors: paths from a call's arguments to one value.

Grammar: `.` alone, or segments, each followed by any number of `?`. A segment is a field
(`.name`, or any key as a JSON string in brackets, `["a key"]`), an index (`[0]`, `[-1]`), a slice
(`[1:3]`, `[1:]`, `[:3]`) or all values (`[]`). A path that begins with brackets may have a dot
before them.

A segment that finds nothing fails the selector, unless `?` follows it: then it yields null, and the
path continues from there.

Source: ucan-wg/delegation, "Selectors". Where its text gives null for a missing key and its
fixtures fail, this fails.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ucan.errors import malformed


@dataclass(frozen=True, slots=True)
class Field:
    """The value of one key of a map."""

    key: str


@dataclass(frozen=True, slots=True)
class Index:
    """One item of a list or one byte of bytes; from the end if negative."""

    position: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Some items of a list or some bytes; bounds beyond the end are the end."""

    start: int | None
    stop: int | None


@dataclass(frozen=True, slots=True)
class Values:
    """The items of a list, or the values of a map in the order of their keys."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One step of a path."""

    step: Field | Index | Slice | Values
    optional: bool = False


Selector: TypeAlias = tuple[Segment, ...]
"""Steps from the left; empty for `.`."""

_INTEGER: Final = r"-?(?:[1-9][0-9]{0,14})|0"
_SEGMENT: Final = re.compile(
    rf"""(?:
        \.(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | \[(?P<key>"(?:[^"\\\x00-\x1f]|\\.)*")\]
      | \[(?P<index>{_INTEGER})\]
      | \[(?P<start>{_INTEGER})?:(?P<stop>{_INTEGER})?\]
      | (?P<values>\[\])
    )(?P<optional>\?*)""",
    re.VERBOSE,
)


class UnresolvedError(LookupError):
    """A selector leads to nothing."""


def parse_selector(text: str, *, chars_max: int) -> Selector:
    """Parse a selector.

    Raises:
        UcanError: Malformed: longer than `chars_max`, or outside the grammar.
    """
    if len(text) > chars_max:
        raise malformed(f"a selector has at most {chars_max} characters")
    if text == ".":
        return ()
    return tuple(_segments(text, 1 if text.startswith(".[") else 0))


def _segments(text: str, offset: int) -> Iterator[Segment]:
    if not text:
        raise malformed("a selector is empty")
    while offset < len(text):
        match = _SEGMENT.match(text, offset)
        if match is None:
            raise malformed("a selector is outside the grammar")
        yield Segment(_step(match), bool(match["optional"]))
        offset = match.end()


def _step(match: re.Match[str]) -> Field | Index | Slice | Values:
    if match["name"] is not None:
        return Field(match["name"])
    if match["key"] is not None:
        return Field(_json_key(match["key"]))
    if match["index"] is not None:
        return Index(int(match["index"]))
    if match["values"] is not None:
        return Values()
    start, stop = match["start"], match["stop"]
    if start is None and stop is None:
        raise malformed("a slice of a selector has no bound")
    return Slice(None if start is None else int(start), None if stop is None else int(stop))


def _json_key(quoted: str) -> str:
    try:
        key = str(json.loads(quoted))
        key.encode("utf-8")
    except ValueError:
        raise malformed("a key of a selector is not a JSON string") from None
    return key


def select(selector: Selector, value: Value) -> Value:
    """Follow `selector` from `value`.

    Raises:
        UnresolvedError: It leads to nothing.
    """
    for segment in selector:
        try:
            value = _follow(segment.step, value)
        except LookupError:
            if not segment.optional:
                raise UnresolvedError from None
            value = None
    return value


def _follow(step: Field | Index | Slice | Values, value: Value) -> Value:
    if isinstance(step, Field):
        if isinstance(value, dict):
            return value[step.key]
    elif isinstance(step, Values):
        if isinstance(value, dict):
            return [value[key] for key in sorted(value, key=_canonical_order)]
        if isinstance(value, list | bytes):
            return list(value)
    elif isinstance(value, list | bytes):
        if isinstance(step, Index):
            return value[step.position]
        return value[step.start : step.stop]
    raise LookupError


def _canonical_order(key: str) -> tuple[int, bytes]:
    encoded = key.encode("utf-8", "surrogatepass")
    return len(encoded), encoded

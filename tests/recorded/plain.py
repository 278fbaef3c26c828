"""Values of the replicated state as plain JSON, and where two of them differ."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from ipfs_cluster_node.core.multiformats import Cid


def plain(value: Any) -> Any:
    """A value without its types: records by their fields, bytes in hex."""
    match value:
        case Cid():
            return str(value)
        case bytes():
            return value.hex()
        case Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {key: plain(value[key]) for key in sorted(value)}
        case frozenset():
            return sorted(map(plain, value))
        case tuple() | list():
            return [plain(each) for each in value]
    return {name: plain(field) for name, field in _fields(value).items()}


def differences(recorded: Any, value: Any, at: str = "") -> Iterator[str]:
    """Where a value is not what was recorded of it.

    A field that the recording does not know is of a later release, and must have its default.
    """
    if _is_record(value) and isinstance(recorded, dict):
        fields = _fields(value)
        yield from (f"{at}.{name} is gone" for name in recorded if name not in fields)
        for field in dataclasses.fields(value):
            each = fields[field.name]
            if field.name in recorded:
                yield from differences(recorded[field.name], each, f"{at}.{field.name}")
            elif each != _default(field):
                yield f"{at}.{field.name} is new, and {each!r}"
    elif isinstance(value, Mapping) and isinstance(recorded, dict):
        for key in sorted(recorded.keys() | value.keys()):
            yield from differences(recorded.get(key), value.get(key), f"{at}[{key}]")
    elif isinstance(value, Sequence) and isinstance(recorded, list):
        if len(recorded) != len(value):
            yield f"{at} has {len(value)} items, not {len(recorded)}"
        for number, (before, now) in enumerate(zip(recorded, value, strict=False)):
            yield from differences(before, now, f"{at}[{number}]")
    elif plain(value) != recorded:
        yield f"{at} is {plain(value)!r}, not {recorded!r}"


def unused_fields(value: Any) -> set[str]:
    """The fields of records that have their default wherever they occur within a value."""
    unused: set[str] = set()
    used: set[str] = set()
    for record in _records(value):
        for field in dataclasses.fields(record):
            each = getattr(record, field.name)
            is_empty = each == _default(field) or (not each and each is not False)
            (unused if is_empty else used).add(f"{type(record).__name__}.{field.name}")
    return unused - used


def _records(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for each in value:
            yield from _records(each)
    elif _is_record(value):
        yield value
        for each in _fields(value).values():
            yield from _records(each)


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, Cid)


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default

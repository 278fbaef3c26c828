"""How a table that callers read is declared, and the functions that read its rows.

The functions are written from the declaration and run, as `dataclasses` writes `__init__`: a call
per column would make a row a fifth slower (docs/adr/0010).
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import cache, reduce
from types import MappingProxyType, NoneType
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from ipfs_cluster_node.core.dag_cbor import Value


class Kind(Enum):
    """The type of a column's values."""

    STRING = auto()
    """For an enumeration, its member's value."""
    STRINGS = auto()
    BOOL = auto()
    INT32 = auto()
    INT64 = auto()
    TIME = auto()
    """Milliseconds since 1970 (UTC)."""


_PYTHON_TYPES: Final[Mapping[Kind, Any]] = {
    Kind.STRING: str,
    Kind.STRINGS: tuple[str, ...],
    Kind.BOOL: bool,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.TIME: int,
}


class Column(NamedTuple):
    """One column of a table."""

    name: str
    kind: Kind
    path: str
    """The path of its value: `task.result.cid`. The first name is one of the schema's `parts`. The
    column is null if any value on the path is None."""
    judged_as: str = ""
    """The argument that policies are evaluated on. Empty: they do not see the column."""
    empty_is_null: bool = False
    """Whether 0 or an empty string means that there is no value."""


class Schema(NamedTuple):
    """A table that callers read."""

    name: str
    parts: Mapping[str, Any]
    """What one row is read from: the type of each part, by its name."""
    columns: tuple[Column, ...]
    computed: Mapping[str, str] = MappingProxyType({})
    """Arguments of policies that are no column: Python expressions of the parts."""

    @property
    def arguments(self) -> frozenset[str]:
        """The arguments of policies that an item of this table has."""
        judged = (column.judged_as for column in self.columns if column.judged_as)
        return frozenset([*judged, *self.computed])

    def row_function(self) -> Callable[..., tuple[Any, ...]]:
        """Make the function from a row's parts to its values, in the order of the columns.

        It takes the parts that it needs, in the order of `parts`.

        Raises:
            TypeError: A path leads nowhere, or to a value of another type than its column's.
        """
        writer = _Writer(self.parts)
        return writer.function(f"({''.join(f'{writer.value(c)}, ' for c in self.columns)})")

    def arguments_function(self, unknown: Mapping[str, Value]) -> Callable[..., dict[str, Any]]:
        """Make the function from a row's parts to the arguments that policies judge.

        Args:
            unknown: Every argument that is wanted, in order, with its value where this table has
                no such argument.

        Raises:
            TypeError: As of `row_function`.
        """
        writer = _Writer(self.parts)
        known = {c.judged_as: writer.value(c) for c in self.columns if c.judged_as}
        known |= {name: writer.using(expression) for name, expression in self.computed.items()}
        items = (f"{name!r}: {known.get(name, repr(value))}, " for name, value in unknown.items())
        return writer.function(f"{{{''.join(items)}}}")


class _Writer:
    """Writes a function of a row's parts. What several paths lead through is read once."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts, self._used = parts, set[str]()
        self._types = dict(parts)
        self._lines: list[str] = []

    def using(self, expression: str) -> str:
        """Note which parts an expression uses."""
        self._used.update(re.findall(r"\w+", expression))
        return expression

    def value(self, column: Column) -> str:
        """The expression of a column's value."""
        *owners, last = self.using(column.path).split(".")
        absent = ""
        if owners:
            owner = reduce(self._variable, owners)
            owner_type, optional = _without_none(self._types[owner])
            absent = f"None if {owner} is None else " if optional else ""
            value, found = f"{owner}.{last}", _type_of(owner_type, last)
        else:
            value, found = last, self._types[last]
        found, _ = _without_none(found)
        found = getattr(found, "__supertype__", found)
        if isinstance(found, type) and issubclass(found, Enum):
            value, found = f"{value}.value", str
        if found != _PYTHON_TYPES[column.kind]:
            raise TypeError(f"{column.name} is a {column.kind.name}, but {column.path} a {found}")
        return f"{absent}{value} or None" if column.empty_is_null else f"{absent}{value}"

    def _variable(self, owner: str, attribute: str) -> str:
        name = f"{owner}_{attribute}"
        if name not in self._types:
            self._types[name] = _type_of(self._types[owner], attribute)
            self._lines.append(f"    {name} = {owner}.{attribute}\n")
        return name

    def function(self, result: str) -> Callable[..., Any]:
        """The function that returns `result`."""
        parameters = ", ".join(part for part in self._parts if part in self._used)
        source = f"def read({parameters}):\n{''.join(self._lines)}    return {result}\n"
        scope: dict[str, Callable[..., Any]] = {}
        exec(source, scope)  # noqa: S102  # nosec B102: of nothing but the declarations.
        return scope["read"]


def _without_none(hint: Any) -> tuple[Any, bool]:
    """A type without None, and whether None was part of it."""
    arguments = get_args(hint)
    if NoneType not in arguments:
        return hint, False
    return next(each for each in arguments if each is not NoneType), True


_hints_of: Final = cache(get_type_hints)


def _type_of(owner: Any, attribute: str) -> Any:
    """The declared type of an attribute or a property."""
    found = getattr(owner, attribute, None)
    if isinstance(found, property):
        return _hints_of(found.fget)["return"]
    try:
        return _hints_of(owner)[attribute]
    except KeyError:
        raise TypeError(f"{owner} has no {attribute}") from None

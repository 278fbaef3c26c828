"""How a query's values are stored and shown: exactly, or as text if the format lacks the type.

Conversions are SQL casts, so that the text of a value is that of `CAST(value AS VARCHAR)`.
"""

from collections.abc import Iterator
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.builtin.sql_arrow import identifier
from ipfs_cluster_node.adapters.worker.builtin.sql_csv import TEXT
from ipfs_cluster_node.core.json_values import json_value

NUMBERS: Final = frozenset(
    (
        *("boolean", "tinyint", "smallint", "integer", "bigint", "float", "double"),
        *("utinyint", "usmallint", "uinteger", "ubigint"),
    )
)
STORED: Final = NUMBERS | frozenset(
    (
        *("varchar", "blob", "date", "time", "time_ns", "timestamp", "timestamp_ns", "decimal"),
        *("timestamp with time zone", "timestamptz_ns", "timestamp_ns with time zone"),
    )
)
"""Types that Arrow and Parquet hold exactly."""
AS_JSON: Final = NUMBERS | {"varchar", "blob"}
MICROSECONDS: Final = frozenset(("timestamp_s", "timestamp_ms"))


def stored_type(kind: Any, *, wide: bool = False) -> str:
    """The SQL type in which a column is stored; with `wide` a HUGEINT is text."""
    nested = _nested(kind, lambda child: stored_type(child, wide=wide))
    if nested:
        return nested
    if kind.id in MICROSECONDS:
        return "TIMESTAMP"
    if kind.id == "hugeint":
        return TEXT if wide else "DECIMAL(38,0)"
    if str(kind) == "JSON":
        return TEXT
    return str(kind) if kind.id in STORED else TEXT


def shown_type(kind: Any) -> str:
    """The SQL type from which a column's JSON is made."""
    nested = _nested(kind, shown_type)
    if nested:
        return nested
    return str(kind) if kind.id in AS_JSON and str(kind) != "JSON" else TEXT


def holds_hugeint(kind: Any) -> bool:
    """Whether the type is or contains a HUGEINT."""
    return "HUGEINT" in str(kind).replace("UHUGEINT", "")


def json_rows(table: Any) -> Iterator[list[Any]]:
    """Rows of a table of `shown_type`s as JSON values."""
    columns = [column.to_pylist() for column in table.columns]
    for row in zip(*columns, strict=True):
        yield [json_value(value) for value in row]


def _nested(kind: Any, of: Any) -> str:
    if kind.id not in ("list", "array", "struct", "tuple", "map"):
        return ""
    children = kind.children
    if kind.id in ("list", "array"):
        return f"{of(children[0][1])}[]"
    if kind.id == "map":
        return f"MAP({of(children[0][1])}, {of(children[1][1])})"
    fields = ", ".join(
        f"{identifier(name or f'element{n}')} {of(child)}"
        for n, (name, child) in enumerate(children, start=1)
    )
    return f"STRUCT({fields})"

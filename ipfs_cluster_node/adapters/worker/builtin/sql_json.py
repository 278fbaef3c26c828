"""JSON inputs: the whole file is examined, so that no key is lost and no number rounded."""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.builtin.sql_arrow import identifier
from ipfs_cluster_node.adapters.worker.builtin.sql_csv import TEXT, quoted, shown
from ipfs_cluster_node.adapters.worker.builtin.sql_numbers import is_rounded, is_rounded_sql

BEGINS: Final = re.compile(r'\[\s*\Z|\[?\s*\{\s*("(\\.|[^"\\\r\n])*("\s*:|\\?\Z)|\}|\Z)')
"""Start of JSON with records: an object, or a list of them; the text may be cut off."""
NO_JSON_TYPE: Final = re.compile(
    r"\b(TIMESTAMP_NS|TIMESTAMP WITH TIME ZONE|TIMESTAMPTZ|TIMESTAMP|TIME_NS|DATE|TIME|UUID)\b"
    r"(?=[\[\],)]|$)"
)
LONG_INTEGER: Final = r"(^|[\[:,])\s*-?[0-9]{16,}\s*([,}\]]|$)"
"""In JSON text: an integer that a DOUBLE may round."""
FRACTION: Final = r"[\[:,]\s*(-?[0-9]+(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))"
"""In a record's text, strings included: a number that is not an integer."""
RENAMED: Final = re.compile(r"(.+)_[0-9]+")
"""DuckDB's name for a key that differs from another one only in case."""


class JsonUnclearError(ValueError):
    """The records can't be read exactly; says why."""


@dataclass(frozen=True, slots=True)
class JsonRecords:
    """How to read a JSON file."""

    layout: str
    columns: dict[str, str]
    """Name and type."""
    source: str
    """The SQL after FROM."""


def is_json(text: str) -> bool:
    """Whether the text is one JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def json_records(connection: Any, path: str, start: str, *, whole: bool) -> JsonRecords:
    """Read a JSON file once, and return how to read it; `start` may be the `whole` file.

    Raises:
        JsonUnclearError: Values would be lost.
        duckdb.Error: It is not JSON.
    """
    layout = _layout(start.lstrip(), whole=whole)
    call = (
        f"read_json({quoted(path)}, format='{layout}', records=true, sample_size=-1, "
        "maximum_depth=-1, map_inference_threshold=-1, field_appearance_threshold=0"
    )
    found = connection.execute(f"DESCRIBE FROM {call})").fetchall()
    # JSON has strings and numbers; something that looks like a date is text.
    columns = {column: NO_JSON_TYPE.sub(TEXT, kind) for column, kind, *_ in found}
    _refuse_rounded(connection, path, layout)
    rounded = [column for column, kind in columns.items() if "DOUBLE" in kind]
    if rounded:
        long = ", ".join(
            f"bool_or(regexp_matches({identifier(column)}::VARCHAR, {quoted(LONG_INTEGER)}))"
            for column in rounded
        )
        source = _source(call, dict.fromkeys(rounded, "JSON"))
        for column, is_long in zip(
            rounded, connection.execute(f"FROM {source} SELECT {long}").fetchone(), strict=True
        ):
            if is_long:
                columns[column] = columns[column].replace("DOUBLE", TEXT)
    source = _source(call, columns)
    counts = ", ".join(f"count({identifier(column)})" for column in columns)
    read = connection.execute(f"FROM {source} SELECT {counts}").fetchone()
    lower = {column.lower() for column in columns}
    for column, count in zip(columns, read, strict=True):
        renamed = RENAMED.fullmatch(column)
        if not count and renamed and renamed[1].lower() in lower:
            raise JsonUnclearError(
                f"it has keys that differ from {renamed[1]!r} only in case; rename them"
            )
    return JsonRecords(layout, columns, source)


def _refuse_rounded(connection: Any, path: str, layout: str) -> None:
    """Refuse a fraction that a DOUBLE would round: DuckDB's reader has no other type for it."""
    records = (
        f"(FROM read_json_objects({quoted(path)}, format='{layout}') "
        "SELECT row_number() OVER (), json::VARCHAR) AS read(row, record)"
    )
    suspects = connection.cursor().execute(
        f"FROM {records} WHERE len(list_filter(regexp_extract_all(record, {quoted(FRACTION)}, 1), "
        f"lambda number: {is_rounded_sql('number')})) > 0"
    )
    # A string may look like one, so matches are parsed.
    while found := suspects.fetchone():
        row, record = found
        try:
            number = _rounded_in(record)
        except ValueError as error:
            # DuckDB takes `nan` and the like for numbers.
            raise JsonUnclearError(f"record {row}: it is not JSON: {error}") from error
        if number:
            raise JsonUnclearError(
                f"record {row}: the number {shown(number)} would be rounded; write it as text, in"
                " double quotes"
            )


def _rounded_in(record: str) -> str:
    """The first fraction of a record that a DOUBLE would round."""
    rounded: list[str] = []

    def number(text: str) -> float:
        if is_rounded(text):
            rounded.append(text)
        return 0.0

    json.loads(record, parse_float=number, parse_int=str)
    return rounded[0] if rounded else ""


def _source(call: str, columns: dict[str, str]) -> str:
    typed = ", ".join(f"{quoted(column)}: {quoted(kind)}" for column, kind in columns.items())
    return f"{call}, columns={{{typed}}}, auto_detect=false)"


def _layout(start: str, *, whole: bool) -> str:
    if start.startswith("["):
        return "array"
    first = start.splitlines()[0] if start else ""
    cut = not whole and first == start
    return "newline_delimited" if cut or is_json(first) else "unstructured"

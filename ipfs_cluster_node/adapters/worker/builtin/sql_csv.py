"""Detects a CSV file's delimiter, header and column types from its first part. Pure.

Every rule prefers the literal text: `007`, `01/02/2024` and integers beyond any number type stay
text, and a line with another number of fields is refused, not padded or cut.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ipfs_cluster_node.adapters.worker.builtin.sql_numbers import is_rounded

DELIMITERS: Final = (",", "\t", ";", "|")
SAMPLE_BYTES: Final = 1024 * 1024
"""Delimiter, header and types are guessed from this much; later values must convert."""
TYPE_ROWS: Final = 20_000
"""Rows of the sample from which types are guessed."""
LINE_BYTES_MAX: Final = 2_000_000
COLUMNS_MAX: Final = 4096
SHOWN_CHARS_MAX: Final = 60
"""Longest value that a message quotes in full."""

NAN_OR_INFINITY: Final = "nan|NaN|NAN|-?(inf|Inf|INF|infinity|Infinity)"
FRACTION: Final = r"(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]{1,3})?"
HOUR_AND_MINUTE: Final = "([01][0-9]|2[0-3]):[0-5][0-9]"
MOMENT: Final = (
    rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[ T]{HOUR_AND_MINUTE}:[0-5][0-9](\.[0-9]{{1,6}})?"
)
TYPES: Final = (
    # An integer that a DOUBLE would round does not match.
    ("BIGINT", "0|-?[1-9][0-9]{0,18}"),
    ("HUGEINT", "0|-?[1-9][0-9]{0,37}"),
    (
        "DOUBLE",
        rf"-?(0|[1-9][0-9]{{0,14}}|{FRACTION}|[0-9][eE][-+]?[0-9]{{1,3}})|{NAN_OR_INFINITY}",
    ),
    ("BOOLEAN", "true|false|True|False|TRUE|FALSE"),
    ("DATE", "[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    ("TIMESTAMP", MOMENT),
    (
        "TIMESTAMP WITH TIME ZONE",
        rf"{MOMENT}(Z|[-+]({HOUR_AND_MINUTE}|[01][0-9]|2[0-3]))",
    ),
)
"""The type of a column all of whose values match the form. The first match wins."""
FORMS: Final = dict(TYPES)
YEAR: Final = "(1[5-9]|2[01])[0-9]{2}"
MISSING: Final = frozenset(("na", "n/a", "#n/a", "null", "none", "nil", "-", "--", "?", "unknown"))
"""Texts that stand for a missing value, and never name a column."""
TEXT: Final = "VARCHAR"


class CsvUnclearError(ValueError):
    """The text can't be read exactly as CSV; says the line and what to do."""


@dataclass(frozen=True, slots=True)
class CsvShape:
    """How to read a CSV file."""

    delimiter: str
    header: bool
    columns: tuple[tuple[str, str], ...]
    """Name and type."""


def csv_shape(text: str, *, whole: bool, all_text: bool = False) -> CsvShape:
    """Guess how to read CSV from whole lines from its start, which may be the `whole` file.

    Raises:
        CsvUnclearError: No delimiter fits every line.
    """
    delimiter, records = _delimited(text, whole=whole)
    records = records[:TYPE_ROWS]
    first, rest = records[0], records[1:]
    if len(first) > COLUMNS_MAX:
        raise CsvUnclearError(f"it has {len(first)} columns; at most {COLUMNS_MAX} are read")
    types = [_type_of(record[n] for record in rest) for n in range(len(first))]
    header = _is_header(first, rest, types)
    if not header:
        types = [_type_of(record[n] for record in records) for n in range(len(first))]
    names = first if header else [f"column{n}" for n in range(len(first))]
    typed = [TEXT] * len(first) if all_text else types
    return CsvShape(delimiter, header, tuple(zip(unique(names), typed, strict=True)))


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]], types: Sequence[str]) -> bool:
    """Whether the first line names the columns.

    It does if none of its cells is a number, date or boolean. If one is, the cells must all be
    present and distinct, and either a name stands above such values (`id,2019` above `1,5`), or two
    rising years stand above columns that are not years (`country,2019,2020` above `Peru,5,7`).
    """
    texts = [_type_of([cell]) == TEXT for cell in first]
    if all(texts):
        return any(first)
    if not all(first) or len(set(first)) < len(first):
        return False
    names = [
        cell.strip().lower() not in MISSING and is_text
        for cell, is_text in zip(first, texts, strict=True)
    ]
    if any(is_name and kind != TEXT for is_name, kind in zip(names, types, strict=True)):
        return True
    others = [n for n, is_text in enumerate(texts) if not is_text]
    years = [first[n] for n in others]
    return (
        any(names)
        and len(years) > 1
        and all(re.fullmatch(YEAR, year) for year in years)
        and years == sorted(years)
        and bool(rest)
        and not any(
            all(re.fullmatch(YEAR, record[n]) for record in rest if record[n]) for n in others
        )
    )


def unique(names: Iterable[str]) -> list[str]:
    """Append `_1`, `_2` … to repeated names, ignoring case."""
    given = [name or f"column{n}" for n, name in enumerate(names)]
    taken = {name.lower() for name in given}
    seen: set[str] = set()
    made = []
    for name in given:
        chosen, n = name, 0
        while chosen.lower() in seen or (n and chosen.lower() in taken):
            n += 1
            chosen = f"{name}_{n}"
        seen.add(chosen.lower())
        made.append(chosen)
    return made


def shown(value: str) -> str:
    """Quote a value for a message."""
    return repr(value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "…")


def line_of_row(lines: Iterable[str], delimiter: str, row: int) -> int:
    """The line on which a record starts; records count from 1, including the header."""
    csv.field_size_limit(LINE_BYTES_MAX)
    reader = csv.reader(lines, delimiter=delimiter)
    before = seen = 0
    for record in reader:
        seen += bool(record)
        if seen == row:
            return before + 1
        before = reader.line_num
    return before


def _delimited(text: str, *, whole: bool) -> tuple[str, list[list[str]]]:
    found = []
    for delimiter in DELIMITERS:
        if delimiter not in text:
            continue
        numbered = _records(text, delimiter, whole=whole)
        if not numbered:
            continue
        width = len(numbered[0][1])
        alike = sum(len(record) == width for _, record in numbered) / len(numbered)
        wider = sum(len(record) > 1 for _, record in numbered) * 2 > len(numbered)
        # Every comma counts: further down the reader takes it for a delimiter.
        if width > 1 or wider or (delimiter == "," and alike < 1):
            found.append((width > 1, alike, width, delimiter, numbered))
    if not found:
        return ",", [record or [""] for _, record in _records(text, ",", whole=whole)]
    _, _, width, delimiter, numbered = max(found, key=lambda each: each[:3])
    for line, record in numbered:
        if len(record) != width:
            raise CsvUnclearError(
                f"line {line} has {_fields(len(record))} and line {numbered[0][0]} has {width}, "
                f"with the delimiter {delimiter!r}: give each line the same fields, and put those"
                ' with a delimiter or a line end in them in double quotes (")'
            )
    return delimiter, [record for _, record in numbered]


def _records(text: str, delimiter: str, *, whole: bool) -> list[tuple[int, list[str]]]:
    csv.field_size_limit(max(LINE_BYTES_MAX, len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    made: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for record in reader:
            if record:
                made.append((line, record))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CsvUnclearError(f"line {line} can't be read as CSV: {error}") from error
    # The last one may continue beyond the sample.
    return made if whole or len(made) == 1 else made[:-1]


def _fields(count: int) -> str:
    return f"{count} field" + ("s" if count != 1 else "")


def _type_of(cells: Iterable[str]) -> str:
    values = {cell for cell in cells if cell}
    if not values:
        return TEXT
    for name, form in TYPES:
        matches = re.compile(form).fullmatch
        if not all(matches(value) for value in values):
            continue
        if name == "DOUBLE" and all(re.fullmatch(NAN_OR_INFINITY, value) for value in values):
            return TEXT
        return name if _within(name, values) else TEXT
    return TEXT


def _within(name: str, values: Iterable[str]) -> bool:
    """Whether values that match the form are in the type's range."""
    if name == "BIGINT":
        return all(-(2**63) <= int(value) < 2**63 for value in values)
    if name == "DOUBLE":
        return not any(
            is_rounded(value) and not re.fullmatch(NAN_OR_INFINITY, value) for value in values
        )
    if name in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        try:
            for value in values:
                datetime.fromisoformat(value)
        except ValueError:
            return False
    return True


def read_csv(path: str, shape: CsvShape, *, types: Sequence[str] | None = None) -> str:
    """DuckDB's call that reads the file in this shape, without guessing.

    An empty field is NULL, a quoted one the empty text.
    """
    chosen = types or [kind for _, kind in shape.columns]
    columns = ", ".join(
        f"{quoted(name)}: {quoted(kind)}"
        for (name, _), kind in zip(shape.columns, chosen, strict=True)
    )
    return (
        f"read_csv({quoted(path)}, auto_detect=false, delim={quoted(shape.delimiter)}, quote='\"', "
        f"escape='\"', header={str(shape.header).lower()}, columns={{{columns}}}, nullstr='', "
        "allow_quoted_nulls=false, strict_mode=true, null_padding=false, "
        f"max_line_size={LINE_BYTES_MAX}, "
        "dateformat='%Y-%m-%d', encoding='utf-8')"
    )


def quoted(text: str) -> str:
    """Quote text for SQL."""
    return "'" + text.replace("'", "''") + "'"

"""Inputs of a SQL task: recognised by their bytes, checked, and given to DuckDB as views.

Guesses are reported; an input that can't be read exactly is refused with its name and the way out.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.builtin.sql_arrow import (
    Converted,
    first_line,
    identifier,
    open_arrow,
    open_parquet,
    refused,
)
from ipfs_cluster_node.adapters.worker.builtin.sql_csv import (
    FORMS,
    LINE_BYTES_MAX,
    SAMPLE_BYTES,
    TEXT,
    CsvShape,
    CsvUnclearError,
    csv_shape,
    line_of_row,
    quoted,
    read_csv,
    shown,
)
from ipfs_cluster_node.adapters.worker.builtin.sql_json import (
    BEGINS,
    JsonUnclearError,
    is_json,
    json_records,
)
from ipfs_cluster_node.adapters.worker.builtin.sql_messages import said
from ipfs_cluster_node.adapters.worker.builtin.sql_numbers import is_rounded_sql
from ipfs_cluster_node.tasks import TaskError, TaskInputFile

DECOMPRESSED_BYTES_MAX: Final = 4 * 2**30
"""Limit of all inputs of a task together, and never more than half of the free disk space."""
HEAD_BYTES: Final = 4096
"""Bytes from which the format is detected."""
PIECE_BYTES: Final = 1024 * 1024
LINE_SOUGHT_ROWS_MAX: Final = 1_000_000
"""Beyond this a message names the row instead of its line."""

COMPRESSED: Final = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))
CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1f\x80-\xff]")
"""Bytes that ASCII text never has, and binary files soon do."""
ARROW_FILE: Final = b"ARROW1"
UTF_8_MARK: Final = b"\xef\xbb\xbf"
AS_CSV: Final = "save it as CSV in UTF-8, or as Parquet"
REFUSED: Final = (
    (b"BZh", "compressed with bzip2; send it plain, or compressed with gzip or zstd"),
    (b"\xfd7zXZ\x00", "compressed with xz; send it plain, or compressed with gzip or zstd"),
    (b"\x04\x22\x4d\x18", "compressed with lz4; send it plain, or compressed with gzip or zstd"),
    (b"\x1f\x9d", "compressed with compress; send it plain, or compressed with gzip or zstd"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed with snappy; use gzip or zstd"),
    (b"PK\x03\x04", f"a ZIP archive or an Excel workbook; {AS_CSV}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {AS_CSV}"),
    (b"Rar!", f"a RAR archive; {AS_CSV}"),
    (b"\xd0\xcf\x11\xe0", f"an Excel workbook of the old kind; {AS_CSV}"),
    (b"%PDF", f"a PDF document; {AS_CSV}"),
    (b"SQLite format 3\x00", f"an SQLite database; {AS_CSV}"),
    (b"FEA1", f"Feather version 1; write it as Feather version 2 (Arrow), or {AS_CSV}"),
    (b"ORC", f"an ORC file; {AS_CSV}"),
    (b"Obj\x01", f"an Avro file; {AS_CSV}"),
    (b"\x89HDF", f"an HDF5 file; {AS_CSV}"),
    (b"PARE", "an encrypted Parquet file; write it without encryption"),
    (b"\xff\xfe\x00\x00", "in UTF-32; save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "in UTF-32; save it as UTF-8"),
    (b"\xff\xfe", "in the encoding UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    (b"\xfe\xff", "in the encoding UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
)
"""Unsupported formats by their first bytes."""


@dataclass(slots=True)
class SqlInputs:
    """Opens inputs one by one, within a common limit."""

    connection: Any
    scratch: Path
    decompressed: int = 0
    names: dict[str, str] = field(default_factory=dict)
    """Names of paths in messages."""
    documents: dict[str, Any] = field(default_factory=dict)
    """What was detected or guessed about each input."""
    readable: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)

    def open(self, name: str, given: TaskInputFile, *, all_text: bool) -> None:
        """Check an input and prepare its view; raises TASK_INPUT_INVALID."""
        path, compression = given.path, ""
        self.names[str(path)] = f"input {name!r}"
        for magic, codec in COMPRESSED:
            if _head(path).startswith(magic):
                path, compression = self._decompress(name, path, codec), codec
                self.names[str(path)] = f"input {name!r}"
                break
        kind = _kind(name, path, given.format, compression)
        document: dict[str, Any] = {"format": kind}
        if compression:
            document["compression"] = compression
        if kind == "csv":
            source = self._csv(name, path, document, all_text=all_text)
        elif kind == "json":
            path = self._without_mark(name, path)
            source = self._json(name, path, document)
        else:
            opened = self._columnar(name, path, kind)
            path, source = opened.path, opened.source
            self.names[str(path)] = f"input {name!r}"
            if opened.notes:
                document["notes"] = list(opened.notes)
        self.readable.append(str(path))
        self.views.append(f"CREATE VIEW {identifier(name)} AS FROM {source}")
        self.documents[name] = document

    def message(self, error: Exception, sql: str = "") -> str:
        """DuckDB's message, with the inputs' names instead of paths."""
        return said(error, self.names, sql)

    def _without_mark(self, name: str, path: Path) -> Path:
        """Strip a byte order mark from JSON, which its reader does not support."""
        if not _head(path).startswith(UTF_8_MARK):
            return path
        target = self.scratch / f"unmarked-{len(self.documents)}"
        self.names[str(target)] = f"input {name!r}"
        with path.open("rb") as source, target.open("xb") as file:
            source.seek(len(UTF_8_MARK))
            shutil.copyfileobj(source, file, PIECE_BYTES)
        return target

    def _columnar(self, name: str, path: Path, kind: str) -> Converted:
        target = self.scratch / f"input-{len(self.documents)}.parquet"
        if kind == "parquet":
            return open_parquet(path, name, target)
        return open_arrow(path, name, target, is_file=_head(path).startswith(ARROW_FILE))

    def _decompress(self, name: str, path: Path, codec: str) -> Path:
        import pyarrow as pa

        target = self.scratch / f"plain-{len(self.documents)}"
        free = shutil.disk_usage(self.scratch).free // 2
        allowed = min(DECOMPRESSED_BYTES_MAX - self.decompressed, free)
        size = 0
        try:
            with (
                pa.OSFile(str(path)) as raw,
                pa.CompressedInputStream(raw, codec) as source,
                target.open("xb") as file,
            ):
                while piece := source.read(PIECE_BYTES):
                    size += len(piece)
                    if size > allowed:
                        raise refused(
                            name,
                            f"it is over {allowed} bytes once decompressed, of at most "
                            f"{DECOMPRESSED_BYTES_MAX} for a task's inputs together and half of "
                            "what the worker's disk has free; split it, or send Parquet",
                        )
                    file.write(piece)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise refused(
                name, f"it can't be decompressed as {codec}: {first_line(error)}"
            ) from error
        self.decompressed += size
        return target

    def _csv(self, name: str, path: Path, document: dict[str, Any], *, all_text: bool) -> str:
        text, whole = _sample(name, path)
        try:
            shape = csv_shape(text, whole=whole, all_text=all_text)
        except CsvUnclearError as error:
            raise refused(name, str(error)) from error
        quoted_empty = self._check_csv(name, path, shape)
        document["encoding"] = "utf-8"
        document["delimiter"] = shape.delimiter
        document["header"] = shape.header
        document["columns"] = [{"name": column, "type": kind} for column, kind in shape.columns]
        if not quoted_empty:
            return read_csv(str(path), shape)
        document["notes"] = [
            f'column {column!r} has quoted empty fields (""), read as NULL, since they are no'
            f" {dict(shape.columns)[column]}"
            for column in quoted_empty
        ]
        return _nulled(path, shape, quoted_empty)

    def _check_csv(self, name: str, path: Path, shape: CsvShape) -> list[str]:
        """Check all lines and values; returns the columns, no texts, with empty quoted fields."""
        import duckdb

        texts = read_csv(str(path), shape, types=[TEXT] * len(shape.columns))
        checks = [
            f"count({column})" if kind == TEXT else f"count(*) FILTER ({_no_value(column, kind)})"
            for column, kind in [(identifier(name), kind) for name, kind in shape.columns]
        ]
        empties = [f"bool_or({identifier(column)} = '')" for column, _ in shape.columns]
        try:
            found = self.connection.execute(
                f"FROM {texts} SELECT {', '.join(checks + empties)}"
            ).fetchone()
            counts, empty = found[: len(checks)], found[len(checks) :]
            for (column, kind), count in zip(shape.columns, counts, strict=True):
                if kind == TEXT or not count:
                    continue
                raise self._unlike(name, path, shape, texts, column, kind)
            return [
                column
                for (column, kind), is_empty in zip(shape.columns, empty, strict=True)
                if is_empty and kind != TEXT
            ]
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise refused(name, self.message(error).removeprefix(f"input {name!r}: ")) from error

    def _unlike(
        self, name: str, path: Path, shape: CsvShape, texts: str, column: str, kind: str
    ) -> TaskError:
        """The error that names the first value of another type than its column's."""
        rows = f"(FROM {texts} SELECT row_number() OVER (), {identifier(column)})"
        row, value = self.connection.execute(
            f"FROM {rows} AS read(row, value) WHERE {_no_value('value', kind)} ORDER BY row LIMIT 1"
        ).fetchone()
        return refused(
            name,
            f"{_place(path, shape, row)}: {shown(value)} in column {shown(column)} is no exact "
            f"{kind}, as which the column was read by its first values; correct it (an empty "
            "field is NULL), or read the input's columns as text by "
            f'"text_inputs": [{json.dumps(name)}] beside "sql"',
        )

    def _json(self, name: str, path: Path, document: dict[str, Any]) -> str:
        import duckdb

        start = _head(path, SAMPLE_BYTES)
        try:
            found = json_records(
                self.connection,
                str(path),
                start.decode("utf-8", "replace"),
                whole=len(start) < SAMPLE_BYTES,
            )
        except duckdb.OutOfMemoryException:
            raise
        except JsonUnclearError as error:
            raise refused(name, str(error)) from error
        except duckdb.Error as error:
            raise refused(name, self.message(error).removeprefix(f"input {name!r}: ")) from error
        document["encoding"] = "utf-8"
        document["layout"] = found.layout
        document["columns"] = [{"name": key, "type": kind} for key, kind in found.columns.items()]
        return found.source


def _head(path: Path, size: int = 16) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _kind(name: str, path: Path, declared: str, compression: str) -> str:
    head = _head(path, HEAD_BYTES)
    if not head:
        raise refused(name, "it is empty (0 bytes): it lacks even a header")
    if len(head) == HEAD_BYTES and not head.strip():
        raise refused(name, f"it begins with {HEAD_BYTES} bytes of blanks; leave them out")
    for magic, codec in COMPRESSED:
        if head.startswith(magic):
            raise refused(name, f"it is compressed with {codec} within {compression}; once is read")
    for magic, what in REFUSED:
        # A header may begin with the same letters: `PARENT`, `ORCID`.
        if head.startswith(magic) and CONTROL.search(head):
            raise refused(name, f"it is {what}")
    found = _found(name, head)
    if declared and found not in (declared, "csv"):
        raise refused(name, f"it is {found}, and declared as {declared}; leave the format out")
    return declared or found


def _found(name: str, head: bytes) -> str:
    """Detect the format by the first bytes; CSV has none that are typical."""
    if head.startswith((b"PAR1", ARROW_FILE)) and CONTROL.search(head):
        return "parquet" if head.startswith(b"PAR1") else "arrow"
    if head.startswith(b"\xff\xff\xff\xff"):
        return "arrow"
    start = head.lstrip(UTF_8_MARK + b" \t\r\n")
    if start.startswith(b"<") and b">" in start:
        raise refused(name, f"it looks like XML or HTML; {AS_CSV}")
    text = start.decode("utf-8", "replace")
    if BEGINS.match(text):
        return "json"
    if text.startswith("[") and is_json(text.splitlines()[0]):
        raise refused(name, "it is JSON whose records are not objects; write one object per line")
    return "csv"


def _sample(name: str, path: Path) -> tuple[str, bool]:
    """The first lines as text, and whether they are the whole file."""
    with path.open("rb") as file:
        data = file.read(SAMPLE_BYTES)
        whole = len(data) < SAMPLE_BYTES
        if not whole and _last_line_end(data) < 0:
            data += file.read(LINE_BYTES_MAX + 1 - len(data))
            whole = not file.read(1)
            if len(data) > LINE_BYTES_MAX and _last_line_end(data[: LINE_BYTES_MAX + 1]) < 0:
                raise refused(name, f"line 1 is longer than {LINE_BYTES_MAX} bytes")
        if not whole:
            data = data[: _last_line_end(data) + 1]
    data = data.removeprefix(UTF_8_MARK)
    if not data.strip():
        raise refused(name, "it has only line ends: not even a header")
    if data[:1] in b"\r\n":
        raise refused(name, "line 1 is empty: begin with the header, or with the first row")
    if zero := data.count(b"\x00"):
        if zero * 4 > len(data):
            raise refused(
                name,
                "it looks like the encoding UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
            )
        raise refused(
            name,
            f"line {data[: data.index(0)].count(10) + 1} has a NUL byte: it is not text; {AS_CSV}",
        )
    try:
        return data.decode(), whole
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        begins = data.rfind(b"\n", 0, error.start) + 1
        around = data[begins : begins + 40].splitlines()[0]
        raise refused(
            name,
            f"line {line} is not in the encoding UTF-8 (byte 0x{data[error.start]:02x}). In "
            f"Windows-1252 it would be {around.decode('cp1252', 'replace')!r}; if that is right, "
            "save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)",
        ) from error


def _last_line_end(data: bytes) -> int:
    return max(data.rfind(b"\n"), data.rfind(b"\r"))


def _nulled(path: Path, shape: CsvShape, columns: list[str]) -> str:
    """The SQL after FROM that reads empty texts in some columns as NULL."""
    types = [TEXT if column in columns else kind for column, kind in shape.columns]
    replaced = ", ".join(
        f"CAST(nullif({identifier(column)}, '') AS {kind}) AS {identifier(column)}"
        for column, kind in shape.columns
        if column in columns
    )
    return f"(FROM {read_csv(str(path), shape, types=types)} SELECT * REPLACE ({replaced}))"


def _no_value(field: str, kind: str) -> str:
    """SQL: the text is neither empty nor exactly a value of the type."""
    column = f"nullif({field}, '')"
    value = f"TRY_CAST({column} AS {kind})"
    if kind in ("BIGINT", "HUGEINT", "DATE"):
        # The form equals the value's own text, which is faster to compare.
        return f"CAST({value} AS VARCHAR) IS DISTINCT FROM {column}"
    form = quoted(FORMS[kind])
    wrong = f"NOT regexp_full_match({column}, {form}) OR ({column} IS NOT NULL AND {value} IS NULL)"
    return f"{wrong} OR {is_rounded_sql(column)}" if kind == "DOUBLE" else wrong


def _place(path: Path, shape: CsvShape, row: int) -> str:
    if row > LINE_SOUGHT_ROWS_MAX:
        return f"row {row}"
    with path.open(encoding="utf-8-sig", newline="") as file:
        return f"line {line_of_row(file, shape.delimiter, row + shape.header)}"

"""Arrow and Parquet files as Parquet that DuckDB reads exactly, or a refusal with the column."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.builtin.sql_csv import quoted, unique
from ipfs_cluster_node.adapters.worker.builtin.sql_infinity import (
    INFINITY_KEY,
    has_dates,
    reads_as_infinity,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.tasks import TaskError

DECIMAL_DIGITS_MAX: Final = 38
"""DuckDB's limit; a wider decimal becomes text."""
BATCH_ROWS: Final = 10_000
ARROW_FILES_JOINED: Final = b"ARROW1ARROW1\0\0"
PARQUET_FILES_JOINED: Final = b"PAR1PAR1"
"""The end of one file and the start of the next; only one of the footers would be read."""
SEPARATE: Final = "put all rows into one file, or send each as its own input"


@dataclass(frozen=True, slots=True)
class Converted:
    """A file in the form that DuckDB reads."""

    path: Path
    source: str
    """The SQL after FROM."""
    notes: tuple[str, ...]
    """Notes on values read as another type than stored."""


def open_arrow(path: Path, name: str, target: Path, *, is_file: bool) -> Converted:
    """Read an Arrow file or stream; raises TASK_INPUT_INVALID."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as source:
            if is_file:
                reader = pa.ipc.open_file(source)
                _refuse_second(path, name, ARROW_FILES_JOINED)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                reader = pa.ipc.open_stream(source)
                batches = iter(reader)
            converted = _convert(name, reader.schema, batches, target)
            if not is_file and source.read(1):
                raise refused(name, f"more bytes follow the end of its Arrow stream; {SEPARATE}")
            return converted
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise refused(name, f"it can't be read as Arrow: {first_line(error)}") from error


def open_parquet(path: Path, name: str, target: Path) -> Converted:
    """Read a Parquet file; unchanged if DuckDB reads each of its types exactly.

    Raises:
        TaskError: TASK_INPUT_INVALID.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _refuse_second(path, name, PARQUET_FILES_JOINED)
            schema = file.schema_arrow
            physical = {
                file.metadata.schema.column(n).physical_type
                for n in range(file.metadata.num_columns)
            }
            plan = [_exact(field.type, name, field.name) for field in schema]
            exact = not any(
                kind != field.type or pa.types.is_duration(kind)
                for kind, field in zip(plan, schema, strict=True)
            )
            dated = [field.name for field in schema if has_dates(field.type)]
            if exact and dated and INFINITY_KEY not in (schema.metadata or {}):
                for batch in file.iter_batches(BATCH_ROWS, columns=dated):
                    for of, column in zip(batch.schema.names, batch.columns, strict=True):
                        _refuse_infinity(column, name, of)
            if exact and ("INT96" not in physical or _microseconds_do(path, name)):
                return Converted(path, f"read_parquet({quoted(str(path))})", ())
            return _convert(name, schema, file.iter_batches(BATCH_ROWS), target)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise refused(name, f"it can't be read as Parquet: {first_line(error)}") from error


def _refuse_infinity(column: Any, name: str, of: str) -> None:
    if reads_as_infinity(column):
        raise refused(
            name,
            f"column {of!r} has the largest or smallest {column.type}, which SQL reads as infinity;"
            " leave the value out",
        )


def _refuse_second(path: Path, name: str, joined: bytes) -> None:
    """Refuse concatenated files, of which only one would be read, at wrong offsets."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = data.find(joined)
        while end >= 0:
            # The length before the final magic is that of a footer within the file.
            footer = int.from_bytes(data[max(0, end - 4) : end], "little")
            if 0 < footer < end:
                raise refused(name, f"it is two or more files one after another; {SEPARATE}")
            end = data.find(joined, end + 1)


def _microseconds_do(path: Path, name: str) -> bool:
    """Whether INT96 times are whole microseconds, as DuckDB reads them.

    Arrow reads them as nanoseconds, which overflow silently before 1677 and after 2262.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    whole = within = True
    with (
        pq.ParquetFile(path) as file,
        pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as coarse,
    ):
        parts = file.metadata.schema
        timed = {
            parts.column(n).path
            for n in range(file.metadata.num_columns)
            if parts.column(n).physical_type == "INT96"
        }
        if nested := [column for column in timed if column not in file.schema_arrow.names]:
            raise refused(name, f"column {min(nested)!r} has INT96 times inside; write INT64 ones")
        for fine, rough in zip(
            file.iter_batches(BATCH_ROWS, columns=sorted(timed)),
            coarse.iter_batches(BATCH_ROWS, columns=sorted(timed)),
            strict=True,
        ):
            for nanos, micros in zip(fine.columns, rough.columns, strict=True):
                again = pc.multiply(micros.cast("int64"), 1000)
                whole &= pc.all(pc.equal(again, nanos.cast("int64"))).as_py() is not False
                floored = nanos.cast(micros.type, safe=False)
                within &= pc.all(pc.equal(floored, micros)).as_py() is not False
    if not whole and not within:
        raise refused(name, "its INT96 times have nanoseconds and years beyond 1677 to 2262")
    return whole


def refused(name: str, why: str) -> TaskError:
    """The error for an input that can't be read exactly."""
    return TaskError(Reason.TASK_INPUT_INVALID, f"input {name!r}: {why}")


def first_line(error: BaseException) -> str:
    """The first line of a library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _convert(name: str, schema: Any, batches: Iterator[Any], target: Path) -> Converted:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = unique(schema.names)
    infinite = INFINITY_KEY in (schema.metadata or {})
    exact = [_exact(field.type, name, field.name) for field in schema]
    stored = [pa.int64() if pa.types.is_duration(kind) else kind for kind in exact]
    stored = [
        pa.timestamp("us", tz=kind.tz)
        if pa.types.is_timestamp(kind) and kind.unit == "ms"
        else kind
        for kind in stored
    ]
    written = pa.schema([pa.field(*pair) for pair in zip(names, stored, strict=True)])
    with pq.ParquetWriter(target, written) as writer:
        for batch in batches:
            # A damaged message crashes Arrow if its values are read unchecked.
            batch.validate(full=True)
            columns = []
            for column, first, last, field in zip(
                batch.columns, exact, stored, schema, strict=True
            ):
                if not infinite:
                    _refuse_infinity(column, name, field.name)
                try:
                    columns.append(_cast(_cast(column, first), last))
                except MemoryError:
                    raise
                except (pa.ArrowException, ValueError) as error:
                    raise refused(
                        name, f"column {field.name!r} ({field.type}): {first_line(error)}"
                    ) from error
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=written))
    durations = [
        column for column, kind in zip(names, exact, strict=True) if pa.types.is_duration(kind)
    ]
    replaced = ", ".join(f"to_microseconds({identifier(c)}) AS {identifier(c)}" for c in durations)
    chosen = f"* REPLACE ({replaced})" if durations else "*"
    notes = tuple(
        f"column {column!r} is {field.type}, read as "
        + ("INTERVAL" if pa.types.is_duration(kind) else str(kind))
        for column, field, kind in zip(names, schema, exact, strict=True)
        if kind != field.type
    )
    return Converted(target, f"(FROM read_parquet({quoted(str(target))}) SELECT {chosen})", notes)


def identifier(name: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _cast(column: Any, kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == kind:
        return column
    if pa.types.is_run_end_encoded(column.type):
        return _cast(pc.run_end_decode(column), kind)
    if isinstance(column.type, pa.BaseExtensionType):
        return _cast(column.storage, kind)
    return column.cast(kind, safe=True)


def _exact(kind: Any, name: str, column: str, *, inside: bool = False) -> Any:  # noqa: C901, PLR0912
    """The type under which DuckDB reads the same values from Parquet."""
    import pyarrow as pa

    types = pa.types

    def inner(child: Any) -> Any:
        return _exact(child, name, column, inside=True)

    def no(why: str) -> TaskError:
        return refused(name, f"column {column!r} is {str(kind)[:200]}: {why}")

    if isinstance(kind, pa.BaseExtensionType):
        known = kind.extension_name in ("arrow.uuid", "arrow.json")
        return kind if known else _exact(kind.storage_type, name, column, inside=inside)
    if types.is_run_end_encoded(kind):
        return inner(kind.value_type)
    if types.is_dictionary(kind):
        value = inner(kind.value_type)
        return kind if value == kind.value_type else value
    if types.is_decimal(kind):
        digits = kind.precision - min(kind.scale, 0)
        if digits > DECIMAL_DIGITS_MAX:
            return pa.string()
        if types.is_decimal256(kind) or kind.scale < 0:
            return pa.decimal128(digits, max(kind.scale, 0))
        return kind
    if types.is_duration(kind):
        if inside:
            raise no("a duration within another value can't be read; make it an integer")
        return pa.duration("us")
    if types.is_interval(kind):
        raise no("an interval can't be read exactly; write it as text or as a duration")
    if types.is_union(kind):
        raise no("a union can't be read; write a struct with one field for each kind")
    if types.is_date64(kind):
        return pa.date32()
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", tz=kind.tz)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        if inner(kind.value_type) != kind.value_type:
            raise no("its values can't be converted within a list view; write a list")
        return kind
    if types.is_fixed_size_list(kind):
        value = inner(kind.value_type)
        return kind if value == kind.value_type else pa.list_(value, kind.list_size)
    if types.is_large_list(kind):
        value = inner(kind.value_type)
        return kind if value == kind.value_type else pa.large_list(value)
    if types.is_list(kind):
        value = inner(kind.value_type)
        return kind if value == kind.value_type else pa.list_(value)
    if types.is_struct(kind):
        fields = [kind.field(n) for n in range(kind.num_fields)]
        if not fields:
            raise no("a struct without fields can't be read; leave the column out")
        made = [inner(field.type) for field in fields]
        if all(value == field.type for value, field in zip(made, fields, strict=True)):
            return kind
        return pa.struct(
            [field.with_type(value) for value, field in zip(made, fields, strict=True)]
        )
    if types.is_map(kind):
        key, item = inner(kind.key_type), inner(kind.item_type)
        same = key == kind.key_type and item == kind.item_type
        return kind if same else pa.map_(key, item)
    return kind

"""`data_processing`: SQL over CSV, Parquet or Arrow inputs.

Payload: JSON `{"sql": "SELECT …"}`, or `{"input_cid": …, "parameters": {"sql": …}}`.
Each input is a view under its name.

Result: a Parquet file, and where it has at most 64 KiB the rows as JSON:
`{"columns": [{"name", "type"}], "rows": [[…]], "row_count": n}`, else `"rows": null`.

JSON forms: integers beyond 2^53, decimals, dates, times, UUIDs and intervals as text; bytes as
base64; NaN and infinities as the texts `NaN`, `Infinity`, `-Infinity`; structs as objects, maps as
lists of pairs.

The SQL sees its inputs and nothing else: no other file, no network, no extension, no settings.
"""

import base64
import json
import math
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import RESULT_INLINE_BYTES_MAX
from ipfs_cluster_node.tasks import (
    TaskContext,
    TaskError,
    TaskInputFile,
    TaskResult,
    task_handler,
)

MEMORY_VARIABLE: Final = "IPFS_CLUSTER_NODE_TASK_MEMORY_BYTES"
MEMORY_BYTES_DEFAULT: Final = 1024 * 1024 * 1024
SPILL_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
THREADS: Final = 2
BATCH_ROWS: Final = 10_000
SQL_CHARS_MAX: Final = 256 * 1024
EXACT_INTEGER_MAX: Final = 2**53
MESSAGE_CHARS_MAX: Final = 500
RESULT_FILE_BYTES_MAX: Final = 4 * 2**30
"""Of the Parquet file; its disk is shared with other tasks."""


@task_handler("data_processing", reuse_process=True)
def data_processing(task: TaskContext) -> TaskResult:
    """Run the payload's SQL over the inputs."""
    import duckdb  # 0.2 s that other handlers need not pay.

    sql = _sql_of(task.json())
    connection = duckdb.connect(":memory:")
    try:
        _open(connection, task)
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise TaskError(
                Reason.SQL_FAILED, "one SELECT is allowed, and nothing else; send one statement"
            )
        task.progress(0.1, "running")
        return _run(connection, statements[0], task.scratch / "result.parquet")
    except duckdb.OutOfMemoryException as error:
        raise TaskError(
            Reason.SQL_FAILED, f"the query needs more memory than it may use: {_line(error)}"
        ) from error
    except duckdb.Error as error:
        raise TaskError(Reason.SQL_FAILED, _line(error)) from error


handlers: Final = (data_processing,)


def _sql_of(payload: Any) -> str:
    expected = 'the payload is {"sql": "SELECT …"}'
    if not isinstance(payload, dict):
        raise TaskError(Reason.TASK_INPUT_INVALID, expected)
    unknown = set(payload) - {"sql", "input_cid", "parameters"}
    if unknown:
        raise TaskError(Reason.TASK_INPUT_INVALID, f"{expected}; {min(unknown)!r:.80} is not known")
    parameters = payload.get("parameters")
    sql = payload.get("sql") or (parameters.get("sql") if isinstance(parameters, dict) else None)
    if not isinstance(sql, str) or not sql.strip() or len(sql) > SQL_CHARS_MAX:
        raise TaskError(
            Reason.TASK_INPUT_INVALID, f"{expected} with at most {SQL_CHARS_MAX} characters"
        )
    return sql


def _open(connection: Any, task: TaskContext) -> None:
    memory = int(os.environ.get(MEMORY_VARIABLE, MEMORY_BYTES_DEFAULT))
    spill = task.scratch / "spill"
    spill.mkdir(mode=0o700)
    for setting, value in (
        ("memory_limit", f"{memory}B"),
        ("threads", THREADS),
        ("temp_directory", str(spill)),
        ("max_temp_directory_size", f"{SPILL_BYTES_MAX}B"),
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("allow_community_extensions", "false"),
        # Python variables are no tables.
        ("python_enable_replacements", "false"),
    ):
        connection.execute(f"SET {setting} = '{value}'")
    readable: list[str] = []
    views: list[str] = []
    for position, (name, given) in enumerate(task.inputs.items()):
        path, reader = _reader(given, task.scratch / f"arrow-{position}.parquet")
        readable.append(_quoted(str(path)))
        views.append(f"CREATE VIEW {_identifier(name)} AS FROM {reader}({_quoted(str(path))})")
    connection.execute(f"SET allowed_paths = [{', '.join(readable)}]")
    connection.execute("SET enable_external_access = false")
    for view in views:
        try:
            connection.execute(view)
        except Exception as error:
            raise TaskError(
                Reason.TASK_INPUT_INVALID, f"an input can't be read: {_line(error)}"
            ) from error
    connection.execute("SET lock_configuration = true")


def _reader(given: TaskInputFile, converted: Path) -> tuple[Path, str]:
    with given.path.open("rb") as file:
        head = file.read(8)
    file_format = given.format or _sniff(head)
    if file_format == "parquet":
        return given.path, "read_parquet"
    if file_format == "csv":
        return given.path, "read_csv"
    _arrow_to_parquet(given.path, converted, is_file=head[:6] == b"ARROW1")
    return converted, "read_parquet"


def _sniff(head: bytes) -> str:
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        return "arrow"
    return "csv"


def _arrow_to_parquet(path: Path, target: Path, *, is_file: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(str(path)) as source:
            if is_file:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                reader = pa.ipc.open_stream(source)
                batches = iter(reader)
            with pq.ParquetWriter(target, reader.schema) as writer:
                for batch in batches:
                    # A damaged message crashes Arrow when its values are read unchecked.
                    batch.validate(full=True)
                    writer.write_batch(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TaskError(
            Reason.TASK_INPUT_INVALID, f"an Arrow input can't be read: {_line(error)}"
        ) from error


def _run(connection: Any, statement: Any, target: Path) -> TaskResult:
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = connection.sql(statement.query).to_arrow_reader(BATCH_ROWS)
    columns = [{"name": field.name, "type": str(field.type)} for field in reader.schema]
    rows: list[list[Any]] | None = []
    rows_bytes = len(json.dumps(columns))
    row_count = 0
    try:
        with pq.ParquetWriter(target, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                row_count += batch.num_rows
                if target.stat().st_size > RESULT_FILE_BYTES_MAX:
                    raise TaskError(
                        Reason.SQL_FAILED,
                        f"the result is over {RESULT_FILE_BYTES_MAX // 2**30} GiB; select less",
                    )
                if rows is None:
                    continue
                for row in _rows(batch):
                    rows.append(row)
                    rows_bytes += len(json.dumps(row)) + 2
                    if rows_bytes > RESULT_INLINE_BYTES_MAX - 256:
                        rows = None
                        break
    except pa.ArrowNotImplementedError as error:
        raise TaskError(
            Reason.SQL_FAILED, f"a column can't be stored, cast it to text: {_line(error)}"
        ) from error
    document = {"columns": columns, "rows": rows, "row_count": row_count}
    data = json.dumps(document, allow_nan=False).encode()
    if len(data) > RESULT_INLINE_BYTES_MAX:
        data = json.dumps({"columns": [], "rows": None, "row_count": row_count}).encode()
    return TaskResult(data=data, content_type="application/json", file=target)


def _rows(batch: Any) -> Iterator[list[Any]]:
    columns = [column.to_pylist() for column in batch.columns]
    for row in zip(*columns, strict=True):
        yield [_json_value(value) for value in row]


def _json_value(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= EXACT_INTEGER_MAX else str(value)
        case float():
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case Decimal():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): _json_value(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json_value(inner) for inner in value]
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MESSAGE_CHARS_MAX]

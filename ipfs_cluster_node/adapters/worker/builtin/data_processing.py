"""`data_processing`: SQL over CSV, JSON, Parquet or Arrow inputs, exact or refused.

Without SQL, it describes the inputs.

docs/tasks.md says what it takes and gives. The SQL sees its inputs and nothing else.
"""

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.builtin.sql_arrow import identifier
from ipfs_cluster_node.adapters.worker.builtin.sql_csv import quoted, unique
from ipfs_cluster_node.adapters.worker.builtin.sql_infinity import INFINITY_METADATA
from ipfs_cluster_node.adapters.worker.builtin.sql_inputs import SqlInputs
from ipfs_cluster_node.adapters.worker.builtin.sql_parameters import check_named, sql_parameters
from ipfs_cluster_node.adapters.worker.builtin.sql_values import (
    holds_hugeint,
    json_rows,
    shown_type,
    stored_type,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import RESULT_INLINE_BYTES_MAX
from ipfs_cluster_node.core.sql import RESERVED_PARAMETERS
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskResult, task_handler

MEMORY_VARIABLE: Final = "IPFS_CLUSTER_NODE_TASK_MEMORY_BYTES"
MEMORY_BYTES_DEFAULT: Final = 1024 * 1024 * 1024
SPILL_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
THREADS: Final = 2
BATCH_ROWS: Final = 10_000
END: Final = re.compile(r";\s*((--[^\n]*|/\*.*?\*/)\s*)*\Z", re.DOTALL)
SQL_CHARS_MAX: Final = 256 * 1024
RESULT_FILE_BYTES_MAX: Final = 4 * 2**30
"""Limit of the Parquet file, as its disk is shared with other tasks."""
ROW_BYTES_MIN: Final = 5
"""Smallest size of a row in JSON: `[1], `. If more rows can't fit, none are converted."""
SHOWN_BYTES_MAX: Final = 64 * RESULT_INLINE_BYTES_MAX
"""Limit of rows in memory to convert to JSON; the text is rarely so much shorter."""
DOCUMENT_BYTES: Final = 256
"""Size of the JSON document without columns, inputs and rows."""


@task_handler("data_processing")
def data_processing(task: TaskContext) -> TaskResult:
    """Run the payload's SQL over the inputs, or describe them."""
    import duckdb  # Takes 0.2 s, which other handlers are spared.

    asked, text_inputs, parameters = _payload(task)
    sql = asked or _description(list(task.inputs))
    connection = duckdb.connect(":memory:")
    inputs = SqlInputs(connection, task.scratch)
    inputs.names[str(task.scratch)] = "the worker's scratch directory"
    try:
        _open(connection, task, inputs, text_inputs)
        statements = duckdb.extract_statements(_unended(sql))
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise TaskError(
                Reason.SQL_FAILED, "one SELECT is allowed, and nothing else; send one statement"
            )
        unused: list[str] = []
        if asked:
            check_named(statements[0].named_parameters, parameters)
        else:
            parameters, unused = {}, sorted(parameters)
        task.progress(0.1, "running")
        stored = partial(_store, inputs=inputs.documents, unused=unused)
        return _run(connection, statements[0].query, parameters, stored, task.scratch)
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise TaskError(
            Reason.SQL_FAILED,
            f"the query needs more memory than it may use: {inputs.message(error, sql)}",
        ) from error
    except duckdb.Error as error:
        raise TaskError(Reason.SQL_FAILED, inputs.message(error, sql)) from error


handlers: Final = (data_processing,)


def _payload(task: TaskContext) -> tuple[str | None, frozenset[str], dict[str, Any]]:
    """The SQL, None to describe the inputs; the inputs that are all text; the parameters."""
    payload = task.json() if task.payload else {}
    expected = 'the payload is {"sql": "SELECT …", "parameters": {…}}'
    if not isinstance(payload, dict):
        raise TaskError(Reason.TASK_INPUT_INVALID, expected)
    unknown = set(payload) - {"sql", "text_inputs", "input_cid", "parameters"}
    if unknown:
        raise TaskError(Reason.TASK_INPUT_INVALID, f"{expected}; {min(unknown)!r:.80} is not known")
    given = payload.get("parameters")
    parameters = payload
    if isinstance(given, dict):
        twice = RESERVED_PARAMETERS & payload.keys() & given.keys()
        if twice:
            raise TaskError(
                Reason.TASK_INPUT_INVALID,
                f"{min(twice)!r} is given beside and in the parameters; give it once",
            )
        parameters = payload | given
    sql = parameters.get("sql")
    if sql is None and not task.inputs:
        raise TaskError(
            Reason.TASK_INPUT_INVALID,
            f"{expected}; without SQL there must be an input, which is described",
        )
    told = sql is None or (isinstance(sql, str) and sql.strip() and len(sql) <= SQL_CHARS_MAX)
    if not told:
        raise TaskError(
            Reason.TASK_INPUT_INVALID, f"{expected} with at most {SQL_CHARS_MAX} characters"
        )
    texts = parameters.get("text_inputs", [])
    if not isinstance(texts, list) or not all(name in task.inputs for name in map(str, texts)):
        raise TaskError(
            Reason.TASK_INPUT_INVALID, '"text_inputs" is a list of names of the task\'s inputs'
        )
    return (
        sql,
        frozenset(map(str, texts)),
        sql_parameters(task.payload or b"{}", RESERVED_PARAMETERS),
    )


def _description(names: list[str]) -> str:
    """The statement that describes inputs; of several, each row begins with its input's name."""
    if len(names) == 1:
        return f"FROM (SUMMARIZE {identifier(names[0])})"
    rows = (f"(FROM (SUMMARIZE {identifier(n)}) SELECT {quoted(n)} AS input, *)" for n in names)
    return " UNION ALL ".join(rows)


def _unended(sql: str) -> str:
    """The statement without a final semicolon, after which only comments may follow."""
    import duckdb

    shorter = END.sub("", sql)
    try:
        return shorter if len(duckdb.extract_statements(shorter)) == 1 else sql
    except duckdb.Error:
        return sql


def _open(
    connection: Any, task: TaskContext, inputs: SqlInputs, text_inputs: frozenset[str]
) -> None:
    import duckdb

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
        # Python variables must not be visible as tables.
        ("python_enable_replacements", "false"),
        # A value's text must be the same on each worker.
        ("TimeZone", "UTC"),
    ):
        connection.execute(f"SET {setting} = {quoted(str(value))}")
    for name, given in task.inputs.items():
        inputs.open(name, given, all_text=name in text_inputs)
    connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, inputs.readable))}]")
    connection.execute("SET enable_external_access = false")
    for view, name in zip(inputs.views, inputs.documents, strict=True):
        try:
            connection.execute(view)
        except duckdb.Error as error:
            raise TaskError(
                Reason.TASK_INPUT_INVALID,
                f"input {name!r} can't be read: {inputs.message(error)}",
            ) from error
    connection.execute("SET lock_configuration = true")


def _run(
    connection: Any,
    query: str,
    parameters: dict[str, Any],
    stored: Callable[..., TaskResult],
    scratch: Path,
) -> TaskResult:
    import duckdb

    try:
        relation = connection.sql(query, params=parameters)
    except duckdb.Error:
        # Gives the same error with its place in the query.
        connection.execute(f"EXPLAIN\n{query}", parameters)
        raise
    try:
        return stored(relation, scratch / "result.parquet")
    except duckdb.ConversionException:
        if not any(holds_hugeint(kind) for kind in relation.types):
            raise
        # Perhaps integers of more than 38 digits: retry with those as text.
        again = connection.sql(query, params=parameters)
        return stored(again, scratch / "wide.parquet", wide=True)


def _store(
    relation: Any,
    target: Path,
    *,
    inputs: dict[str, Any],
    unused: list[str],
    wide: bool = False,
) -> TaskResult:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = relation.types
    columns = []
    casts = []
    names = unique(relation.columns)
    for n, (name, kind) in enumerate(zip(names, kinds, strict=True), start=1):
        stored = stored_type(kind, wide=wide)
        columns.append({"name": name, "type": str(kind)})
        if stored != str(kind):
            columns[-1]["stored"] = stored
        casts.append(f"CAST(#{n} AS {stored}) AS {identifier(name)}")
    reader = relation.project(", ".join(casts)).to_arrow_reader(BATCH_ROWS)
    room = RESULT_INLINE_BYTES_MAX - DOCUMENT_BYTES
    shown: list[Any] | None = []
    row_count = shown_bytes = 0
    try:
        marked = reader.schema.with_metadata(INFINITY_METADATA)
        with pq.ParquetWriter(target, marked) as writer:
            for batch in reader:
                writer.write_batch(batch)
                row_count += batch.num_rows
                if target.stat().st_size > RESULT_FILE_BYTES_MAX:
                    raise TaskError(
                        Reason.SQL_FAILED,
                        f"the result is over {RESULT_FILE_BYTES_MAX // 2**30} GiB; select less",
                    )
                shown_bytes += batch.nbytes
                if (
                    shown is None
                    or row_count * ROW_BYTES_MIN > room
                    or shown_bytes > SHOWN_BYTES_MAX
                ):
                    shown = None
                    continue
                shown.append(batch)
    except MemoryError:
        raise
    except pa.ArrowException as error:
        raise TaskError(
            Reason.SQL_FAILED, f"a column can't be stored, cast it to text: {error}"
        ) from error
    if len(json.dumps(inputs)) * 2 > room:
        inputs = {name: given | {"columns": None} for name, given in inputs.items()}
    document: dict[str, Any] = {"columns": columns, "row_count": row_count, "inputs": inputs}
    if unused:
        document["unused_parameters"] = unused
    if shown is not None:
        table = pa.Table.from_batches(shown, schema=reader.schema)
        document["rows"] = _rows(table, kinds, room - len(json.dumps(document)))
    return TaskResult(data=_fitting(document), content_type="application/json", file=target)


def _rows(table: Any, kinds: list[Any], room: int) -> list[Any] | None:
    """The rows as JSON values; None if they don't fit, or JSON has no form of a value."""
    import duckdb

    rows: list[Any] = []
    numbered = table.rename_columns([f"c{n}" for n in range(table.num_columns)])
    casts = ", ".join(f"CAST(c{n} AS {shown_type(kind)}) AS c{n}" for n, kind in enumerate(kinds))
    try:
        with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            converted = connection.from_arrow(numbered).project(casts).to_arrow_table()
        for row in json_rows(converted):
            rows.append(row)
            room -= len(json.dumps(row)) + 2
            if room < 0:
                return None
    except (duckdb.Error, ValueError, TypeError, OverflowError):
        return None
    return rows


def _fitting(document: dict[str, Any]) -> bytes:
    """The JSON document, without parts that are too large."""
    left_out: dict[str, Any]
    for left_out in ({}, {"rows": None}, {"inputs": {}}, {"columns": []}):
        document |= left_out
        document.setdefault("rows", None)
        data = json.dumps(document, allow_nan=False).encode()
        if len(data) <= RESULT_INLINE_BYTES_MAX:
            break
    return data

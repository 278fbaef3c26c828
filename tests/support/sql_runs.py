"""SQL tasks run in this process, over inputs given as bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from ipfs_cluster_node.adapters.worker.builtin.data_processing import data_processing
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskInputFile

Run = Callable[..., tuple[dict[str, Any], Path]]
ALL = "SELECT * FROM input"


def sql_runner(tmp_path: Path) -> Run:
    """Runs SQL over inputs, given as bytes, and returns the JSON and the path of the Parquet."""
    count = 0

    def sql(
        statement: str, more: Any = None, /, declared: str = "", **inputs: bytes
    ) -> tuple[dict[str, Any], Path]:
        nonlocal count
        count += 1
        scratch = tmp_path / f"scratch-{count}"
        scratch.mkdir()
        given = {}
        for name, data in inputs.items():
            path = tmp_path / f"in-{count}-{name}"
            path.write_bytes(data)
            given[name] = TaskInputFile(path=path, cid="c", format=declared)
        done = data_processing(
            TaskContext(
                task_id="t",
                attempt=1,
                task_type="data_processing",
                payload=json.dumps({"sql": statement} | (more or {})).encode(),
                content_type="application/json",
                inputs=given,
                scratch=scratch,
            )
        )
        assert done.file is not None
        return json.loads(done.data), done.file

    return sql


def refusal(run: Run, *arguments: Any, **inputs: Any) -> str:
    with pytest.raises(TaskError) as caught:
        run(*arguments, **inputs)
    message = caught.value.message
    assert "\n" not in message
    assert "/tmp" not in message
    assert "scratch" not in message
    assert "in-1-" not in message
    return f"{caught.value.reason}: {message}"


def arrow(column: Any, **options: Any) -> bytes:
    table, sink = pa.table({"c": column}), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, **options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parquet(column: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"c": column}), sink, **options)
    return bytes(sink.getvalue())

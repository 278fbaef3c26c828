"""Handlers run in processes that can be killed with all they started."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.worker.builtin import data_processing
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
)
from ipfs_cluster_node.adapters.worker.processes import HandlerProcess
from ipfs_cluster_node.adapters.worker.sources import Sources
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.tasks import TaskError, TaskInputFile

MARK = ("TZ", f"worker-test-{os.getpid()}")
"""In the environment of every process of these tests, and of no other."""
NEWS: list[tuple[str, int, float, str]] = []


@pytest_asyncio.fixture
async def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[HandlerPool]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("SECRET", "hidden")
    monkeypatch.setenv(*MARK)
    made = HandlerPool(
        sources=Sources(modules=("tests.worker.sample_handlers",)),
        slots=1,
        memory_bytes_max=256 * 2**20,
        scratch=tmp_path / "pool",
        on_progress=lambda *news: NEWS.append(news),
    )
    await made.start()
    yield made
    await made.close()
    assert marked(of_pool=True) == []


def marked(*, of_pool: bool = False) -> list[int]:
    """What handlers started; with `of_pool` the pool's own processes too."""
    found = []
    for process in psutil.process_iter():
        try:
            own = process.pid == os.getpid()
            if any("handler_process" in word for word in process.cmdline()) and not of_pool:
                continue
            if not own and process.environ().get(MARK[0]) == MARK[1]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


async def run(
    pool: HandlerPool,
    task_type: str,
    scratch: Path,
    payload: bytes = b"",
    *,
    seconds: float = 20,
    inputs: dict[str, Path] | None = None,
) -> AttemptSucceeded | AttemptFailed:
    attempt = Attempt(
        task_id=TaskId("t"),
        attempt=1,
        task_type=task_type,
        payload=payload,
        content_type="text/plain",
        timeout=timedelta(seconds=seconds),
        inputs={
            name: TaskInputFile(path=path, cid="c", format="")
            for name, path in (inputs or {}).items()
        },
    )
    async with pool.lease(task_type) as lease:
        done = await lease.run(attempt)
        if isinstance(done, AttemptSucceeded) and done.file is not None:
            done = replace(done, file=io.BytesIO(done.file.read()))
        return done


async def sql(
    pool: HandlerPool, scratch: Path, statement: str, **options: object
) -> AttemptSucceeded | AttemptFailed:
    payload = json.dumps({"sql": statement}).encode()
    return await run(pool, "data_processing", scratch, payload, **options)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_what_runs_too_long_is_killed_in_time(pool: HandlerPool, tmp_path: Path) -> None:
    endless = (
        "WITH RECURSIVE t AS (SELECT 1 a UNION ALL SELECT a + 1 FROM t) SELECT count(*) FROM t"
    )
    cross = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    for seconds, start in (
        (0.5, lambda: run(pool, "sleep", tmp_path, seconds=0.5)),
        (1.0, lambda: run(pool, "leave_children", tmp_path, b"stay", seconds=1)),
        (1.0, lambda: sql(pool, tmp_path, endless, seconds=1)),
        (1.0, lambda: sql(pool, tmp_path, cross, seconds=1)),
    ):
        await run(pool, "echo", tmp_path)  # A process is up: the time is the attempt's own.
        began = time.monotonic()
        failed = await start()  # type: ignore[no-untyped-call]
        assert isinstance(failed, AttemptFailed)
        assert failed.reason is Reason.ATTEMPT_TIMED_OUT
        assert time.monotonic() - began < seconds + 3  # Reading all of /proc takes its time.
        assert marked() == []


@pytest.mark.asyncio
async def test_children_that_an_attempt_leaves_are_killed(
    pool: HandlerPool, tmp_path: Path
) -> None:
    done = await run(pool, "leave_children", tmp_path)
    assert isinstance(done, AttemptSucceeded)
    assert marked() == []


@pytest.mark.asyncio
async def test_cancelling_kills_before_it_returns(pool: HandlerPool, tmp_path: Path) -> None:
    task = asyncio.create_task(run(pool, "leave_children", tmp_path, b"stay"))
    while len(marked()) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert marked() == []


@pytest.mark.asyncio
async def test_a_killed_process_leaves_no_descriptor(pool: HandlerPool, tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    await run(pool, "echo", tmp_path)
    before = count()
    for _ in range(3):
        process = await pool._start_process()
        process.open_scratch()
        await process.kill()
        assert count() == before


@pytest.mark.asyncio
async def test_processes_beside_one_that_does_not_start_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*MARK)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pool = HandlerPool(
        sources=Sources(modules=("tests.worker.sample_handlers",)),
        slots=4,
        memory_bytes_max=2**28,
        scratch=tmp_path,
    )
    start, count = pool._start_process, 0

    async def third_fails() -> HandlerProcess:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError("no memory")
        return await start()

    monkeypatch.setattr(pool, "_start_process", third_fails)
    with pytest.raises(OSError, match="no memory"):
        await pool.start()
    assert len(marked(of_pool=True)) >= 3
    await pool.close()
    assert marked(of_pool=True) == []


@pytest.mark.asyncio
async def test_failures_are_told_apart(pool: HandlerPool, tmp_path: Path) -> None:
    for task_type, reason, words in (
        ("exit", Reason.HANDLER_FAILED, "ended with status 3"),
        ("raise", Reason.HANDLER_FAILED, "RuntimeError: as asked"),
        ("half_a_character", Reason.HANDLER_FAILED, "no such city: ?"),
        ("unserialisable", Reason.TASK_RESULT_INVALID, "not object"),
        ("outside", Reason.TASK_RESULT_INVALID, "inside task.scratch"),
    ):
        failed = await run(pool, task_type, tmp_path)
        assert isinstance(failed, AttemptFailed)
        assert failed.reason is reason
        assert words in failed.message


@pytest.mark.asyncio
async def test_results_large_or_loud_or_from_coroutines(pool: HandlerPool, tmp_path: Path) -> None:
    flooded = await run(pool, "flood", tmp_path)
    assert isinstance(flooded, AttemptSucceeded)
    assert flooded.data == b"done"
    large = await run(pool, "large", tmp_path)
    assert isinstance(large, AttemptSucceeded)
    assert large.file is not None
    assert len(large.file.read()) == 5_000_000
    NEWS.clear()
    environment = await run(pool, "environment", tmp_path)
    assert isinstance(environment, AttemptSucceeded)
    assert "hidden" not in json.loads(environment.data).values()
    assert NEWS == [("t", 1, 0.5, "half")]


@pytest.mark.asyncio
async def test_sql_reaches_nothing_but_its_inputs(pool: HandlerPool, tmp_path: Path) -> None:
    given = tmp_path / "input"
    given.write_text("a\n1\n")
    for statement in (
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM 'http://127.0.0.1/x.csv'",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT getenv('HOME')",
        "COPY (SELECT 1) TO '/tmp/x'",
        "EXPORT DATABASE '/tmp/x'",
        "ATTACH '/tmp/x.db'",
        "PRAGMA database_list",
        "SET memory_limit = '9GB'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL duckdb_settings()",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t (a INT)",
        "",
    ):
        failed = await sql(pool, tmp_path, statement, inputs={"input": given})
        assert isinstance(failed, AttemptFailed), statement
        assert failed.reason in (Reason.SQL_FAILED, Reason.TASK_INPUT_INVALID), statement
        assert not failed.retryable
        assert "\n" not in failed.message


@pytest.mark.asyncio
async def test_every_format_gives_the_same_rows(pool: HandlerPool, tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    paths = {name: tmp_path / name for name in ("csv", "parquet", "file", "stream")}
    paths["csv"].write_text("a,b\n1,x\n2,y\n3,\n")
    pq.write_table(table, paths["parquet"])
    with pa.OSFile(str(paths["file"]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    with pa.OSFile(str(paths["stream"]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as s:
        s.write_table(table)
    for name, path in paths.items():
        done = await sql(pool, tmp_path, "SELECT * FROM input ORDER BY a", inputs={"input": path})
        assert isinstance(done, AttemptSucceeded), (name, done)
        assert json.loads(done.data)["rows"] == [[1, "x"], [2, "y"], [3, None]], name
        assert done.file is not None
        assert pq.read_table(done.file).num_rows == 3
    damaged = tmp_path / "damaged"
    damaged.write_bytes(paths["file"].read_bytes()[:200])
    failed = await sql(pool, tmp_path, "SELECT 1 FROM input", inputs={"input": damaged})
    assert isinstance(failed, AttemptFailed)
    assert failed.reason is Reason.TASK_INPUT_INVALID


@pytest.mark.asyncio
async def test_values_without_a_json_form_are_written_as_documented(
    pool: HandlerPool, tmp_path: Path
) -> None:
    done = await sql(
        pool,
        tmp_path,
        "SELECT 'nan'::DOUBLE, 9007199254740993, 1.50::DECIMAL(9,2), DATE '2020-02-01', 'ab'::BLOB, "
        "{'k': [1, 2]}, NULL",
    )
    assert isinstance(done, AttemptSucceeded)
    assert json.loads(done.data)["rows"] == [
        ["NaN", "9007199254740993", "1.50", "2020-02-01", "YWI=", {"k": [1, 2]}, None]
    ]


def test_a_result_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_processing, "RESULT_FILE_BYTES_MAX", 100_000)
    with duckdb.connect() as connection:
        with pytest.raises(TaskError) as caught:
            query = "SELECT random() FROM range(10000000)"
            stored = partial(data_processing._store, inputs={}, unused=[])
            data_processing._run(connection, query, {}, stored, tmp_path)
    assert caught.value.reason is Reason.SQL_FAILED
    assert "select less" in str(caught.value)

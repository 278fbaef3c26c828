"""The main job, before your eyes. See scripts/demo."""

import asyncio
import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.tasks import task_spec
from ipfs_cluster_node.client.verified import verified
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.model import Liveness, TaskState
from ipfs_cluster_node.core.printable import printable
from ipfs_cluster_node.core.views import ListedTask

SMALL_TASKS: Final = 200
WAIT: Final = timedelta(seconds=60)
WATCH_SECONDS: Final = 0.5
ROWS_SHOWN: Final = 20
DIGITS_SHOWN: Final = 6
"""Significant digits of a floating-point number in the table."""
DEFAULT_FILE: Final = Path(__file__).parent / "data" / "weather.csv"
DEFAULT_SQL: Final = """
    SELECT origin, month, count(*) AS hours,
           round(avg(try_cast(temp AS DOUBLE)), 2) AS mean_temp_fahrenheit,
           max(try_cast(wind_speed AS DOUBLE)) AS max_wind_mph
    FROM input GROUP BY origin, month ORDER BY origin, month
"""

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """Something that was promised did not hold."""


def say(text: str, style: str = "") -> None:
    console.print(Text(printable(f"{time.monotonic() - STARTED:5.1f} s  {text}"), style=style))


STARTED: Final = time.monotonic()


async def watch(client: Client, names: dict[str, str]) -> None:
    """Print members, leader and tasks whenever they change."""
    shown = ""
    while True:
        try:
            status = await client.get_cluster_status(timeout=timedelta(seconds=5))
            nodes = await client.list_nodes(timeout=timedelta(seconds=5))
        except ClusterError as error:
            seen = f"no answer: {error.reason}"
        else:
            members = " ".join(
                names.get(n.node_id, n.node_id[-6:])
                + ("*" if n.leader else "")
                + ("" if n.liveness is Liveness.ALIVE else f"({n.liveness})")
                for n in sorted(nodes, key=lambda n: (str(n.role), n.name))
            )
            tasks = " ".join(f"{k} {v}" for k, v in sorted(status.task_counts.items()) if v)
            seen = f"[{members}] term {status.term}, tasks: {tasks or 'none'}"
            if status.leader_node_id != next((n.node_id for n in nodes if n.leader), ""):
                seen = shown  # Another one leads since the first of the two calls.
        if seen != shown:
            say(seen, "dim")
            shown = seen
        await asyncio.sleep(WATCH_SECONDS)


async def run(path: Path, sql: str, root: Path) -> None:
    cluster = LocalCluster(root)
    say("starting 3 masters and 2 workers, mutual TLS, on loopback")
    try:
        await cluster.start(masters=3, workers=2, on_up=lambda name: say(f"{name} is up"))
        names = {node.node_id: node.name for node in cluster.nodes}
        async with cluster.client() as client:
            watcher = asyncio.create_task(watch(client, names))
            try:
                await main_job(cluster, client, path, sql)
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
    finally:
        started = [node.process.pid for node in cluster.nodes if node.process is not None]
        await cluster.stop()
        left = [pid for pid in started if psutil.pid_exists(pid)]
        if left:
            raise DemoError(f"processes are left: {left}")
    say("every process is stopped")


async def main_job(cluster: LocalCluster, client: Client, path: Path, sql: str) -> None:
    added = await client.add_content(path)
    say(f"{path.name}: {added.size_bytes:,} bytes are {added.cid}", "bold")
    say(f"held by {len(added.holders)} masters")
    query = await client.submit_task(
        "data_processing", {"sql": sql}, inputs=[("input", added.cid)], attempt_timeout=WAIT
    )
    half = [task_spec("echo", f"small task {n}") for n in range(SMALL_TASKS // 2)]
    small = await client.submit_tasks(half)
    say(f"submitted the SQL task and {len(small)} small ones")
    leader = await kill_half_way(cluster, client, [query, *small])
    rest = [task_spec("echo", f"small task {n}") for n in range(SMALL_TASKS // 2, SMALL_TASKS)]
    small += await client.submit_tasks(rest, timeout=WAIT)
    say(f"submitted {len(rest)} more to whoever leads now")
    ended = await client.wait_tasks([query, *small], timeout=WAIT)
    successor = await cluster.leader(client)
    if successor is leader:
        raise DemoError("the killed master still leads")
    say(f"{successor.name} leads now; all tasks have ended", "bold")
    await check_results(client, query, small, ended)
    await show_result(client, ended[query], path, sql)


async def kill_half_way(
    cluster: LocalCluster, client: Client, task_ids: Sequence[str]
) -> LocalNode:
    ended = 0
    async for watched in client.watch_tasks(task_ids, timeout=WAIT):
        ended += watched.status.has_ended
        if ended >= len(task_ids) // 2:
            break
    leader = await cluster.leader(client)
    await cluster.kill(leader)
    say(f"kill -9 of {leader.name}, which led, after {ended} results", "bold red")
    return leader


async def check_results(
    client: Client, query: str, small: Sequence[str], ended: dict[str, ListedTask]
) -> None:
    wanted = {task_id: f"small task {n}" for n, task_id in enumerate(small)}
    for task_id, task in ended.items():
        if task.status.state is not TaskState.SUCCEEDED or task.status.result is None:
            why = task.status.failure.message if task.status.failure else task.status.state
            raise DemoError(f"task {task_id} has no result: {why}")
        if task_id in wanted and task.status.result.data != wanted[task_id].encode():
            raise DemoError(f"task {task_id} has the result of another")
    # The cluster's own list must hold these results, each once, and no others.
    listed = Counter(
        task.task_id
        for task in await client.list_tasks(limit=10 * SMALL_TASKS)
        if task.status.state is TaskState.SUCCEEDED
    )
    if listed != Counter([query, *small]):
        raise DemoError(f"{sum(listed.values())} results for {1 + len(small)} tasks")
    say(
        f"{sum(listed.values())} results for {1 + len(small)} tasks, each exactly once",
        "bold green",
    )


async def show_result(client: Client, task: ListedTask, path: Path, sql: str) -> None:
    assert task.status.result is not None
    import duckdb
    import pyarrow.parquet as pq

    parquet = path_of_result = Path(tempfile.mkdtemp()) / "result.parquet"
    try:
        with path_of_result.open("wb") as file:
            async for data in verified(
                task.status.result.cid, client.get_content(task.status.result.cid)
            ):
                file.write(data)
        fetched = pq.read_table(parquet)
    finally:
        shutil.rmtree(parquet.parent, ignore_errors=True)
    rows = [tuple(row.values()) for row in fetched.to_pylist()]
    table = Table(title=f"{len(rows)} rows, {task.status.result.cid}", title_justify="left")
    for name in fetched.column_names:
        table.add_column(Text(printable(name)))
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*map(_shown, row))
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"… {len(rows) - ROWS_SHOWN} more rows")
    guessed = json.loads(task.status.result.data or b"")["inputs"]["input"]
    with duckdb.connect() as direct:
        if guessed["format"] == "csv":
            given = direct.read_csv(
                str(path),
                delimiter=guessed["delimiter"],
                header=guessed["header"],
                dtype={column["name"]: column["type"] for column in guessed["columns"]},
            )
        else:
            given = direct.sql(f"FROM '{str(path).replace(chr(39), chr(39) * 2)}'")
        given.create_view("input")
        expected = direct.execute(sql).fetchall()
    if not same_rows(rows, expected):
        raise DemoError("the rows are not those that DuckDB gives on the file directly")
    say("the same rows as DuckDB gives on the file directly", "bold green")


def _shown(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    return Text(printable(f"{value:.{DIGITS_SHOWN}g}" if isinstance(value, float) else str(value)))


def same_rows(ours: Iterable[tuple[Any, ...]], theirs: Iterable[tuple[Any, ...]]) -> bool:
    """Compare as multisets, floats to a relative 1e-9."""
    left, right = (sorted((_plain(row) for row in rows), key=repr) for rows in (ours, theirs))
    return len(left) == len(right) and all(
        len(a) == len(b)
        and all(
            math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)
            if isinstance(x, float)
            and isinstance(y, float)
            and not (math.isnan(x) or math.isnan(y))
            else repr(x) == repr(y)
            for x, y in zip(a, b, strict=True)
        )
        for a, b in zip(left, right, strict=True)
    )


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        int(value) if hasattr(value, "as_tuple") and value == int(value) else value for value in row
    )


def main() -> int:
    path, sql = (DEFAULT_FILE, DEFAULT_SQL)
    if len(sys.argv) == 3:
        path, sql = Path(sys.argv[1]), sys.argv[2]
    root = Path(tempfile.mkdtemp(prefix="ipfs-cluster-node-demo-"))
    try:
        asyncio.run(run(path, sql, root))
    except (DemoError, ClusterError, TimeoutError) as error:
        console.print(Text(printable(f"error: {error}"), style="bold red"))
        console.print(f"the nodes' files and logs are in {root}")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    shutil.rmtree(root, ignore_errors=True)
    say("done")
    console.print(
        "\nnext: scripts/demo FILE 'SELECT … FROM input' does the same with a file of yours;"
        "\n      .venv/bin/ipfs-cluster-node dev keeps such a cluster running"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`sql` on a real cluster: files, CIDs and tables in, rows and files out."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.submitted import TaskFailedError
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE, save_profile
from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason
from ipfs_cluster_node.core.model import TaskState
from tests.support.clusters import cluster_of, for_module
from tests.support.environment import environment_with

LONG = "SELECT count(*) FROM range(10000000000000) r(i) WHERE i % 7 = 3"
"""Nobody waits for its end."""
WORDS = 'a "b", c\nd'
VALUES = (
    "SELECT * FROM (VALUES (1, 1/3.0::DOUBLE, NULL, 'a \"b\", c' || chr(10) || 'd', "
    "DATE '2024-02-29', [1, NULL], 12.50::DECIMAL(9,2), 9007199254740993, true, ''), "
    "(2, 'nan'::DOUBLE, 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL)) "
    "v(n, f, t, w, d, l, e, i, b, empty) ORDER BY n"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with for_module(cluster_of(1, 1)) as local:
        yield local


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text("name,born\n" + "".join(f"p{n % 7},{1900 + n % 100}\n" for n in range(5000)))
    return path


def test_sql_over_a_local_file_in_one_command(cli: Any, people: Path, tmp_path: Path) -> None:
    query = "SELECT name, count(*) AS n FROM people GROUP BY name ORDER BY name"
    done = cli("sql", query, f"people={people}")
    assert done.returncode == 0, done.stderr
    with duckdb.connect() as direct:
        expected = direct.execute(query.replace("FROM people", f"FROM '{people}'")).fetchall()
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines == [["name", "n"], *([name, str(n)] for name, n in expected)]
    out = tmp_path / "out.parquet"
    done = cli("sql", query, f"people={people}", "-o", str(out))
    assert (done.returncode, done.stdout) == (0, f"7 rows in {out}\n"), done.stderr
    assert [tuple(row.values()) for row in pq.read_table(out).to_pylist()] == expected


def test_each_format_holds_the_same_rows(cli: Any, tmp_path: Path) -> None:
    paths = {form: tmp_path / f"out.{form}" for form in ("parquet", "arrow", "csv", "json")}
    for path in paths.values():
        done = cli("sql", VALUES, "-o", str(path))
        assert done.returncode == 0, done.stderr
    table, same = pq.read_table(paths["parquet"]), pa.ipc.open_file(paths["arrow"]).read_all()
    assert (same.schema, str(same.to_pylist())) == (table.schema, str(table.to_pylist()))
    first, second = json.loads(paths["json"].read_text())
    assert first == {
        "n": 1,
        "f": 1 / 3,
        "t": None,
        "w": WORDS,
        "d": "2024-02-29",
        "l": [1, None],
        "e": "12.50",
        "i": "9007199254740993",
        "b": True,
        "empty": "",
    }
    assert (second["f"], second["t"]) == ("NaN", "x")
    with duckdb.connect() as direct:
        read = direct.read_csv(str(paths["csv"]), header=True, all_varchar=True).fetchall()
    assert read[0][:5] == ("1", "0.3333333333333333", None, WORDS, "2024-02-29")
    back = cli("sql", "SELECT empty = '' AS kept, t FROM t WHERE n = 1", f"t={paths['csv']}")
    assert back.stdout == "kept\tt\ntrue\tNULL\n"
    printed = json.loads(cli("sql", VALUES, "--json").stdout)
    assert printed["rows"][0] == list(first.values())
    assert [column["name"] for column in printed["columns"]] == list(first)
    assert (printed["row_count"], bool(printed["cid"]), bool(printed["task_id"])) == (2, True, True)


def test_a_result_too_large_to_come_with_its_task_is_shown_and_saved(
    cli: Any, tmp_path: Path
) -> None:
    query = "SELECT i, 'row ' || i AS text FROM range(50000) r(i) ORDER BY i"
    lines = cli("sql", query).stdout.splitlines()
    assert (len(lines), lines[-1]) == (50_001, "49999\trow 49999")
    printed = json.loads(cli("sql", query, "--json").stdout)
    assert printed["rows"][-1] == [49_999, "row 49999"]
    out = tmp_path / "out.json"
    assert cli("sql", query, "-o", str(out)).returncode == 0
    assert json.loads(out.read_text())[-1] == {"i": 49_999, "text": "row 49999"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("SELECT 1 FROM t", "t=missing.csv"), "missing.csv is neither a file here nor a CID"),
        (("SELECT 1 FROM t", "t=."), ". is no regular file"),
        (("SELECT 1 FROM t", "a b=people.csv"), "'a b' can't be an input's name"),
        (("SELECT 1 FROM t", "t"), "'t' is not an input; write NAME=FILE or NAME=CID"),
        (("SELECT 1 FROM t", "t=people.csv", "t=people.csv"), "input t is given twice"),
        (("SELECT 1 FROM u", "t=people.csv"), "the SQL does not name t; write FROM t"),
        (
            ("SELECT 1", "-o", "out.xlsx"),
            "out.xlsx must end in one of .parquet, .csv, .json, .arrow",
        ),
        (("SELECT 1", "-o", "there.csv"), "there.csv exists; name another file, or add --force"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    cli: Any,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("mine")
    before = [each["task_id"] for each in json.loads(cli("task", "list", "--json").stdout)]
    done = cli("sql", *arguments)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert said in done.stderr
    assert [each["task_id"] for each in json.loads(cli("task", "list", "--json").stdout)] == before
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not (tmp_path / "out.xlsx").exists()


def test_bad_sql_is_shown_as_the_database_says_it_and_leaves_no_file(
    cli: Any, people: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    done = cli("sql", "SELECT nope FROM t", f"t={people}", "-o", str(out))
    assert done.returncode == Exit.TASK_FAILED
    assert 'Binder Error: Referenced column "nope" not found' in done.stderr
    assert "(line 1, column 8)" in done.stderr
    assert not out.exists()
    done = cli("sql", "SELECT nope FROM t", f"t={people}", "--json")
    assert json.loads(done.stderr)["error"]["reason"] == "SQL_FAILED"


def test_a_task_takes_local_files_as_inputs(cli: Any, people: Path) -> None:
    submit = ("task", "submit", "data_processing", "--sql", "SELECT count(*) AS n FROM t", "--wait")
    assert cli(*submit, "--input", f"t={people}").stdout == "n\n5000\n"
    cid = cli("content", "add", str(people)).stdout.strip()
    assert cli(*submit, "--input", f"t={cid}:csv").stdout == "n\n5000\n"
    done = cli(*submit, "--input", "t=missing.csv")
    assert done.returncode == Exit.USAGE
    assert "neither a file here nor a CID" in done.stderr


def test_parameters_are_given_by_name_and_shown_with_the_task(cli: Any, people: Path) -> None:
    query = "SELECT count(*) AS n FROM t WHERE name IN $names AND born < $year"
    given = ("--param", 'names=["p1", "p2"]', "--param", "year=1950")
    with duckdb.connect() as direct:
        [[expected]] = direct.execute(
            query.replace("FROM t", f"FROM '{people}'"), {"names": ["p1", "p2"], "year": 1950}
        ).fetchall()
    done = cli("sql", query, f"t={people}", *given)
    assert done.stdout == f"n\n{expected}\n", done.stderr
    submit = ("task", "submit", "data_processing", "--input", f"t={people}", "--sql", query)
    task_id = cli(*submit, *given, "--attempt-count-max", "7").stdout.strip()
    assert cli("task", "wait", task_id).stdout
    found = cli("task", "get", task_id).stdout
    assert 'names = ["p1", "p2"]' in found
    spec = json.loads(cli("task", "get", task_id, "--json").stdout)["spec"]
    assert spec["attempt_count_max"] == 7
    assert spec["payload_json"]["parameters"] == {"names": ["p1", "p2"], "year": 1950}
    done = cli("sql", query, f"t={people}", "--param", "year=1950")
    assert (done.returncode, "names $names" in done.stderr) == (Exit.TASK_FAILED, True)


def test_a_parameter_that_is_wrong_is_refused_before_any_work(cli: Any, people: Path) -> None:
    for given, words in (
        (("--param", "year"), "write NAME=VALUE"),
        (("--param", "a=1", "--param", "a=2"), "a is given twice"),
        (("--param", "a=9999999999999999.99"), "more digits than a DOUBLE"),
    ):
        done = cli("sql", "SELECT $a FROM t", f"t={people}", *given)
        assert (done.returncode, words in done.stderr) == (Exit.USAGE, True), done.stderr
    done = cli("task", "submit", "echo", "--data", "x", "--param", "a=1")
    assert (done.returncode, "--param is for" in done.stderr) == (Exit.USAGE, True)


def test_a_task_without_sql_describes_its_input(cli: Any, people: Path) -> None:
    submit = ("task", "submit", "data_processing", "--input", f"t={people}", "--wait")
    [header, name, born] = [line.split("\t") for line in cli(*submit).stdout.splitlines()]
    assert header[:4] == ["column_name", "column_type", "min", "max"]
    assert (name[0], name[2:4], born[0], born[2:4]) == (
        *("name", ["p0", "p6"]),
        *("born", ["1900", "1999"]),
    )
    done = cli(*submit, "--param", "alpha=0.1", "--json")
    assert json.loads(done.stdout)["status"]["result"]["json"]["unused_parameters"] == ["alpha"]


def on_a_terminal(cluster: LocalCluster, tmp_path: Path, *arguments: str) -> str:
    """What a command prints on a terminal of 24 lines and 60 columns."""
    save_profile("default", cluster.profile)
    leader, follower = pty.openpty()
    size = {"COLUMNS": "60", "LINES": "24", "TERM": "dumb", "NO_COLOR": "1"}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "ipfs_cluster_node", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=environment_with(tmp_path / "profiles.toml") | size,
    ) as process:
        os.close(follower)
        data = b""
        while True:
            try:
                data += (piece := os.read(leader, 65536))
            except OSError:
                break
            if not piece:
                break
        os.close(leader)
        process.wait(60)
    return data.decode()


def test_a_terminal_shows_what_it_has_room_for_and_says_what_is_left(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROFILES_VARIABLE, str(tmp_path / "profiles.toml"))
    query = (
        "SELECT i AS n, NULL AS nothing, i / 3.0 AS third, repeat('long ', 30) AS text, "
        "repeat('wide', 5) AS a, repeat('wide', 5) AS b FROM range(1000) r(i) ORDER BY i"
    )
    shown = on_a_terminal(cluster, tmp_path, "sql", query)
    lines = shown.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 60 for line in lines if not line.startswith(("-o", "numbers")))
    assert "NULL" in shown
    assert "0.3333 " in shown
    assert "… 984 more rows" in shown
    assert "more columns: " in shown
    assert "numbers are rounded" in shown
    assert "1 row\r\n" in on_a_terminal(cluster, tmp_path, "sql", "SELECT 1 AS one")


def test_ctrl_c_tells_what_goes_on_and_how_to_cancel_it(cli: Any, tmp_path: Path) -> None:
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from ipfs_cluster_node.cli.main import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "sql", LONG],
        stderr=subprocess.PIPE,
        text=True,
        env=environment_with(tmp_path / "profiles.toml"),
    ) as process:
        assert process.stderr is not None
        task_id = process.stderr.readline().split()[1]
        time.sleep(0.5)  # Until it waits for the result: nothing tells a test when that begins.
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == Exit.INTERRUPTED
    assert f"to cancel it: ipfs-cluster-node task cancel {task_id}" in said
    assert cli("task", "cancel", task_id).returncode == 0


@pytest.mark.asyncio
async def test_sql_of_the_client_takes_tables_files_and_cids(client: Client, people: Path) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]})
    assert (await client.sql("SELECT * FROM t", t=table)).equals(table)
    assert (await client.sql("SELECT * FROM t", {"t": table.to_batches()[0]})).equals(table)
    some = await client.sql("SELECT b FROM t WHERE a = $a", t=table, parameters={"a": 3})
    assert some.to_pydict() == {"b": ["z"]}
    empty = await client.sql("SELECT * FROM t", t=table.slice(0, 0))
    assert (empty.num_rows, empty.column_names) == (0, ["a", "b"])
    added = await client.add_content(people)
    for source in (people, str(people), added.cid, f"{added.cid}:csv"):
        found = await client.sql("SELECT count(*) AS n FROM t", t=source)
        assert found.to_pydict() == {"n": [5000]}


@pytest.mark.asyncio
async def test_what_the_client_is_asked_wrongly_is_said(client: Client, people: Path) -> None:
    for query, tables, said in (
        ("SELECT 1", {"t": people}, "the SQL does not name t"),
        ("SELECT 1 FROM t", {"t": 3}, "input t is of type int: 3; give the path of a file, a CID"),
        (3, {}, "query: it is of type int"),
    ):
        with pytest.raises(ClusterError, match=said) as caught:
            await client.sql(query, **tables)  # type: ignore[arg-type]
        assert caught.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(ClusterError, match="the parameters are of type list"):
        await client.sql("SELECT $a", parameters=[1])  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="can't be written as JSON"):
        await client.sql("SELECT $a", parameters={"a": float("nan")})
    with pytest.raises(ClusterError, match=r"name each: sql\(query, t=...\)"):
        await client.sql("SELECT 1 FROM t", str(people))  # type: ignore[arg-type]
    with pytest.raises(TaskFailedError, match="Parser Error") as failed:
        await client.sql("SELEC")
    assert failed.value.reason is Reason.SQL_FAILED


@pytest.mark.asyncio
async def test_a_cancelled_call_cancels_its_task(client: Client) -> None:
    import asyncio

    calling = asyncio.create_task(client.sql(LONG))
    while not (running := await client.list_tasks(states=[TaskState.RUNNING])):
        await asyncio.sleep(0.05)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    ended = await client.get_task(running[0].task_id)
    assert ended.status.state is TaskState.CANCELLED

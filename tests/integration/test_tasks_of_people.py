"""Tasks on a real cluster as people see them: why they failed, what they wait for, what goes on."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.submitted import TaskFailedError
from ipfs_cluster_node.core.errors import Exit, Reason
from tests.support.clusters import cluster_of, for_module
from tests.support.environment import environment_with

HANDLERS = """
import time
from ipfs_cluster_node.tasks import TaskContext, task_handler


def deeper(words: str) -> None:
    raise ValueError(words)


@task_handler("breaks")
def breaks(task: TaskContext) -> None:
    print("before it broke")
    deeper(task.json()["why"])


@task_handler("sleeps")
def sleeps(task: TaskContext) -> dict:
    time.sleep(float(task.payload))
    return {"slept": True, "large": 2**60}
"""
LONG = "SELECT count(*) FROM range(10000000000000) r(i) WHERE i % 7 = 3"
"""Nobody waits for its end."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    file = tmp_path_factory.mktemp("handlers") / "mine.py"
    file.write_text(HANDLERS)
    make = partial(LocalCluster, handlers=[str(file)])
    with for_module(cluster_of(1, 1, make=make)) as local:
        yield local


def words_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The lines of `task get` that have a name."""
    return {line[:12].strip(): line[13:] for line in done.stdout.splitlines() if line[:1] != " "}


@pytest.mark.asyncio
async def test_a_failed_handler_shows_its_traceback(client: Client) -> None:
    task = await client.submit_task("breaks", {"why": "no such luck"})
    with pytest.raises(TaskFailedError, match="ValueError: no such luck") as caught:
        await task.result()
    error = caught.value
    assert error.reason is Reason.HANDLER_FAILED
    first, *_, deepest, last = error.output_tail.splitlines()
    assert (first, last) == ("before it broke", "ValueError: no such luck")
    assert "raise ValueError(words)" in deepest
    assert 'deeper(task.json()["why"])' in error.output_tail
    assert error.output_tail.rstrip() in "\n".join(error.__notes__)
    assert error.task.status.failed_attempt_count == 3
    found = await client.get_task(str(task))
    assert [(each.attempt, each.node_name, each.reason) for each in found.status.attempts] == [
        (n, "worker-1", Reason.HANDLER_FAILED) for n in (1, 2, 3)
    ]
    assert found.spec.payload == b'{"why": "no such luck"}'


def test_task_get_says_what_was_asked_where_it_ran_and_shows_the_rows(
    cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,\n2,x\n")
    query = "SELECT a, b, 2::BIGINT ** 60 AS c\nFROM t ORDER BY a"
    made = cli("sql", query, f"t={tmp_path / 't.csv'}", "--namespace", "team-a/x", "--json")
    printed = json.loads(made.stdout)
    assert made.stderr == ""
    done = cli("task", "get", printed["task_id"])
    assert done.returncode == 0, done.stderr
    words = words_of(done)
    assert words["by"].startswith("operator (did:key:")
    assert words["namespace"] == "team-a/x"
    assert words["sql"] == "SELECT a, b, 2::BIGINT ** 60 AS c"
    assert "\n             FROM t ORDER BY a\n" in done.stdout
    assert words["input"].startswith("t = baf")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    [attempt] = [line for line in lines if line[0] == "1" and len(line) == 5]
    assert (attempt[1], attempt[-1]) == ("worker-1", "succeeded")
    assert lines[-3:] == [["a", "b", "c"], ["1", "NULL", lines[-2][2]], ["2", "x", lines[-1][2]]]
    assert f"2 rows, also in {printed['cid']}" in done.stderr
    document = json.loads(cli("task", "get", printed["task_id"], "--json").stdout)
    assert document["spec"]["payload_json"] == {"sql": query}
    assert document["status"]["result"]["json"]["rows"] == printed["rows"]
    assert document["status"]["request_id"] == words["request"]

    listed = cli("task", "list", "--namespace", "team-a/*").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["task", printed["task_id"]]
    assert cli("task", "list", "--namespace", "team-b/*", "--json").stdout == "[]\n"


def test_a_pending_task_says_its_place(cli: Any) -> None:
    submit = ("task", "submit", "sleeps", "--data", "60")
    ids = [cli(*submit).stdout.strip() for _ in range(5)]
    try:
        ends = time.monotonic() + 30
        # After short tasks, a worker takes more than it has slots for; it gives them back in 5 s.
        while "waits" not in (words := words_of(cli("task", "get", ids[-1]))):
            assert time.monotonic() < ends, words
        assert " for 2 slots of 1 worker, with " in words["waits"]
        assert words["state"] == "pending"
    finally:
        for task_id in ids:
            cli("task", "cancel", task_id)


def test_large_numbers_of_a_result_are_text(cli: Any) -> None:
    done = cli("task", "submit", "sleeps", "--data", "0", "--wait", "--json")
    document = json.loads(done.stdout)
    assert document["status"]["result"]["json"] == {"slept": True, "large": str(2**60)}
    assert done.stderr == ""


def test_with_json_an_error_stands_alone_and_names_its_task(cli: Any) -> None:
    done = cli("task", "submit", "sleeps", "--data", "60", "--wait", "--json", "--timeout", "1s")
    assert done.returncode == Exit.TIME_OVER
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == "DEADLINE_EXCEEDED"
    assert cli("task", "cancel", error["metadata"]["task_id"]).returncode == 0


@pytest.mark.asyncio
async def test_sql_has_a_time_limit_for_its_task(client: Client, cli: Any) -> None:
    with pytest.raises(TaskFailedError) as caught:
        await client.sql(LONG, task_timeout=timedelta(seconds=1))
    assert caught.value.reason is Reason.TASK_TIMED_OUT
    done = await asyncio.to_thread(cli, "sql", LONG, "--task-timeout", "1s")
    assert done.returncode == Exit.TASK_FAILED
    assert "TASK_TIMED_OUT" in done.stderr


@pytest.mark.parametrize("waiting", ["submit", "watch one", "watch two"])
def test_ctrl_c_says_what_goes_on_and_how_to_cancel_it(
    cli: Any, tmp_path: Path, waiting: str
) -> None:
    submit = ("task", "submit", "sleeps", "--data", "60")
    ids = [cli(*submit).stdout.strip() for _ in range(waiting.count("o"))]
    arguments = ("task", "watch", *ids) if ids else (*submit, "--wait")
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from ipfs_cluster_node.cli.main import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_with(tmp_path / "profiles.toml"),
    ) as process:
        if ids:
            assert process.stdout is not None
            assert process.stdout.readline()
        else:
            assert process.stderr is not None
            ids = [process.stderr.readline().split()[1]]
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    try:
        assert process.returncode == Exit.INTERRUPTED
        if len(ids) == 1:
            assert f"to cancel it: ipfs-cluster-node task cancel {ids[0]}" in said
        else:
            assert f"2 tasks continue: {' '.join(ids)}\n" in said
            assert "to cancel one: ipfs-cluster-node task cancel TASK_ID" in said
    finally:
        for task_id in ids:
            assert cli("task", "cancel", task_id).returncode == 0


def test_task_wait_ends_with_its_tasks_and_its_status_tells_how(cli: Any) -> None:
    good, bad, long = (
        cli("task", "submit", *words).stdout.strip()
        for words in (
            ("sleeps", "--data", "0.1"),
            ("breaks", "--data", '{"why": "no"}', "--attempt-count-max", "1"),
            ("sleeps", "--data", "60"),
        )
    )
    try:
        done = cli("task", "wait", good, good[:12])
        assert (done.returncode, done.stdout) == (Exit.DONE, f"{good} succeeded attempt 1\n")
        done = cli("task", "wait", good, bad, "--json")
        ended = {
            each["task_id"]: each["status"] for each in map(json.loads, done.stdout.splitlines())
        }
        assert done.returncode == Exit.TASK_FAILED
        assert [ended[i]["state"] for i in (good, bad)] == [
            "TASK_STATE_SUCCEEDED",
            "TASK_STATE_FAILED",
        ]
        assert ended[bad]["failed_attempt_count"] == 1
        done = cli("task", "wait", long, good, "--timeout", "1s")
        assert done.returncode == Exit.TIME_OVER
        assert done.stdout == f"{good} succeeded attempt 1\n"
        assert f"to cancel it: ipfs-cluster-node task cancel {long}" in done.stderr
    finally:
        assert cli("task", "cancel", long).returncode == 0
    assert cli("task", "wait", long).returncode == Exit.TASK_FAILED

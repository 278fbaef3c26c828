"""The shared cases on a running cluster, each with the result that its row expects."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.views import ListedTask
from tests.support.clusters import cluster_of, for_module

WAIT = timedelta(seconds=90)
PLAIN = [["Köln", 4, "good"], ["Oulu", 3, None], ["Porto", 5, "a, b"]]
D256 = "1" + "0" * 60 + ".00"


@pytest.fixture(scope="module")
def files(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cases")
    subprocess.run(
        [sys.executable, str(cases / "make_cases.py"), str(made)], check=True, capture_output=True
    )
    return made


@pytest.fixture(scope="module")
def cluster(cases: Path) -> Iterator[LocalCluster]:
    """A cluster whose workers load the handlers of the cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(cases))
        patch.setenv("IPFS_CLUSTER_NODE_TASKS_HANDLERS", "case_handlers")
        patch.setenv("IPFS_CLUSTER_NODE_TASKS_SLOTS", "1")
        with for_module(cluster_of(1, 1)) as local:
            yield local


async def run(
    client: Client, task_type: str, payload: Any = b"", *, inputs: dict[str, Path] | None = None
) -> ListedTask:
    named = [(name, (await client.add_content(path)).cid) for name, path in (inputs or {}).items()]
    task_id = await client.submit_task(task_type, payload, inputs=named)
    return (await client.wait_tasks([task_id], timeout=WAIT))[task_id]


async def query(client: Client, path: Path, sql: str = "SELECT * FROM input") -> ListedTask:
    return await run(client, "data_processing", {"sql": sql}, inputs={"input": path})


def document(task: ListedTask) -> Any:
    assert task.status.state is TaskState.SUCCEEDED, task.status.failure
    assert task.status.result is not None
    return json.loads(task.status.result.data or b"")


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["plain.csv", "gzipped", "zstandard"])
async def test_plain_and_compressed_inputs_are_read(client: Client, files: Path, name: str) -> None:
    found = document(await query(client, files / name))
    assert found["rows"] == PLAIN
    guessed = found["inputs"]["input"]
    assert guessed["delimiter"] == ","
    assert guessed["header"] is True
    assert guessed.get("compression", "plain.csv")[:3] == name[:3]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("windows1252.csv", ("line 2", "UTF-8", "Windows-1252")),
        ("utf16be.csv", ("UTF-16", "UTF-8")),
        ("bzipped", ("bzip2", "gzip")),
        ("one_long_line.csv", ("line 2", "longer than 2000000 bytes")),
        ("looks_numeric.csv", ("line 30002", "'n/a'", "'n'", "text_inputs")),
        ("short_rows.csv", ("line 3 has 2 fields",)),
        ("long_rows.csv", ("line 3 has 4 fields",)),
        ("nothing.csv", ("empty",)),
        ("cut.parquet", ("Parquet",)),
    ],
)
async def test_what_cannot_be_read_is_refused_with_its_name_and_cause(
    client: Client, files: Path, name: str, words: tuple[str, ...]
) -> None:
    ended = await query(client, files / name)
    assert ended.status.state is TaskState.FAILED
    assert ended.status.attempt == 1
    assert ended.status.failure is not None
    assert ended.status.failure.reason is Reason.TASK_INPUT_INVALID
    said = ended.status.failure.message
    assert said.startswith("input 'input': ")
    assert "/" not in said.replace("n/a", "")
    assert all(word in said for word in words), said


@pytest.mark.asyncio
async def test_json_and_a_header_alone_are_read_as_what_they_are(
    client: Client, files: Path
) -> None:
    lines = document(await query(client, files / "lines.json"))
    assert lines["rows"] == [[1, "x"], [2, "y"]]
    assert lines["inputs"]["input"]["format"] == "json"
    header = document(await query(client, files / "header_only.csv"))
    assert header["rows"] == []
    assert [column["name"] for column in header["columns"]] == ["a", "b", "c"]


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["types.arrow", "types.parquet"])
async def test_types_are_exact(client: Client, files: Path, tmp_path: Path, name: str) -> None:
    ended = await query(client, files / name)
    found = document(ended)
    rows = [
        {column["name"]: value for column, value in zip(found["columns"], row, strict=True)}
        for row in found["rows"]
    ]
    expected: list[dict[str, Any]] = [
        {
            "ns": "1970-01-01 00:00:00.000000001",
            "tz": "1970-01-01 00:00:00+00",
            "map": [["a", 1]],
            "u64": 0,
        },
        {
            "ns": "2023-11-14 22:13:20.123456789",
            "tz": "2023-11-14 22:13:20.000001+00",
            "map": [],
            "u64": "18446744073709551615",
        },
    ]
    if name == "types.arrow":
        expected[0] |= {"d256": "1.50", "dur": "00:00:00.000001"}
        expected[1] |= {"d256": D256, "dur": "25:01:01"}
    assert rows == expected
    assert ended.status.result is not None
    stored = tmp_path / "stored"
    stored.write_bytes(
        b"".join([piece async for piece in client.get_content(ended.status.result.cid)])
    )
    table = pq.read_table(stored)
    assert table.column("u64").to_pylist() == [0, 2**64 - 1]
    assert table.column("ns").cast("int64").to_pylist() == [1, 1_700_000_000_123_456_789]


@pytest.mark.asyncio
async def test_values_without_a_form_in_json_are_exact_as_text(client: Client) -> None:
    sql = (
        "SELECT 'infinity'::TIMESTAMP, DATE '0001-01-01 (BC)', "
        "170141183460469231731687303715884105727::UHUGEINT * 2, MAP {}, INTERVAL 3 DAY, "
        "TIMETZ '08:00:00-03', '101'::BIT"
    )
    found = document(await run(client, "data_processing", {"sql": sql}))
    assert found["rows"] == [
        [
            *("infinity", "0001-01-01 (BC)", "340282366920938463463374607431768211454", []),
            *("3 days", "08:00:00-03", "101"),
        ]
    ]


@pytest.mark.asyncio
async def test_a_result_that_is_none_stays_with_its_attempt(client: Client) -> None:
    began = time.monotonic()
    for task_type in ("case_large_beside_file", "case_not_a_number"):
        ended = await run(client, task_type)
        if ended.status.state is TaskState.SUCCEEDED:
            assert ended.status.result is not None
            json.loads(ended.status.result.data or b"", parse_constant=pytest.fail)
        else:
            assert ended.status.failure is not None
            assert ended.status.failure.reason in (
                Reason.HANDLER_FAILED,
                Reason.TASK_RESULT_INVALID,
            )
            assert ended.status.attempt == 1
        # Its worker goes on, and so do the next ones.
        assert (await run(client, "echo", b"next")).status.state is TaskState.SUCCEEDED
    assert time.monotonic() - began < 60


@pytest.mark.asyncio
async def test_the_words_of_a_handler_reach_the_submitter(client: Client) -> None:
    ended = await run(client, "case_words_as_reason")
    assert ended.status.failure is not None
    assert "no more of these today" in ended.status.failure.message
    ended = await run(client, "case_control_codes")
    assert ended.status.failure is not None
    assert "red" in ended.status.failure.message


@pytest.mark.asyncio
async def test_control_codes_are_escaped_on_the_command_line(client: Client, cli: Any) -> None:
    ended = await run(client, "case_control_codes")
    for arguments in (
        ("task", "get", ended.task_id),
        ("task", "list"),
        ("task", "watch", ended.task_id),
        ("task", "submit", "case_control_codes", "--wait"),
        ("task", "get", ended.task_id, "--json"),
    ):
        done = await asyncio.to_thread(cli, *arguments)
        said = done.stdout + done.stderr
        assert "red" in said
        assert said.replace("\n", "").replace("\t", "").isprintable(), ascii(said)


@pytest.mark.asyncio
async def test_what_one_task_changes_does_not_reach_the_next(client: Client) -> None:
    before = document(await run(client, "case_looks_around"))
    assert (await run(client, "case_changes_process")).status.state is TaskState.SUCCEEDED
    after = document(await run(client, "case_looks_around"))
    assert (after["mask"], after["lang"]) == (before["mask"], before["lang"])
    # Each attempt's own scratch directory may be where it runs.
    assert Path(after["cwd"]).parent.parent == Path(before["cwd"]).parent.parent


@pytest.mark.asyncio
async def test_nothing_of_an_attempt_outlives_it(client: Client) -> None:
    before = _sleepers()
    assert (await run(client, "case_leaves_daemon")).status.state is TaskState.SUCCEEDED
    deadline = time.monotonic() + 10
    while left := _sleepers() - before:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


def _sleepers() -> set[int]:
    found = set()
    for process in psutil.process_iter():
        try:
            if process.cmdline() == ["sleep", "241"]:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.asyncio
async def test_much_output_times_nothing_out(client: Client) -> None:
    ended = await run(client, "case_chatters")
    assert ended.status.state is TaskState.SUCCEEDED
    assert ended.status.attempt == 1
    assert ended.status.result is not None
    assert ended.status.result.data == b"said"

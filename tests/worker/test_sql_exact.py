"""What a SQL task reads is the number, the text and the rows that its inputs hold, or is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pytest

from ipfs_cluster_node.adapters.worker.builtin.data_processing import data_processing
from ipfs_cluster_node.adapters.worker.builtin.sql_csv import TYPE_ROWS
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskInputFile
from tests.support.sql_runs import ALL, Run, arrow, parquet, refusal

ROUNDED = (
    b"9999999999999999.99",
    b"12345678901234567890.5",
    b"0.1234567890123456789012",
    b"-9007199254740993.0",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"12345678901234567e1",
)


@pytest.mark.parametrize("number", ROUNDED)
def test_a_decimal_that_a_double_would_change_is_never_one(run: Run, number: bytes) -> None:
    text = number.decode()
    assert run(ALL, input=b"a\n1.5\n" + number + b"\n")[0]["rows"] == [["1.5"], [text]]
    # Behind the rows from which types are guessed.
    said = refusal(run, ALL, input=b"a\n" + b"1.5\n" * (TYPE_ROWS + 1) + number + b"\n")
    assert f"line {TYPE_ROWS + 3}: '{text}' in column 'a' is no exact DOUBLE" in said
    for data in (
        b'{"a": 1.5}\n{"a": %s}\n',
        b'[{"a": 1.5}, {"a": %s}]',
        b'{"a": "x"}\n{"a": %s}\n',
        b'{"a": 1}\n{"a": {"b": [0, %s]}}\n',
        b'{"a":\n 1}\n{"a" :%s}',
    ):
        said = refusal(run, ALL, input=data.replace(b"%s", number))
        assert f"input 'input': record 2: the number '{text}' would be rounded" in said


def test_a_decimal_that_a_double_gives_back_is_one(run: Run) -> None:
    numbers = [0.1, 0.1 + 0.2, 1e22, 2.0**-1074, 1.7976931348623157e308, 123456789012345.0, -0.0]
    lines = "".join(f"{number!r}\n" for number in numbers)
    rows = [[number] for number in numbers]
    assert run(ALL, input=f"a\n{lines}0.00e5\n".encode())[0]["rows"] == [*rows, [0.0]]
    objects = "".join(f'{{"a": {number!r}, "t": ",1e400"}}\n' for number in numbers)
    assert run("SELECT a FROM input", input=objects.encode())[0]["rows"] == rows


def test_json_is_recognised_by_any_first_key(run: Run) -> None:
    long = b"k" * 5000
    for key in (rb"a\"b", rb"\\", rb"a\\\"{", long):
        document, _ = run(ALL, input=b'{"' + key + b'":1}\n{"' + key + b'":2}\n')
        assert document["inputs"]["input"]["format"] == "json"
        assert document["rows"] == [[1], [2]]


def test_what_begins_far_behind_is_read_or_refused(run: Run) -> None:
    for data in (b"[" + b" " * 5000 + b'{"a":1}]', b"{" + b"\n" * 5000 + b'"a":1}'):
        assert run(ALL, input=data)[0]["rows"] == [[1]]
    assert "bytes of blanks" in refusal(run, ALL, input=b" " * 5000 + b'{"a":1}\n')
    assert "record 1: it is not JSON" in refusal(run, ALL, input=b'{"a":nan,"b":1e400}\n')


@pytest.mark.parametrize(
    "moment",
    ["2024-01-01 24:00:00", "2024-01-01 00:00:60", "2024-01-01 00:60:00", "2024-01-01 00:00:00+99"],
)
def test_a_late_time_that_no_clock_shows_is_refused(run: Run, moment: str) -> None:
    zone = "+00" if "+" in moment else ""
    early = f"2024-01-01 00:00:00{zone}\n" * (TYPE_ROWS + 1)
    said = refusal(run, ALL, input=f"t\n{early}{moment}\n".encode())
    assert f"line {TYPE_ROWS + 3}: '{moment}' in column 't' is no exact TIMESTAMP" in said
    assert run(ALL, input=f"t\n{moment}\n".encode())[0]["rows"] == [[moment]]


def test_files_one_after_another_are_not_read_in_part(run: Run) -> None:
    table, sink = pa.table({"c": [1, 2]}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = bytes(sink.getvalue())
    file, columns = arrow(pa.array([1, 2])), parquet(pa.array([1, 2]))
    for data, words in (
        (stream, "more bytes follow the end"),
        (file, "files one after another"),
        (columns, "files one after another"),
    ):
        assert run(ALL, input=data)[0]["rows"] == [[1], [2]]
        assert words in refusal(run, ALL, input=data + data)
    magic = arrow(pa.array(["ARROW1ARROW1\0\0", "PAR1PAR1"]))
    assert run("SELECT count(*) FROM input", input=magic)[0]["rows"] == [[2]]
    gzipped = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")
    assert run(ALL, input=gzipped)[0]["rows"] == [[1, 2], [3, 4]]


def test_a_quoted_empty_field_is_the_empty_text(run: Run) -> None:
    document, _ = run(ALL, input=b'a,b\n"",1\n,2\nx,\n')
    assert document["rows"] == [["", 1], [None, 2], ["x", None]]
    # A number is never empty: there it is NULL, and the result says so.
    document, _ = run(ALL, input=b'"a","b","d"\n"x","1","2024-01-02"\n"","",""\n')
    assert document["rows"] == [["x", 1, "2024-01-02"], ["", None, None]]
    assert [note.split(" has ")[0] for note in document["inputs"]["input"]["notes"]] == [
        "column 'b'",
        "column 'd'",
    ]
    assert run(ALL, {"text_inputs": ["input"]}, input=b'a,b\n"",1\n')[0]["rows"] == [["", "1"]]


HEADERS = (
    (b"country,2019,2020\nPeru,5,7\nChile,6,8\n", True),
    (b"id,2019,2020\n1,5,7\n", True),
    (b"id,1\n7,2\n", True),
    (b"country,2020,2019\nPeru,5,7\n", False),
    (b"Ada,1999,2001\nBob,2003,2004\n", False),
    (b"Ada,1,2\nBob,3,4\n", False),
    (b"n/a,1\n7,2\n", False),
    (b"id,,2020\n1,5,7\n", False),
    (b"id,2020,2020\n1,5,7\n", False),
    (b"country,2019,2020\n", False),
)


@pytest.mark.parametrize(("data", "header"), HEADERS)
def test_a_first_line_with_years_may_be_a_header(run: Run, data: bytes, header: Any) -> None:
    document, _ = run(ALL, input=data)
    assert document["inputs"]["input"]["header"] is header
    assert document["row_count"] == data.count(b"\n") - header
    if header:
        assert [column["name"] for column in document["columns"]] == (
            data.decode().splitlines()[0].split(",")
        )


def test_an_input_within_the_scratch_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in" / "0"
    path.parent.mkdir()
    path.write_bytes(b'a,b\n1,"x"y\n')
    with pytest.raises(TaskError) as caught:
        data_processing(
            TaskContext(
                task_id="t",
                attempt=1,
                task_type="data_processing",
                payload=json.dumps({"sql": ALL}).encode(),
                content_type="application/json",
                inputs={"input": TaskInputFile(path=path, cid="c", format="")},
                scratch=tmp_path,
            )
        )
    assert caught.value.message.startswith("input 'input': line 2: a double quote is not closed")


LARGEST = 2**63 - 1
EXTREME = (
    pa.array([LARGEST], pa.timestamp("us")),
    pa.array([-LARGEST], pa.timestamp("us")),
    pa.array([-LARGEST - 1], pa.timestamp("us")),
    pa.array([LARGEST, None], pa.timestamp("ns", "UTC")),
    pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
    pa.array([[0, LARGEST]], pa.list_(pa.timestamp("us"))),
    pa.array([[0, LARGEST]], pa.list_(pa.timestamp("us"), 2)),
    pa.array([{"t": [LARGEST]}], pa.struct([("t", pa.list_(pa.timestamp("us")))])),
    pa.array([[("k", LARGEST)]], pa.map_(pa.string(), pa.timestamp("us"))),
    pa.array([LARGEST], pa.timestamp("us")).dictionary_encode(),
)


@pytest.mark.parametrize("column", EXTREME, ids=lambda column: str(column.type)[:40])
def test_no_point_in_time_is_read_as_infinity(run: Run, column: Any) -> None:
    for data in (arrow(column), parquet(column)):
        assert "column 'c' has the largest or smallest" in refusal(run, ALL, input=data)


def test_times_just_within_the_range_are_read(run: Run) -> None:
    times = pa.array([LARGEST - 1, None], pa.timestamp("us"))
    for data in (arrow(times), parquet(times)):
        assert run(ALL, input=data)[0]["rows"] == [["294247-01-10 04:00:54.775806"], [None]]
    _, path = run("SELECT 'infinity'::TIMESTAMP AS t, ['-infinity'::DATE] AS d")
    assert run(ALL, input=path.read_bytes())[0]["rows"] == [["infinity", ["-infinity"]]]

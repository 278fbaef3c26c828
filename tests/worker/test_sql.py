"""SQL tasks give exact values or refuse with the input and the cause, and read only their inputs."""

import bz2
import gzip
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from ipfs_cluster_node.adapters.worker.builtin import sql_inputs
from ipfs_cluster_node.adapters.worker.builtin.sql_csv import LINE_BYTES_MAX
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import RESULT_INLINE_BYTES_MAX
from ipfs_cluster_node.tasks import TaskError
from tests.support.sql_runs import ALL, Run, arrow, parquet, refusal

VALUES: tuple[tuple[str, Any], ...] = (
    ("'infinity'::TIMESTAMP", "infinity"),
    ("'-infinity'::TIMESTAMPTZ", "-infinity"),
    ("'infinity'::TIMESTAMP_S", "infinity"),
    ("'infinity'::TIMESTAMP_NS", "infinity"),
    ("'2020-01-01 00:00:00.123456789'::TIMESTAMP_NS", "2020-01-01 00:00:00.123456789"),
    ("'2020-01-01 00:00:00.5'::TIMESTAMP_MS", "2020-01-01 00:00:00.5"),
    ("TIMESTAMPTZ '2020-01-01 05:30:00+05:30'", "2020-01-01 00:00:00+00"),
    ("DATE '-infinity'", "-infinity"),
    ("DATE '0001-01-01 (BC)'", "0001-01-01 (BC)"),
    ("TIME '24:00:00'", "24:00:00"),
    ("TIMETZ '08:00:00-03'", "08:00:00-03"),
    ("INTERVAL 3 DAY", "3 days"),
    (
        "170141183460469231731687303715884105727::UHUGEINT * 2",
        "340282366920938463463374607431768211454",
    ),
    (
        "170141183460469231731687303715884105727::HUGEINT",
        "170141183460469231731687303715884105727",
    ),
    ("'-99999999999999999999999999999999999999'::HUGEINT", "-" + "9" * 38),
    ("18446744073709551615::UBIGINT", "18446744073709551615"),
    ("9007199254740992", 9007199254740992),
    ("9007199254740993", "9007199254740993"),
    ("-9007199254740992", -9007199254740992),
    ("-9007199254740993", "-9007199254740993"),
    ("123456789012345678.1234567890::DECIMAL(38,10)", "123456789012345678.1234567890"),
    ("'101'::BIT", "101"),
    (r"'\xAA\x00'::BLOB", "qgA="),
    ("'6997d953-018b-4d0d-a028-3def855e9373'::UUID", "6997d953-018b-4d0d-a028-3def855e9373"),
    ("'b'::ENUM('a', 'b')", "b"),
    ("'-inf'::FLOAT", "-Infinity"),
    ("'nan'::DOUBLE", "NaN"),
    ("MAP {}", []),
    ("MAP {'a': INTERVAL 1 DAY, 'b': NULL}", [["a", "1 day"], ["b", None]]),
    ("MAP {[1]: {'d': DATE 'infinity'}}", [[[1], {"d": "infinity"}]]),
    ("[]", []),
    ("[{'k': 1::UHUGEINT}]", [{"k": "1"}]),
    ("union_value(k := INTERVAL 1 DAY)", "1 day"),
    ("array_value(1, 2)", [1, 2]),
    ("row(1, 'x')", {"element1": 1, "element2": "x"}),
    ("'{\"a\": 1}'::JSON", '{"a": 1}'),
    ("NULL", None),
    ("'a' || chr(0) || 'b'", "a\0b"),
)


@pytest.mark.parametrize(("expression", "value"), VALUES)
def test_each_type_is_exact_in_json_and_in_parquet(run: Run, expression: str, value: Any) -> None:
    document, path = run(f"SELECT {expression} AS v, {expression} AS v")
    assert document["rows"] == [[value, value]]
    assert [column["name"] for column in document["columns"]] == ["v", "v_1"]
    # The Parquet gives the next task the same values.
    again, _ = run(ALL, input=path.read_bytes())
    assert again["rows"] == [[value, value]]


def test_times_are_in_utc_wherever_the_worker_stands(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        document, _ = run("SELECT TIMESTAMPTZ '2020-01-01 05:30:00+05:30' AS v")
        assert document["rows"] == [["2020-01-01 00:00:00+00"]]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_json_leaves_out_fails_no_parquet(run: Run) -> None:
    document, path = run("SELECT repeat('x', 100) AS v, INTERVAL 1 DAY AS i FROM range(20000)")
    assert document["rows"] is None
    assert document["row_count"] == pq.read_table(path).num_rows == 20_000
    wide, path = run("SELECT " + ", ".join(f"{n} AS column_number_{n}" for n in range(3000)))
    assert len(json.dumps(wide)) < RESULT_INLINE_BYTES_MAX
    assert pq.read_table(path).num_columns == 3000


CSV: tuple[tuple[bytes, list[Any], str], ...] = (
    (b"a\tb\n1\t2\n", [[1, 2]], "\t"),
    (b"a;b\n1,5;2\n", [["1,5", 2]], ";"),
    (b"a|b\n1|2\n", [[1, 2]], "|"),
    (b"\xef\xbb\xbfa,b\n1,2\n", [[1, 2]], ","),
    (b"a,b\r\n1,2\r\n", [[1, 2]], ","),
    (b"a,b\r1,2\r", [[1, 2]], ","),
    (b"a,b", [], ","),
    (b"a,b\n", [], ","),
    (b"1,2\n3,4\n", [[1, 2], [3, 4]], ","),
    (b"a,a,A\n1,2,3\n", [[1, 2, 3]], ","),
    (b"zip\n007\n1\n", [["007"], ["1"]], ","),
    (b"d,e\n01/02/2024,2024-01-02\n", [["01/02/2024", "2024-01-02"]], ","),
    (b"id,x\n12345678901234567890,1.5\n", [["12345678901234567890", 1.5]], ","),
    (b"x,y\n1.5,a\n12345678901234567890,b\n", [["1.5", "a"], ["12345678901234567890", "b"]], ","),
    (b"a,b\n1.5,NaN\nNaN,NaN\n", [[1.5, "NaN"], ["NaN", "NaN"]], ","),
    (b'a,b\n1,"x\ny"\n,\n', [[1, "x\ny"], [None, None]], ","),
    (b"a,b\n1e400,1_000\n", [["1e400", "1_000"]], ","),
    (b"a,b\n2024-02-30,+5\n", [["2024-02-30", "+5"]], ","),
    (b"PARENT,ORCID\n1,2\n", [[1, 2]], ","),
    (b"ORCID;PAR1\n1;2\n", [[1, 2]], ";"),
    (b"PAR1,BZh\n1,2\n", [[1, 2]], ","),
    (b"name\nAda\n\nBob\n", [["Ada"], [None], ["Bob"]], ","),
)


@pytest.mark.parametrize(("data", "rows", "delimiter"), CSV)
def test_csv_is_read_as_what_stands_there(
    run: Run, data: bytes, rows: list[Any], delimiter: str
) -> None:
    document, _ = run(ALL, input=data)
    assert document["rows"] == rows
    guessed = document["inputs"]["input"]
    assert (guessed["format"], guessed["delimiter"]) == ("csv", delimiter)
    assert guessed["encoding"] == "utf-8"
    assert guessed["header"] is not data.startswith(b"1")
    assert [column["type"] for column in guessed["columns"]] == [
        column["type"] for column in document["columns"]
    ]


NOT_READ = (
    (b"", "is empty"),
    (b"\n\r\n", "only line ends"),
    (b"\na,b\n1,2\n", "line 1 is empty"),
    (b"a,b,c,d\n1,2,3,4\n5,6\n", "line 3 has 2 fields and line 1 has 4"),
    (b"a,b\n1,2\n3,4,5,6\n", "line 3 has 4 fields and line 1 has 2"),
    (b"title\na,b\n1,2\n", "line 2 has 2 fields and line 1 has 1"),
    (b"a\n1\n" + b"1\n" * 900_000 + b"1,2\n", "line 900003: 2 field(s) instead of 1"),
    (b"a,b\n" + b"1,x\n" * 400_000 + b"2\n", "line 400002: 1 field(s) instead of 2"),
    (b'a,b\n1,"x\n2,y\n', "line 2: a double quote is not closed"),
    (b'a,b\n1,"x"y\n2,y\n', "line 2: a double quote is not closed, or text follows"),
    (b"a,b\r\n1,x\n2,y\r\n", "lines end in different ways"),
    (b"a,b\n1,x\0\n", "line 2 has a NUL byte"),
    ("a,b\nK\N{LATIN SMALL LETTER O WITH DIAERESIS}ln,1\n".encode("cp1252"), "Windows-1252"),
    (b"a,b\n" + b"1,x\n" * 400_000 + b"1,\xf6\n", "line 400002: it is not in the encoding UTF-8"),
    ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    ("a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
    ("a,b\n1,2\n".encode("utf-32"), "UTF-32"),
    (b"k,v\n1," + b"y" * LINE_BYTES_MAX + b"\n", f"line 2: it is longer than {LINE_BYTES_MAX}"),
    (b"y" * (LINE_BYTES_MAX + 1), f"line 1 is longer than {LINE_BYTES_MAX}"),
    (b"n\n" + b"1\n" * 30_000 + b"n/a\n", "line 30002: 'n/a' in column 'n' is no exact BIGINT"),
    (b"n\n" + b"1\n" * 30_000 + b"1.5\n", "line 30002: '1.5' in column"),
    (b"n\n" + b"1\n" * 30_000 + b"007\n", "line 30002: '007' in column"),
    (b"value\n" + b"1.5\n" * 30_000 + b"12345678901234567890\n", "'12345678901234567890' in"),
    (b"row\n" + b"2024-01-01\n" * 30_000 + b"01/02/2024\n", "'01/02/2024' in column 'row'"),
    (b",".join(b"c%d" % n for n in range(5000)), "5000 columns; at most 4096"),
    (bz2.compress(b"a,b\n1,2\n"), "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04....", "Excel"),
    (b"\xd0\xcf\x11\xe0....", "Excel"),
    (b"FEA1\0\0\0\0", "Feather"),
    (b"PARE\x15\0", "encrypted"),
    (b"SQLite format 3\0", "SQLite"),
    (b"<html><body>1,2</body></html>", "HTML"),
    (b"[1, 2]\n", "records are not objects"),
    (b'{"k": 1}\n{"k":\n', "Malformed JSON"),
    (b'{"k": 1, "k": 2}\n', "duplicate key"),
    (b'{"k": 1, "K": 2}\n', "differ from 'K' only in case"),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000, "depth"),
    (b'{"a": "\xf6"}\n', "invalid UTF-8"),
    (b'{"a": 1} x\n', "Malformed JSON"),
    (b'[{"a": 1}, 2]', "non-record"),
    (b"ARROW1\0\0damaged", "can't be read as Arrow"),
    (b"PAR1\0damaged", "can't be read as Parquet"),
    (gzip.compress(b"a,b\n1,2\n" * 1000)[:-9], "can't be decompressed as gzip"),
    (gzip.compress(gzip.compress(b"a,b\n")), "compressed with gzip within gzip"),
)


@pytest.mark.parametrize(("data", "words"), NOT_READ, ids=lambda value: str(value)[:30])
def test_an_input_that_cannot_be_read_is_named_with_the_cause(
    run: Run, data: bytes, words: str
) -> None:
    said = refusal(run, "SELECT count(*) FROM input, other", input=data, other=b"a\n1\n")
    assert said.startswith("TASK_INPUT_INVALID: input 'input': ")
    assert words in said


def test_a_declared_format_is_no_other(run: Run) -> None:
    said = refusal(run, ALL, declared="csv", input=b'{"k": 1, "v": "x"}\n')
    assert "it is json, and declared as csv" in said
    assert "Parquet" in refusal(run, ALL, declared="parquet", input=b"a,b\n")
    assert run(ALL, declared="csv", input=b"a,b\n1,2\n")[0]["rows"] == [[1, 2]]


def test_text_inputs_are_read_as_text(run: Run) -> None:
    data = b"n,m\n" + b"1,2\n" * 30_000 + b"n/a,007\n"
    document, _ = run(
        "SELECT n, m FROM input WHERE TRY_CAST(n AS INT) IS NULL",
        {"text_inputs": ["input"]},
        input=data,
    )
    assert document["rows"] == [["n/a", "007"]]
    assert "text_inputs" in refusal(run, ALL, input=data)
    assert "names of the task's inputs" in refusal(run, ALL, {"text_inputs": ["x"]}, input=data)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_inputs_are_read_within_a_bound(
    run: Run, codec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def compressed(data: bytes) -> bytes:
        return bytes(pa.compress(data, codec=codec, asbytes=True))

    document, _ = run(ALL, input=compressed(b"a,b\n1,2\n"))
    assert document["rows"] == [[1, 2]]
    assert document["inputs"]["input"]["compression"] == codec
    pq.write_table(pa.table({"a": [1]}), tmp_path / "p")
    assert run(ALL, input=compressed((tmp_path / "p").read_bytes()))[0]["rows"] == [[1]]
    monkeypatch.setattr(sql_inputs, "DECOMPRESSED_BYTES_MAX", 1_500_000)
    bomb = compressed(b"a\n" + b"1\n" * 500_000)
    assert run("SELECT count(*) FROM input", input=bomb)[0]["rows"] == [[500_000]]
    # The bound is of all inputs together.
    said = refusal(run, "SELECT 1", input=bomb, second=bomb)
    assert said.startswith("TASK_INPUT_INVALID: input 'second': ")
    assert "1500000" in said


JSON = (
    (b'{"k": 1, "v": "x"}\n{"k": 2, "v": "y"}\n', [[1, "x"], [2, "y"]], "newline_delimited"),
    (b'[{"k": 1},\n {"k": 2}]', [[1], [2]], "array"),
    (b'{\n "k": {"d": ["2024-01-02"]}\n}\n', [[{"d": ["2024-01-02"]}]], "unstructured"),
    (b'{"d": "2024-01-02", "u": "01/02/2024"}', [["2024-01-02", "01/02/2024"]], None),
    (b'{"n": 123456789012345678901234567890}\n{"n": 1}', [["1234567890" * 3], ["1"]], None),
    (b'{"a": 1}\n' * 30_000 + b'{"b": 2}\n', None, None),
    (b'{"a": {"b": [1' + b"0" * 29 + b", 1.5]}}", [[{"b": [str(10**29), "1.5"]}]], None),
    (b'{"a": 1}\n{"a": 1.5}\n', [[1.0], [1.5]], None),
    (b'{"a": 9007199254740993}\n{"a": 1.5}\n', [["9007199254740993"], ["1.5"]], None),
    (b'\xef\xbb\xbf{"DATE": "12:00:00"}\n', [["12:00:00"]], None),
    (b'{"a": 1}\n{"a": "x"}\n', [["1"], ['"x"']], None),
    (b'{"a": 1, "a_1": 2}\n', [[1, 2]], None),
)


@pytest.mark.parametrize(("data", "rows", "layout"), JSON, ids=lambda value: str(value)[:30])
def test_json_is_read_as_json(run: Run, data: bytes, rows: Any, layout: str | None) -> None:
    document, _ = run(ALL, input=data)
    if rows is None:
        # A key that comes late is not lost.
        assert [column["name"] for column in document["columns"]] == ["a", "b"]
        return
    assert document["rows"] == rows
    guessed = document["inputs"]["input"]
    assert guessed["format"] == "json"
    assert layout in (None, guessed["layout"])


NS = 1_700_000_000_123_456_789
BIG = Decimal(10) ** 60
BIG_DIGITS = "1" + "0" * 60
ARROW = (
    (pa.array([NS], pa.timestamp("ns")), "2023-11-14 22:13:20.123456789"),
    (pa.array([NS], pa.timestamp("ns", "Asia/Kolkata")), "2023-11-14 22:13:20.123456789+00"),
    (pa.array([253402300799], pa.timestamp("s")), "9999-12-31 23:59:59"),
    (pa.array([BIG], pa.decimal256(70, 2)), f"{BIG_DIGITS}.00"),
    (pa.array([Decimal("1.5")], pa.decimal256(20, 2)), "1.50"),
    (pa.array([Decimal("1.5")], pa.decimal32(5, 2)), "1.50"),
    (pa.array([Decimal(100)], pa.decimal128(5, -2)), "100"),
    (pa.array([[BIG]], pa.list_(pa.decimal256(70, 0))), [BIG_DIGITS]),
    (pa.array([90_061_000_000], pa.duration("us")), "25:01:01"),
    (pa.array([5000], pa.duration("ns")), "00:00:00.000005"),
    (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), [["a", 1]]),
    (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
    (pa.array(["a"]).dictionary_encode(), "a"),
    (pa.array([[1], None], pa.list_view(pa.int32()))[:1], [1]),
    (pa.array(["a"], pa.string_view()), "a"),
    (pa.RunEndEncodedArray.from_arrays([1], ["a"]), "a"),
    (pa.array([b"0" * 16], pa.uuid()), "30303030-3030-3030-3030-303030303030"),
    (pa.array([86_400_000], pa.date64()), "1970-01-02"),
    (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
    (pa.array([1.5], pa.float16()), 1.5),
    (pa.array([-800_000], pa.date32()), "0222-09-04 (BC)"),
)


@pytest.mark.parametrize(("column", "value"), ARROW, ids=lambda value: str(value)[:20])
def test_arrow_values_are_exact(run: Run, column: Any, value: Any) -> None:
    for options in ({}, {"options": pa.ipc.IpcWriteOptions(compression="zstd")}):
        document, _ = run(ALL, input=arrow(column, **options))
        assert document["rows"] == [[value]]
        assert document["inputs"]["input"]["format"] == "arrow"


NO_ARROW = (
    (pa.array([1], pa.duration("ns")), "duration[ns]"),
    (pa.array([{"a": 5}], pa.struct([("a", pa.duration("s"))])), "duration within"),
    (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "interval can't be read"),
    (pa.array([2**62], pa.timestamp("ms")), "out of bounds"),
    (pa.array([2**62], pa.timestamp("s")), "out of bounds"),
    (pa.array([{}], pa.struct([])), "without fields"),
    (
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        "union can't be read",
    ),
)


@pytest.mark.parametrize(("column", "words"), NO_ARROW, ids=lambda value: str(value)[:20])
def test_arrow_values_that_would_change_are_refused(run: Run, column: Any, words: str) -> None:
    said = refusal(run, ALL, input=arrow(column))
    assert said.startswith("TASK_INPUT_INVALID: input 'input': column 'c'")
    assert words in said


def test_parquet_types_that_the_engine_would_round_are_exact(run: Run) -> None:
    far = 253_402_300_799_000_000
    old = {"use_deprecated_int96_timestamps": True}
    for data, value in (
        (parquet(pa.array([BIG], pa.decimal256(70, 2))), f"{BIG_DIGITS}.00"),
        (parquet(pa.array([5], pa.duration("us"))), "00:00:00.000005"),
        (parquet(pa.array([NS], pa.timestamp("ns")), **old), "2023-11-14 22:13:20.123456789"),
        (parquet(pa.array([far], pa.timestamp("us")), **old), "9999-12-31 23:59:59"),
    ):
        assert run(ALL, input=data)[0]["rows"] == [[value]]


def test_two_inputs_are_joined(run: Run) -> None:
    document, _ = run(
        "SELECT a.name, b.n FROM people a JOIN counts b USING (id) ORDER BY 1",
        people=b"id,name\n1,Ada\n2,Bob\n",
        counts=b'{"id": 2, "n": 7}\n',
    )
    assert document["rows"] == [["Bob", 7]]
    assert {name: given["format"] for name, given in document["inputs"].items()} == {
        "people": "csv",
        "counts": "json",
    }


def test_errors_of_sql_name_the_place(run: Run) -> None:
    for statement, words in (
        ("SELEC 1", 'syntax error at or near "SELEC" (line 1, column 1)'),
        ("SELECT x FROM input", '"x" not found in FROM clause!; Candidate bindings: "a" (line 1'),
        ("SELECT 1,\n  nofun(2)", "(line 2, column 3)"),
        ("SELECT 1,\n 'a'::INT FROM input", "(line 2, column 5)"),
        ("SELECT " + "1," * 200 + " zz FROM input", "(line 1, column 409)"),
        ("SELECT error('mine') FROM input", "mine"),
    ):
        said = refusal(run, statement, input=b"a\n1\n")
        assert said.startswith("SQL_FAILED: "), said
        assert words in said
    for statement in ("SELECT 1;", "SELECT 1; -- end", "SELECT 1 -- end", "SELECT 1 /* ; */ ;"):
        assert run(statement)[0]["rows"] == [[1]]
    assert run("SELECT ';--x'")[0]["rows"] == [[";--x"]]


def test_only_the_inputs_are_read_and_nothing_is_loaded(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("k\nsecret\n")
    for statement in (
        f"FROM '{secret}'",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_text('{tmp_path}/*')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"SELECT * FROM read_json('{secret}')",
        f"SELECT * FROM read_blob('{secret}')",
        f"SELECT * FROM parquet_schema('{secret}')",
        f"SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
        "SELECT * FROM sqlite_scan('x', 'y')",
        "SET lock_configuration = false",
        "SET enable_external_access = true",
        "LOAD icu",
    ):
        with pytest.raises(TaskError) as caught:
            run(statement, input=b"a\n1\n")
        assert caught.value.reason is Reason.SQL_FAILED
        assert "secret\n" not in caught.value.message
    settings = (
        "SELECT name, value FROM duckdb_settings() WHERE name IN ('lock_configuration', "
        "'enable_external_access', 'autoload_known_extensions', 'autoinstall_known_extensions', "
        "'allow_community_extensions') ORDER BY name"
    )
    assert [value for _, value in run(settings)[0]["rows"]] == [
        *("false", "false", "false", "false", "true")
    ]

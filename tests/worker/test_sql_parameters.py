"""SQL tasks take named parameters, exact or refused; without SQL they describe their inputs."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ipfs_cluster_node.adapters.worker.builtin.data_processing import data_processing
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskInputFile

CSV = b"city,temperature\nParis,11.5\nOslo,3\nRome,\n"


class Runs:
    """Runs payloads, as they come, over CSV inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self, payload: Any, *names: str) -> dict[str, Any]:
        self.count += 1
        scratch = self.folder / f"scratch-{self.count}"
        scratch.mkdir()
        path = self.folder / "in.csv"
        path.write_bytes(CSV)
        done = data_processing(
            TaskContext(
                task_id="t",
                attempt=1,
                task_type="data_processing",
                payload=payload if isinstance(payload, bytes) else json.dumps(payload).encode(),
                content_type="application/json",
                inputs={name: TaskInputFile(path=path, cid="c", format="") for name in names},
                scratch=scratch,
            )
        )
        document: dict[str, Any] = json.loads(done.data)
        return document


@pytest.fixture
def run(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def refusal(run: Runs, payload: Any, *names: str) -> str:
    with pytest.raises(TaskError) as caught:
        run(payload, *names)
    assert caught.value.reason is Reason.TASK_INPUT_INVALID
    return caught.value.message


def test_inputs_without_sql_are_described_as_duckdb_does(run: Runs) -> None:
    document = run({"input_cid": "c", "parameters": {"alpha": 0.1}}, "input")
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "CREATE TABLE t AS FROM (VALUES ('Paris', 11.5), ('Oslo', 3), ('Rome', NULL)) v(city, temperature)"
        )
        expected = connection.sql(
            "SELECT column_name, approx_unique, count FROM (SUMMARIZE t)"
        ).fetchall()
    names = [column["name"] for column in document["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in document["rows"]]
    assert [(r["column_name"], r["approx_unique"], r["count"]) for r in rows] == expected
    assert [(r["min"], r["max"]) for r in rows] == [("Oslo", "Rome"), ("3.0", "11.5")]
    assert rows[1]["null_percentage"] == "33.33"
    assert document["unused_parameters"] == ["alpha"]


def test_of_several_inputs_each_row_begins_with_its_input(run: Runs) -> None:
    document = run({}, "a", "it's")
    assert [(row[0], row[1]) for row in document["rows"]] == [
        ("a", "city"),
        ("a", "temperature"),
        ("it's", "city"),
        ("it's", "temperature"),
    ]
    assert "unused_parameters" not in document


@pytest.mark.parametrize("payload", [{}, {"parameters": {"alpha": 1}}])
def test_without_sql_and_inputs_nothing_runs(run: Runs, payload: Any) -> None:
    assert "there must be an input" in refusal(run, payload)


@pytest.mark.parametrize(
    ("text", "type_", "shown"),
    [
        ("0.1", "DOUBLE", 0.1),
        ("7", "INTEGER", 7),
        ("-9007199254740993", "BIGINT", "-9007199254740993"),
        ("170141183460469231731687303715884105727", "HUGEINT", str(2**127 - 1)),
        ("true", "BOOLEAN", True),
        ('"it\'s; DROP"', "VARCHAR", "it's; DROP"),
        ("null", '"NULL"', None),
        ("[1, null, 3]", "INTEGER[]", [1, None, 3]),
        ("[1, 2.5]", "DOUBLE[]", [1.0, 2.5]),
        ('["a", null]', "VARCHAR[]", ["a", None]),
        ("[]", '"NULL"[]', []),
    ],
)
def test_a_parameter_is_its_exact_value(run: Runs, text: str, type_: str, shown: Any) -> None:
    payload = b'{"sql": "SELECT typeof($alpha), $alpha AS alpha", "parameters": {"alpha": %s}}'
    document = run(payload % text.encode())
    assert document["rows"] == [[type_, shown]]


def test_parameters_work_beside_inputs(run: Runs) -> None:
    payload = {
        "sql": "SELECT city FROM input WHERE temperature > $least",
        "parameters": {"least": 5},
    }
    assert run(payload, "input")["rows"] == [["Paris"]]
    nested = {"parameters": {"sql": payload["sql"], "least": 2.5}}
    assert run(nested, "input")["rows"] == [["Paris"], ["Oslo"]]


@pytest.mark.parametrize(
    ("sql", "text", "words"),
    [
        ("SELECT $a, $b", '{"a": 1}', "names $b"),
        ("SELECT $a", '{"a": 1, "c": 2}', "does not name the parameter c"),
        ("SELECT 1", '{"a": 1}', "does not name the parameter a"),
        ("SELECT ?", "{}", "$name"),
        ("SELECT $1", "{}", "$name"),
        ("SELECT $a", '{"a": 0.12345678901234567890}', "more digits than a DOUBLE"),
        ("SELECT $a", '{"a": 1e999}', "more digits than a DOUBLE"),
        ("SELECT $a", '{"a": NaN}', "no number"),
        ("SELECT $a", '{"a": 170141183460469231731687303715884105728}', "HUGEINT"),
        ("SELECT $a", '{"a": [[1]]}', "a number, a text, a boolean, null or a list"),
        ("SELECT $a", '{"a": {"b": 1}}', "a number, a text, a boolean, null or a list"),
        ("SELECT $a", '{"a": [1, "1"]}', "a list of several kinds"),
        ("SELECT $a", '{"a": [true, 1]}', "a list of several kinds"),
        ("SELECT $a", '{"a": [9007199254740993, 0.5]}', "more digits than a DOUBLE"),
        ("SELECT $a", '{"a": 1e99999999999999999999}', "an exponent that no DOUBLE has"),
        ("SELECT $a", '{"a b": 1}', "no name of a parameter"),
        ("SELECT $a", "[1]", "an object"),
        ("SELECT $a", json.dumps({f"p{n}": n for n in range(101)}), "at most 100"),
    ],
)
def test_what_a_statement_can_t_take_exactly_is_refused(
    run: Runs, sql: str, text: str, words: str
) -> None:
    payload = b'{"sql": %s, "parameters": %s}' % (json.dumps(sql).encode(), text.encode())
    assert words in refusal(run, payload)


def test_a_statement_has_a_hundred_parameters_and_inputs_as_text_named_among_them(
    run: Runs,
) -> None:
    values = {f"p{n}": n for n in range(100)}
    names = ", ".join(f"${name}" for name in values)
    assert run({"sql": f"SELECT {names}", "parameters": values})["rows"] == [[*range(100)]]
    sql = "SELECT temperature FROM input WHERE city = $city"
    for payload in (
        {"sql": sql, "text_inputs": ["input"], "parameters": {"city": "Oslo"}},
        {"sql": sql, "parameters": {"city": "Oslo", "text_inputs": ["input"]}},
    ):
        assert run(payload, "input")["rows"] == [["3"]]


@pytest.mark.parametrize("field", [{"sql": "SELECT 1"}, {"text_inputs": ["input"]}])
def test_a_field_that_is_given_twice_is_refused(run: Runs, field: dict[str, Any]) -> None:
    sql = {"sql": "SELECT city FROM input"}
    said = refusal(run, sql | field | {"parameters": field}, "input")
    assert f"{min(field)!r} is given beside and in the parameters; give it once" in said


def test_a_payload_that_is_nested_too_deep_is_refused(run: Runs) -> None:
    assert "nested too deep" in refusal(run, b"[" * 100_000)


def test_an_empty_payload_describes_the_inputs_too(run: Runs) -> None:
    assert run(b"", "input")["rows"] == run({}, "input")["rows"] != []


def test_a_query_with_parameters_and_a_list_gives_what_duckdb_gives(run: Runs) -> None:
    sql = "SELECT city, temperature FROM input WHERE city IN $cities OR temperature < $most"
    values = {"cities": ["Rome", "Bern"], "most": 11.25}
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "CREATE VIEW input AS FROM (VALUES ('Paris', 11.5), ('Oslo', 3), ('Rome', NULL)) v(city, temperature)"
        )
        expected = connection.execute(sql, values).fetchall()
    found = run({"sql": sql, "parameters": values}, "input")["rows"]
    assert [(city, shown) for city, shown in found] == [(c, t and float(t)) for c, t in expected]


def test_an_error_of_a_statement_with_parameters_names_its_place(run: Runs) -> None:
    with pytest.raises(TaskError) as caught:
        run({"sql": "SELECT $a,\n nosuch FROM input", "parameters": {"a": 1}}, "input")
    assert caught.value.reason is Reason.SQL_FAILED
    assert "(line 2, column 2)" in caught.value.message

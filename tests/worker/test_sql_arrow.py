"""The DuckDB type for each Arrow type, and what is refused in a file, with its place."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ipfs_cluster_node.adapters.worker.builtin import sql_arrow
from ipfs_cluster_node.adapters.worker.builtin.sql_arrow import (
    DECIMAL_DIGITS_MAX,
    Converted,
    open_arrow,
    open_parquet,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.tasks import TaskError
from tests.support.sql_runs import ALL, Run, arrow, parquet, refusal

WIDE = pa.decimal256(DECIMAL_DIGITS_MAX + 1, 0)
"""A type that is given as text."""
READ_AS: tuple[tuple[Any, Any], ...] = (
    (pa.int64(), pa.int64()),
    (pa.uuid(), pa.uuid()),
    (pa.json_(), pa.json_()),
    (pa.bool8(), pa.int8()),
    (pa.run_end_encoded(pa.int32(), pa.utf8()), pa.utf8()),
    (pa.run_end_encoded(pa.int32(), WIDE), pa.string()),
    (pa.dictionary(pa.int32(), pa.utf8()), pa.dictionary(pa.int32(), pa.utf8())),
    (pa.dictionary(pa.int32(), WIDE), pa.string()),
    (pa.decimal256(DECIMAL_DIGITS_MAX, 3), pa.decimal128(DECIMAL_DIGITS_MAX, 3)),
    (pa.decimal128(DECIMAL_DIGITS_MAX, 3), pa.decimal128(DECIMAL_DIGITS_MAX, 3)),
    (WIDE, pa.string()),
    (pa.decimal128(5, -2), pa.decimal128(7, 0)),
    (pa.decimal128(DECIMAL_DIGITS_MAX, -1), pa.string()),
    (pa.decimal128(5, 0), pa.decimal128(5, 0)),
    (pa.duration("ns"), pa.duration("us")),
    (pa.date64(), pa.date32()),
    (pa.timestamp("s", "Asia/Kolkata"), pa.timestamp("ms", "Asia/Kolkata")),
    (pa.timestamp("us"), pa.timestamp("us")),
    (pa.list_view(pa.int32()), pa.list_view(pa.int32())),
    (pa.large_list_view(pa.int32()), pa.large_list_view(pa.int32())),
    *(
        (of(given), of(read))
        for given, read in ((pa.int32(), pa.int32()), (WIDE, pa.string()))
        for of in (
            pa.list_,
            pa.large_list,
            lambda kind: pa.list_(kind, 2),
            lambda kind: pa.struct([("a", pa.int8()), pa.field("b", kind, nullable=False)]),
            lambda kind: pa.map_(kind, pa.int8()),
            lambda kind: pa.map_(pa.int8(), kind),
            lambda kind: pa.list_(pa.list_(kind)),
        )
    ),
)


@pytest.mark.parametrize(("given", "read"), READ_AS, ids=lambda kind: str(kind)[:60])
def test_each_type_is_read_as_one_with_the_same_values(given: Any, read: Any) -> None:
    found = sql_arrow._exact(given, "input", "c")
    assert found == read
    assert (found is given) == (given == read), "an equal type is given back as it is"


INSIDE: tuple[Any, ...] = (
    pa.list_(pa.duration("s")),
    pa.large_list(pa.duration("s")),
    pa.list_(pa.duration("s"), 2),
    pa.struct([("a", pa.duration("s"))]),
    pa.map_(pa.int8(), pa.duration("s")),
    pa.map_(pa.duration("s"), pa.int8()),
    pa.dictionary(pa.int8(), pa.duration("s")),
    pa.run_end_encoded(pa.int32(), pa.duration("s")),
)
NOT_READ: tuple[tuple[Any, str], ...] = (
    *((kind, "a duration within another value") for kind in INSIDE),
    (pa.month_day_nano_interval(), "an interval can't be read"),
    (pa.sparse_union([pa.field("a", pa.int8())]), "a union can't be read"),
    (pa.struct([]), "without fields"),
    (pa.list_(pa.struct([])), "without fields"),
    (pa.list_view(WIDE), "within a list view"),
    (pa.large_list_view(WIDE), "within a list view"),
)


@pytest.mark.parametrize(("kind", "words"), NOT_READ, ids=lambda kind: str(kind)[:60])
def test_a_type_that_can_not_be_read_exactly_is_refused(kind: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words) as caught:
        sql_arrow._exact(kind, "input", "c")
    assert caught.value.reason == Reason.TASK_INPUT_INVALID
    assert caught.value.message.startswith("input 'input': column 'c' is ")


def test_a_duration_is_read_by_any_name_and_noted(run: Run) -> None:
    name = 'a "b'
    batch = pa.record_batch({name: pa.array([5000, None], pa.duration("ns")), "c": [1, 2]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    document, _ = run(ALL, input=bytes(sink.getvalue()))
    assert document["rows"] == [["00:00:00.000005", 1], [None, 2]]
    notes = [f"column {name!r} is duration[ns], read as INTERVAL"]
    assert document["inputs"]["input"]["notes"] == notes


def test_a_parquet_of_exact_types_is_read_where_it_lies(tmp_path: Path) -> None:
    path, target = tmp_path / "it's", tmp_path / "target"
    pq.write_table(pa.table({"c": [1], "d": pa.array([0], pa.date32())}), path)
    assert open_parquet(path, "input", target) == Converted(
        path, f"read_parquet('{tmp_path}/it''s')", ()
    )
    assert not target.exists()


def test_a_parquet_of_several_batches_is_looked_through_to_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_arrow, "BATCH_ROWS", 2)
    times = pa.array([0, 0, 0, 0, 2**63 - 1], pa.timestamp("us"))
    assert "column 'c' has the largest or smallest" in refusal(run, ALL, input=parquet(times))
    old = {"use_deprecated_int96_timestamps": True}
    stamps = pa.array([0, 1000, 2000, 3000, 1], pa.timestamp("ns"))
    document, _ = run("SELECT max(epoch_ns(c)), min(epoch_ns(c)) FROM input", input=parquet(stamps))
    assert document["rows"] == [[3000, 0]]
    document, _ = run(
        "SELECT list_sort(list(epoch_ns(c))) FROM input", input=parquet(stamps, **old)
    )
    assert document["rows"] == [[[0, 1, 1000, 2000, 3000]]]


def test_int96_times_that_no_one_type_holds_are_refused(run: Run) -> None:
    old = {"use_deprecated_int96_timestamps": True}
    nested = pa.array([{"t": 1}], pa.struct([("t", pa.timestamp("us"))]))
    said = refusal(run, ALL, input=parquet(nested, **old))
    assert "column 'c.t' has INT96 times inside; write INT64 ones" in said
    fine, far = pa.array([1], pa.timestamp("ns")), pa.array([253_402_300_799], pa.timestamp("s"))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"c": fine, "d": far}), sink, **old)
    assert "nanoseconds and years beyond" in refusal(run, ALL, input=bytes(sink.getvalue()))


def test_a_damaged_batch_is_refused_before_its_values_are_read(run: Run) -> None:
    """What a shallow check misses, such as this text, may crash a reader of the values."""
    offsets = pa.array([0, 1], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(pa.utf8(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    said = refusal(run, ALL, input=arrow(column))
    assert "it can't be read as Arrow: " in said
    assert "UTF8" in said


@pytest.mark.parametrize("opens", [open_arrow, open_parquet])
def test_too_little_memory_is_not_told_as_a_damaged_input(
    opens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's own error is a MemoryError and an ArrowException, and another worker may have more."""
    path, of_arrow = tmp_path / "input", opens is open_arrow
    column = pa.array([{"a": 1}])
    path.write_bytes(arrow(column) if of_arrow else parquet(column))

    def full(*_: Any) -> None:
        raise pa.ArrowMemoryError("full")

    monkeypatch.setattr(sql_arrow, "_refuse_second", full)
    with pytest.raises(MemoryError):
        opens(path, "input", tmp_path / "target", **({"is_file": True} if of_arrow else {}))


def test_too_little_memory_for_a_column_is_not_told_as_its_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input"
    path.write_bytes(arrow(pa.array([1])))

    def full(*_: Any) -> None:
        raise pa.ArrowMemoryError("full")

    monkeypatch.setattr(sql_arrow, "_cast", full)
    with pytest.raises(MemoryError):
        open_arrow(path, "input", tmp_path / "target", is_file=True)


@pytest.mark.parametrize(
    ("footer", "is_second"), [(0, False), (1, True), (19, True), (20, False), (2**32 - 1, False)]
)
def test_a_second_file_begins_where_a_footer_is_within_the_first(
    tmp_path: Path, footer: int, *, is_second: bool
) -> None:
    joined, path = sql_arrow.PARQUET_FILES_JOINED, tmp_path / "input"
    path.write_bytes(joined + bytes(8) + footer.to_bytes(4, "little") + joined + bytes(8))
    if is_second:
        with pytest.raises(TaskError, match="two or more files one after another"):
            sql_arrow._refuse_second(path, "input", joined)
    else:
        sql_arrow._refuse_second(path, "input", joined)

"""The rows of a SQL task: shown, printed as JSON, or written to a file, never all in memory."""

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
from rich.cells import cell_len

from ipfs_cluster_node.cli.output import cell_text, say
from ipfs_cluster_node.client.values import needs
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.printable import json_text, printable
from ipfs_cluster_node.core.sql import SQL_TASK_TYPE
from ipfs_cluster_node.core.views import ListedTask

FORMS: Final = (".parquet", ".csv", ".json", ".arrow")
RESULT_KEYS: Final = frozenset({"columns", "rows", "row_count", "inputs"})
READERS: Final = ("duckdb", "pyarrow")
"""What reads a result's Parquet; without them it is only copied."""
BATCH_ROWS: Final = 10_000
ROWS_SHOWN_MIN: Final = 10
LINES_AROUND: Final = 8
"""Of a terminal: the table's frame, its caption, and the lines around it."""
DECIMALS_SHOWN: Final = 4
DIGITS_SHOWN: Final = 6
"""Of numbers too large or too small for the decimals above."""
LARGE: Final = 1e15
CELL_WIDTH_MAX: Final = 40
CELL_FRAME_WIDTH: Final = 3
"""Blanks and a line, for each column of a table."""


def check_form(path: Path) -> None:
    """Check that a result can be written to a file of this name.

    Raises:
        ClusterError: INVALID_ARGUMENT for another suffix; CONFIG_INVALID, if a library is missing.
    """
    if path.suffix not in FORMS:
        raise ClusterError(Reason.INVALID_ARGUMENT, f"{path} must end in one of {', '.join(FORMS)}")
    if path.suffix != ".parquet":
        needs(*READERS, by=f"{path.suffix} (unlike .parquet)")


class ResultFile:
    """The result of a SQL task, and its Parquet file once that is fetched."""

    def __init__(self, task: ListedTask) -> None:
        """Take a task that has succeeded."""
        result = task.status.result
        assert result is not None
        said = json.loads(result.data or b"")
        self.row_count: int = said["row_count"]
        self.columns: list[dict[str, str]] = said["columns"]
        self.notes = [
            f"input {name}: {note}"
            for name, found in said["inputs"].items()
            for note in found.get("notes", ())
        ]
        self._inline: list[list[Any]] | None = said["rows"]
        self._path: Path | None = None
        self.document = {
            "task_id": task.task_id,
            "row_count": self.row_count,
            "columns": self.columns,
            "cid": result.cid,
            "size_bytes": result.size_bytes,
        }

    @classmethod
    def of(cls, task: ListedTask) -> "ResultFile | None":
        """The result of a task, if it is that of a SQL task that has succeeded."""
        if task.spec.task_type != SQL_TASK_TYPE or not (result := task.status.result):
            return None
        try:
            said = json.loads(result.data or b"")
        except ValueError:
            return None  # Of another handler of that name.
        is_such = isinstance(said, dict) and said.keys() >= RESULT_KEYS
        return cls(task) if is_such else None

    @property
    def is_inline(self) -> bool:
        """Whether the rows came with the task."""
        return self._inline is not None

    @property
    def is_unreadable(self) -> bool:
        """Whether the libraries that read the file are missing."""
        return any(find_spec(name) is None for name in READERS)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """A temporary file to fetch the Parquet into; it stays while the block runs."""
        with tempfile.TemporaryDirectory(prefix="ipfs-cluster-node-sql-") as directory:
            path = Path(directory, "result.parquet")
            # Unbuffered: it is read by its name before it is closed.
            with path.open("wb", buffering=0) as file:
                self._path = path
                yield file

    def rows(self) -> Iterator[list[Any]]:
        """The rows as JSON values, as docs/tasks.md describes them."""
        from ipfs_cluster_node.adapters.worker.builtin.sql_values import json_rows, shown_type

        if self._inline is not None:
            yield from self._inline
            return
        import pyarrow as pa

        with self._relation() as relation:
            casts = ", ".join(
                f"CAST(#{n} AS {shown_type(kind)}) AS c{n}"
                for n, kind in enumerate(relation.types, start=1)
            )
            for batch in relation.project(casts).to_arrow_reader(BATCH_ROWS):
                yield from json_rows(pa.Table.from_batches([batch]))

    def write(self, file: BinaryIO, form: str) -> None:
        """Write the rows in one of `FORMS`; a Parquet file has been fetched into `file` already."""
        match form:
            case ".csv":
                self._write_csv(file)
            case ".json":
                self._write_json(file)
            case ".arrow":
                self._write_arrow(file)

    def _write_csv(self, file: BinaryIO) -> None:
        from ipfs_cluster_node.adapters.worker.builtin.sql_csv import quoted

        assert self._path is not None
        path = self._path.with_name("result.csv")
        with self._relation() as relation:
            relation.query("rows", f"COPY rows TO {quoted(str(path))} (FORMAT csv, HEADER)")
        with path.open("rb") as source:
            shutil.copyfileobj(source, file)

    def _write_json(self, file: BinaryIO) -> None:
        """An array with an object for each row, each on a line of its own."""
        names = [column["name"] for column in self.columns]
        between = "[\n"
        for row in self.rows():
            text = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            file.write(f"{between}{text}".encode("utf-8", "surrogatepass"))
            between = ",\n"
        file.write(b"[]\n" if between == "[\n" else b"\n]\n")

    def _write_arrow(self, file: BinaryIO) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with (
            pq.ParquetFile(self._path) as source,
            pa.ipc.new_file(file, source.schema_arrow) as writer,
        ):
            for batch in source.iter_batches(BATCH_ROWS):
                writer.write_batch(batch)

    @contextmanager
    def _relation(self) -> Iterator[Any]:
        import duckdb

        with duckdb.connect(":memory:") as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection.read_parquet(str(self._path))


def print_rows(result: ResultFile, *, as_json: bool, saves: str = "-o FILE") -> None:
    """Print the rows: as JSON, as a table on a terminal, else separated by tabs.

    `saves` is what a command line needs to save them, said where they are not all shown.
    """
    if not result.is_inline and result.is_unreadable:
        say(
            f"{result.row_count} rows in {result.document['cid']}; -o out.parquet saves them",
            err=True,
        )
        needs(*READERS, by="a result of this size, to be shown,")
    if as_json:
        _print_json(result)
        return
    for note in result.notes:
        say(f"note: {note}", err=True)
    if sys.stdout.isatty():
        _print_table(result, saves)
        return
    names = [column["name"] for column in result.columns]
    for row in chain([names], result.rows()):
        click.echo("\t".join(map(cell_text, row)))
    say(f"{_counted(result.row_count, 'row')}, also in {result.document['cid']}", err=True)


def _print_json(result: ResultFile) -> None:
    """One document on one line, written row by row."""
    start = json_text(result.document).removesuffix("}")
    click.echo(f'{start}, "rows": [', nl=False)
    for n, row in enumerate(result.rows()):
        click.echo((", " if n else "") + json_text(row), nl=False)
    click.echo("]}")


def _print_table(result: ResultFile, saves: str) -> None:
    """As many rows and columns as the terminal has room for, and what is left out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    room = max(ROWS_SHOWN_MIN, console.height - LINES_AROUND)
    rows = list(islice(result.rows(), room))
    names = [printable(column["name"]) for column in result.columns]
    cells = [[_short(value) for value in row] for row in rows]
    count = fitting_count(names, cells, console.width)
    table = Table()
    for n, name in enumerate(names[:count]):
        is_number = all(isinstance(row[n], int | float | None) for row in rows)
        table.add_column(
            Text(name),
            justify="right" if rows and is_number else "left",
            overflow="ellipsis",
            no_wrap=True,
            max_width=CELL_WIDTH_MAX,
        )
    for row, texts in zip(rows, cells, strict=True):
        table.add_row(
            *(
                Text(text, style="dim" if value is None else "")
                for value, text in zip(row[:count], texts, strict=False)
            )
        )
    console.print(table)
    left = result.row_count - len(rows)
    say(f"… {_counted(left, 'more row')}" if left else _counted(result.row_count, "row"))
    if count < len(names):
        say(f"{_counted(len(names) - count, 'more column')}: {', '.join(names[count:])}")
    exact = all(
        text == cell_text(value) and cell_len(text) <= CELL_WIDTH_MAX
        for row, texts in zip(rows, cells, strict=True)
        for value, text in zip(row[:count], texts, strict=False)
    )
    if left or count < len(names) or not exact:
        rounded = "" if exact else "numbers are rounded and long texts cut; "
        say(f"{rounded}{saves} saves everything, --json prints it")
    say(f"also in {result.document['cid']}", err=True)


def fitting_count(names: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> int:
    """How many columns of a table fit into a terminal, at least one."""
    left = width - 1
    for n, name in enumerate(names):
        longest = max(map(cell_len, (name, *(row[n] for row in cells))))
        left -= min(longest, CELL_WIDTH_MAX) + CELL_FRAME_WIDTH
        if left < 0:
            return max(1, n)
    return len(names)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _short(value: Any) -> str:
    return rounded_text(value) if isinstance(value, float) else cell_text(value)


def rounded_text(value: float) -> str:
    """A number as short as a table needs it."""
    if not math.isfinite(value):
        return str(value)
    if value and not 10**-DECIMALS_SHOWN <= abs(value) < LARGE:
        return f"{value:.{DIGITS_SHOWN}g}"
    text = f"{value:.{DECIMALS_SHOWN}f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text

"""Saves tables of `state` and `audit` as files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from ipfs_cluster_node.cli.files import user_file
from ipfs_cluster_node.cli.output import print_done
from ipfs_cluster_node.core.errors import ClusterError, Reason

FORMS: Final = (".parquet", ".arrow", ".csv")

save_option = click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file: .parquet, .arrow or .csv.",
)


@contextmanager
def saving(path: Path | None, *, force: bool, as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Yield a function that writes an Arrow table to `path`, in the format of its suffix.

    The path is checked before the table is fetched; the file appears once the block has succeeded.
    Without a path nothing is written.

    Raises:
        ClusterError: INVALID_ARGUMENT for another suffix; and as `output_file`.
    """
    if path is None:
        yield lambda _table: None
        return
    if path.suffix not in FORMS:
        raise ClusterError(Reason.INVALID_ARGUMENT, f"{path} must end in one of {', '.join(FORMS)}")
    saved: list[int] = []
    with user_file(path, force=force) as file:

        def save(table: Any) -> None:
            file.write(encode_table(table, path.suffix))
            saved.append(table.num_rows)

        yield save
    for rows in saved:
        print_done({"rows": rows, "path": str(path)}, f"{rows} rows in {path}", as_json)


def encode_table(table: Any, form: str) -> Any:
    """Encode an Arrow table as a file in one of `FORMS`."""
    import pyarrow as pa
    from pyarrow import csv, feather, parquet  # Heavy.

    out = pa.BufferOutputStream()
    if form == ".parquet":
        parquet.write_table(table, out)
    elif form == ".arrow":
        feather.write_feather(table, out, compression="uncompressed")
    else:
        nested = [n for n in table.column_names if str(table.schema.field(n).type)[:4] == "list"]
        for name in nested:
            at = table.column_names.index(name)
            joined = [" ".join(value) for value in table.column(name).to_pylist()]
            table = table.set_column(at, name, [joined])
        csv.write_csv(table, out)
    return out.getvalue()

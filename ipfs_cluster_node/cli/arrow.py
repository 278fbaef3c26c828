"""Tables as files: what `state` and `audit` save."""

from pathlib import Path
from typing import Any

import click

from ipfs_cluster_node.cli.output import print_done
from ipfs_cluster_node.core.errors import ClusterError, Reason

save_option = click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file: .parquet, .arrow or .csv.",
)


def save_table(table: Any, path: Path, *, as_json: bool) -> None:
    """Write an Arrow table to a file of the kind that its name says.

    Raises:
        ClusterError: INVALID_ARGUMENT for another kind.
    """
    rows = table.num_rows
    from pyarrow import csv, feather, parquet  # Heavy.

    match path.suffix:
        case ".parquet":
            parquet.write_table(table, path)
        case ".arrow":
            feather.write_feather(table, str(path), compression="uncompressed")
        case ".csv":
            nested = [
                n for n in table.column_names if str(table.schema.field(n).type)[:4] == "list"
            ]
            for name in nested:
                at = table.column_names.index(name)
                joined = [" ".join(value) for value in table.column(name).to_pylist()]
                table = table.set_column(at, name, [joined])
            csv.write_csv(table, path)
        case _:
            raise ClusterError(
                Reason.INVALID_ARGUMENT, f"{path} ends neither in .parquet nor .arrow nor .csv"
            )
    print_done({"rows": rows, "path": str(path)}, f"{rows} rows in {path}", as_json)

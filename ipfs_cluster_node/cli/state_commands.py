"""`state`: tables of the cluster's state, printed, saved or watched."""

from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import click

from ipfs_cluster_node.cli.arrow import save_option, saving
from ipfs_cluster_node.cli.files import force_option
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.output import (
    cell_text,
    client_command,
    hint,
    print_json,
    print_table,
    run_client,
)
from ipfs_cluster_node.core.json_values import json_value

STATE_TABLES: Final = ("nodes", "tasks", "content", "config")

ADDED: Final = "+"
DELETED: Final = "-"


@click.group(cls=Group)
def state() -> None:
    """The cluster's state as tables, fetched as Arrow."""


def _add_table(table: str) -> None:
    @state.command(table, help=f"Print or save the table `{table}`.")
    @save_option
    @force_option
    @client_command
    def get_snapshot(profile: str | None, *, save: Path | None, force: bool, as_json: bool) -> None:
        with saving(save, force=force, as_json=as_json) as save_table:
            fetched = run_client(profile, lambda client: client.get_snapshot(table))
            save_table(fetched)
        if save is not None:
            return
        if as_json:
            print_json([json_value(row) for row in fetched.to_pylist()])
        else:
            rows = (row.values() for row in fetched.to_pylist())
            print_table(table.capitalize(), fetched.column_names, rows)


for each in STATE_TABLES:
    _add_table(each)


@state.command("watch")
@click.argument("table", type=click.Choice(STATE_TABLES))
@click.option("--prefix", default="", help="Only rows whose key begins so.")
@click.option("--resume", default="", help="Go on after a bookmark: its `resume_token`.")
@client_command
def watch_state(
    profile: str | None, table: str, *, prefix: str, resume: str, as_json: bool
) -> None:
    """Print a table and then its changes, until interrupted.

    The columns come first, separated by tabs as the rows are. `+` comes before a row that was
    added or changed, `-` before the key of one that was deleted; of `content` that is a CID, which
    may come back at once with the rows that it has now.
    With --json each line is an event: `snapshot` and `upserts` have rows, `deletions` keys, and
    after a `bookmark` the rows equal the state at its revision; at a `reset` all rows are dropped.
    """
    try:
        resume_token = bytes.fromhex(resume)
    except ValueError:
        raise click.UsageError("--resume takes the resume_token of a bookmark") from None

    printer = _Printer(as_json=as_json)

    async def watch(client: Any) -> None:
        events = client.watch_state(table, key_prefix=prefix, resume_token=resume_token)
        async with aclosing(events):
            async for event in events:
                printer.show(event)

    run_client(profile, watch)


class _Printer:
    """Prints events as they come; as text, the columns before the first row."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._has_columns = False

    def show(self, event: Any) -> None:
        from ipfs_cluster_node.codec.state_watch import event_document  # Heavy.

        document = event_document(event)
        if self._as_json:
            print_json(json_value(document))
            return
        match document["event"]:
            case "snapshot" | "upserts":
                for row in document["rows"]:
                    if not self._has_columns:
                        self._has_columns = True
                        _line("", *row)
                    _line(ADDED, *row.values())
            case "deletions":
                for key in document["keys"]:
                    _line(DELETED, key)
            case "reset":
                hint(f"begins again: {document['cause']}")


def _line(*cells: Any) -> None:
    click.echo("\t".join(map(cell_text, cells)))

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
    say,
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

    `+` comes before a row that was added or changed, `-` before the key of one that was deleted.
    With --json each line is an event: `snapshot` and `upserts` have rows, `deletions` keys, and
    after a `bookmark` the rows equal the state at its revision; at a `reset` all rows are dropped.
    """
    try:
        resume_token = bytes.fromhex(resume)
    except ValueError:
        raise click.UsageError("--resume takes the resume_token of a bookmark") from None

    async def watch(client: Any) -> None:
        events = client.watch_state(table, key_prefix=prefix, resume_token=resume_token)
        async with aclosing(events):
            async for event in events:
                _print_event(event, as_json=as_json)

    run_client(profile, watch)


def _print_event(event: Any, *, as_json: bool) -> None:
    from ipfs_cluster_node.codec.state_watch import event_document  # Heavy.

    if as_json:
        print_json(json_value(event_document(event)))
        return
    document = event_document(event)
    match document["event"]:
        case "snapshot" | "upserts":
            for row in document["rows"]:
                say("\t".join((ADDED, *map(cell_text, row.values()))))
        case "deletions":
            say(*(f"{DELETED}\t{key}" for key in document["keys"]))
        case "reset":
            hint(f"begins again: {document['cause']}")

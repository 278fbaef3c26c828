"""`audit`: who did what, and who was refused."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cli.arrow import save_option, saving
from ipfs_cluster_node.cli.completing import completed_members, completed_nodes
from ipfs_cluster_node.cli.files import force_option
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.ids import Shown, nodes_shown, wide_option
from ipfs_cluster_node.cli.output import (
    DURATION,
    client_command,
    exact_time_text,
    json_document,
    one_of,
    print_json,
    print_table,
    run_client,
    say,
    verbose,
)
from ipfs_cluster_node.core.audit import Outcome
from ipfs_cluster_node.core.errors import ClusterError, Exit, Reason
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.names import NODE, Named, chosen


@click.group(cls=Group)
def audit() -> None:
    """The audit log: who did what, and who was refused."""


@audit.command("list")
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far back.")
@click.option(
    "--caller",
    default="",
    shell_complete=completed_members,
    help="Only calls by this client or node: its did:key or name.",
)
@click.option("--method", default="", help="Only calls of this method, such as SubmitTask.")
@click.option("--outcome", type=one_of(Outcome), help="Only calls with this outcome.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    shell_complete=completed_nodes,
    help="Only records of these masters. [default: all]",
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@wide_option
@save_option
@force_option
@client_command
def list_audit_records(
    profile: str | None,
    *,
    since: timedelta,
    caller: str,
    method: str,
    outcome: str | None,
    nodes: tuple[str, ...],
    limit: int,
    wide: bool,
    save: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """List the masters' records of calls that were denied or changed something, newest first.

    Exit status 1 if a node could not be reached: its records are missing.
    """
    begin = SYSTEM_CLOCK.wall() - since

    async def gather(client: Any) -> tuple[list[tuple[str, Any]], dict[str, str], Shown]:
        caller_did = await client.lookups.did(caller) if caller else ""
        members = await client.list_nodes()
        known = [Named(node.node_id, node.name) for node in members]
        named = {chosen(NODE, each, known) for each in nodes}
        asked_ids = {each.id for each in named}
        wanted = [
            node
            for node in members
            if node.role == Role.MASTER and (not nodes or node.node_id in asked_ids)
        ]
        others = [str(each) for each in named if each.id not in {node.node_id for node in wanted}]
        if others:
            raise ClusterError(
                Reason.MEMBER_NOT_FOUND,
                f"{min(others)} is not a master; list them with `node list`. Other nodes judge no "
                "delegations: their records are in state/audit.jsonl of their home",
            )
        answers = await asyncio.gather(
            *(
                client.list_audit_records(
                    node.endpoints[0],
                    node.node_id,
                    since=begin,
                    caller=caller_did,
                    method=method,
                    outcome=outcome or "",
                    limit=limit,
                    timeout=timedelta(seconds=10),
                )
                for node in wanted
            ),
            return_exceptions=True,
        )
        records: list[tuple[str, Any]] = []
        silent: dict[str, str] = {}
        for node, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, ClusterError):
                if answer.reason is Reason.NOT_DELEGATED:
                    raise answer
                silent[node.node_id] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                records += [(node.node_id, record) for record in answer]
        records.sort(key=lambda each: each[1].at_ms, reverse=True)
        return records[:limit], silent, nodes_shown(members, wide=wide)

    with saving(save, force=force, as_json=as_json) as save_table:
        records, silent, shown = run_client(profile, gather)
        if save is not None:
            save_table(_as_table(records))
    if save is None and as_json:
        print_json([{"node_id": node, **json_document(record)} for node, record in records])
    elif save is None:
        rows = (
            (
                exact_time_text(record.at_ms),
                record.outcome,
                record.method.rsplit("/", 1)[-1],
                f"{record.caller_name} {record.caller}".strip() or record.peer,
                f"{record.object_kind or ''} {record.object_id}".strip().replace("_", " ", 1),
                " ".join(_said(record)),
                record.reason,
                shown(node),
                *((record.request_id, " ".join(record.delegation_cids)) if verbose() else ()),
            )
            for node, record in records
        )
        columns = ("time", "outcome", "method", "caller", "about", "asked", "reason", "node")
        more = ("request", "by delegation") if verbose() else ()
        print_table("Audit log", (*columns, *more), rows)
    for node_id, why in silent.items():
        say(f"warning: could not reach {node_id}: {why}", err=True)
    if silent:
        sys.exit(Exit.FAILED)


def _said(record: Any) -> list[str]:
    """What was asked, `name=value` each."""
    return [f"{name}={value}" for name, value in record.arguments]


def _as_table(records: Sequence[tuple[str, Any]]) -> Any:
    """The records as an Arrow table, one column per field; `time` in microseconds, UTC."""
    import pyarrow as pa  # Heavy.

    texts = ("caller", "caller_class", "peer", "method", "command", "request_id", "outcome")
    schema = pa.schema(
        [
            ("node_id", pa.string()),
            ("sequence", pa.int64()),
            ("time", pa.timestamp("us", tz="UTC")),
            *((name, pa.string()) for name in (*texts, "reason")),
            ("delegation_cids", pa.list_(pa.string())),
            *((name, pa.string()) for name in ("caller_name", "object_kind", "object_id")),
            ("arguments", pa.list_(pa.string())),
        ]
    )
    rows = [
        {
            "node_id": node,
            "sequence": record.sequence,
            "time": datetime.fromtimestamp(record.at_ms / 1000, UTC),
            **{name: getattr(record, name) for name in (*texts, "reason")},
            "delegation_cids": list(record.delegation_cids),
            "caller_name": record.caller_name,
            "object_kind": record.object_kind or "",
            "object_id": record.object_id,
            "arguments": _said(record),
        }
        for node, record in records
    ]
    return pa.Table.from_pylist(rows, schema=schema)

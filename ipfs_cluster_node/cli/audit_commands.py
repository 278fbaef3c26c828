"""`audit`: who did what, and who was refused."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ipfs_cluster_node.cli.cluster_commands import DURATION
from ipfs_cluster_node.cli.output import (
    EXIT_FAILED,
    json_option,
    message_document,
    print_json,
    print_table,
    reporting,
    run_client,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason

OUTCOMES = ("allowed", "failed", "denied", "lost")


@click.group()
def audit() -> None:
    """Who did what, and who was refused."""


@audit.command("list")
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far back.")
@click.option("--caller", default="", help="Only of this did:key.")
@click.option("--method", default="", help="Only of this method, such as SubmitTask.")
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only these.")
@click.option(
    "--node", "nodes", multiple=True, help="Only what these nodes noted. [default: masters]"
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@json_option
@click.pass_obj
@reporting
def list_audit_records(
    profile: str | None,
    *,
    since: timedelta,
    caller: str,
    method: str,
    outcome: str | None,
    nodes: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """List what the masters noted of calls that were denied or changed something, newest first.

    Exit status 1 if a node could not be asked: what it noted is missing then.
    """
    begin = datetime.now(UTC) - since

    async def gather(client: Any) -> tuple[list[tuple[str, Any]], dict[str, str]]:
        from ipfs_cluster_node.v1.membership_pb2 import NODE_ROLE_MASTER

        members = await client.list_nodes()
        wanted = [
            node
            for node in members
            if node.node_id in nodes or (not nodes and node.role == NODE_ROLE_MASTER)
        ]
        unknown = set(nodes) - {node.node_id for node in wanted}
        if unknown:
            raise ClusterError(
                Reason.MEMBER_NOT_FOUND, f"{min(unknown)} is no node; list them with `node list`"
            )
        answers = await asyncio.gather(
            *(
                client.list_audit_records(
                    node.endpoints[0],
                    node.node_id,
                    since=begin,
                    caller=caller,
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
        records.sort(key=lambda each: each[1].time.ToNanoseconds(), reverse=True)
        return records[:limit], silent

    records, silent = run_client(profile, gather)
    if as_json:
        print_json([{"node_id": node, **message_document(record)} for node, record in records])
    else:
        rows = (
            (
                record.time.ToJsonString(),
                record.outcome,
                record.method.rsplit("/", 1)[-1],
                record.caller or record.peer,
                " ".join(record.delegation_cids),
                record.reason,
                node,
            )
            for node, record in records
        )
        columns = ("time", "outcome", "method", "caller", "by delegation", "reason", "node")
        print_table("Audit log", columns, rows)
    for node_id, why in silent.items():
        click.echo(f"warning: {node_id} was not asked: {why}", err=True)
    if silent:
        sys.exit(EXIT_FAILED)

"""`status`, `cluster`, `node`, `config`."""

from pathlib import Path
from typing import Any

import click

from ipfs_cluster_node.cli.completing import (
    completed_joiners,
    completed_members,
    completed_nodes,
)
from ipfs_cluster_node.cli.files import force_option, user_file
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.health import (
    found_node,
    health_of,
    health_of_all,
    reached_at,
    show_health,
    show_health_of_all,
)
from ipfs_cluster_node.cli.ids import Shown, node_names, shown_ids, wide_option
from ipfs_cluster_node.cli.output import (
    NOTHING,
    Parsed,
    capturing,
    client_command,
    confirm,
    counted,
    print_done,
    print_view,
    print_views,
    progress_bar,
    run_client,
    time_text,
)
from ipfs_cluster_node.config.output_file import is_standard_output
from ipfs_cluster_node.config.units import bytes_text
from ipfs_cluster_node.core.authorization import MEMBER_LIST, grant_text
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import node_id_from_did, parse_did
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.names import JOINER, NODE, Named, chosen

TOLD_SECONDS_AGO = 3
"""A figure that is as old is shown with its age; nodes tell theirs each second."""


def _member(text: str) -> str:
    """The node id of a did:key; the cluster judges anything else."""
    return node_id_from_did(parse_did(text)) if text.startswith("did:") else text


MEMBER = Parsed("node_id or did", _member)
"""A name, a node id or the beginning of it, or the did:key of the same identity."""


@click.command()
@client_command
def status(profile: str | None, *, as_json: bool) -> None:
    """Show the cluster: its masters, nodes, tasks and files."""

    async def ask(client: Any) -> tuple[Any, Shown]:
        answer = await client.get_cluster_status()
        wanted = bool(answer.leader_node_id) and not as_json
        return answer, await node_names(client, wanted=wanted)

    answer, named = run_client(profile, ask)
    tasks = ", ".join(f"{n} {name}" for name, n in sorted(answer.task_counts.items()) if n)
    said = (
        f"cluster  {answer.cluster_name} ({answer.cluster_id})",
        f"leader   {named(answer.leader_node_id) or 'none'}, term {answer.term}",
        f"nodes    {answer.alive_node_count} of {answer.node_count} alive",
        f"tasks    {tasks or 'none'}",
        f"content  {counted(answer.content_count, 'file')}{_stored_of_all(answer)}",
    )
    print_view(answer, said, as_json)


def _stored_of_all(answer: Any) -> str:
    if answer.content_bytes is None:
        return ""
    nodes = f"{answer.content_node_count} of {answer.node_count} nodes"
    age = f"in the last {-(-answer.content_age_ms // 1000)} s"
    return f"; {bytes_text(answer.content_bytes)} stored, as {nodes} reported {age}"


def _stored(node: Any) -> str:
    """What a node stores, and since when that is known where it is not as good as now."""
    if node.content_bytes is None:
        return NOTHING
    age_s = node.content_age_ms // 1000
    shown = bytes_text(node.content_bytes)
    return f"{shown} ({age_s} s ago)" if age_s >= TOLD_SECONDS_AGO else shown


@click.group(cls=Group)
def cluster() -> None:
    """Leadership and backups."""


@cluster.command("transfer-leadership")
@click.argument(
    "node_id", metavar="[NODE]", default="", type=MEMBER, shell_complete=completed_nodes
)
@client_command
def transfer_leadership(profile: str | None, node_id: str, *, as_json: bool) -> None:
    """Make another master the leader: NODE, or the one with the longest log.

    Returns once it leads. Nothing acknowledged is lost; writes pause for a moment.
    """

    async def transfer(client: Any) -> tuple[str, Shown]:
        leader = await client.transfer_leadership(node_id)
        return leader, await node_names(client, wanted=not as_json)

    leader, named = run_client(profile, transfer)
    print_done({"leader_node_id": leader}, f"{named(leader)} leads", as_json)


@cluster.command("backup")
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path))
@force_option
@client_command
def create_backup(profile: str | None, file: Path, *, force: bool, as_json: bool) -> None:
    """Write the masters' replicated state to FILE, to be stored apart from them.

    Tasks with payloads and results, members, permissions and settings; of content only its holders.
    The cluster's keys are sealed in it: `recover cluster` opens them with the recovery passphrase.
    The file appears once it is complete and checked; likewise - (standard output) or a pipe gets
    all of it or nothing.
    """
    with (
        # Private: it holds payloads and results of tasks.
        user_file(file, force=force, private=True, whole=True) as out,
        progress_bar(f"backup {file.name}", None) as on_progress,
    ):
        made = run_client(profile, lambda client: client.copy_backup(out, on_progress=on_progress))
    if is_standard_output(file):
        return
    print_done(
        {"path": str(file), "size_bytes": str(made.size_bytes), "index": str(made.index)},
        f"{made.size_bytes} bytes in {file}, up to entry {made.index} of the log",
        as_json,
    )


@click.group(cls=Group)
def node() -> None:
    """List, inspect, approve and remove nodes."""


@node.command("list")
@wide_option
@client_command
def list_nodes(profile: str | None, *, wide: bool, as_json: bool) -> None:
    """List the nodes; those without an inbound port have no endpoint."""
    from ipfs_cluster_node.cli.rights_text import say_if_limited

    async def ask(client: Any) -> Any:
        found = await client.list_nodes()
        await say_if_limited(client, found, MEMBER_LIST)
        return found

    nodes = run_client(profile, ask)
    shown = shown_ids(NODE, [each.node_id for each in nodes], wide=wide)
    print_views(
        nodes,
        as_json,
        "Nodes",
        ("node", "name", "role", "liveness", "running", "stored", "endpoints", "task types"),
        lambda each: (
            shown(each.node_id),
            each.name,
            _role(each),
            each.liveness,
            f"{each.running_attempt_count}/{each.slot_count}",
            _stored(each),
            " ".join(reached_at(each, nodes)) or NOTHING,
            " ".join(each.task_types),
        ),
        dropped=() if wide else ("task types", "endpoints", "stored", "running"),
    )


@node.command("get")
@click.argument("node_id", metavar="NODE", type=MEMBER, shell_complete=completed_nodes)
@client_command
def get_node(profile: str | None, node_id: str, *, as_json: bool) -> None:
    """Show what the cluster knows about a node; `node health` asks the node itself."""
    nodes = run_client(profile, lambda client: client.list_nodes())
    found = found_node(nodes, node_id)
    endpoints = " ".join(reached_at(found, nodes)) or NOTHING
    said = (
        f"node      {found.node_id}",
        f"name      {found.name}",
        f"role      {_role(found)}",
        f"state     {found.liveness} since {time_text(found.liveness_at_ms)} UTC",
        f"endpoints {endpoints}",
        f"running   {found.running_attempt_count} of {found.slot_count} attempts",
        f"types     {' '.join(found.task_types) or NOTHING}",
        f"stored    {_stored(found)}",
        f"version   {found.version or NOTHING}",
        f"enrolled  {time_text(found.enrolled_at_ms)} UTC",
    )
    print_view(found, said, as_json)


def _role(node: Any) -> str:
    """A node's role; for a master also whether it leads, or does not vote yet."""
    if node.leader:
        return f"{node.role} (leads)"
    if node.role == Role.MASTER and not node.voter:
        return f"{node.role} (does not vote)"
    return str(node.role)


@node.command("health")
@click.argument(
    "node_id", metavar="[NODE]", default="", type=MEMBER, shell_complete=completed_nodes
)
@click.option("--all", "of_all", is_flag=True, help="Ask every node, from this machine.")
@client_command
def get_health(profile: str | None, node_id: str, *, of_all: bool, as_json: bool) -> None:
    """Show the health of one node, or of --all. Exit status 1 if a check fails.

    With --all also if a node does not answer within 5 s. A node without an inbound port can't be
    asked from here; it counts as healthy while it is alive.
    """
    if of_all == bool(node_id):
        raise click.UsageError("name a node, or ask all of them with --all")
    if of_all:
        show_health_of_all(run_client(profile, health_of_all), as_json=as_json)
    else:
        answer = run_client(profile, lambda client: health_of(client, node_id))
        show_health(answer, as_json=as_json)


@node.command("remove")
@click.argument("node_id", metavar="NODE", type=MEMBER, shell_complete=completed_members)
@click.option(
    "--lose-files",
    is_flag=True,
    help="Remove it even if it is the last holder of files, which are then lost.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def remove_node(
    profile: str | None, node_id: str, *, lose_files: bool, yes: bool, as_json: bool
) -> None:
    """Remove a node or client for good; its tasks go to others.

    NODE is its name, its node id or the beginning of it, or its did:key. Refused if files would be
    lost: the message says how many, and how to keep them.
    """
    asks = not (yes or capturing.get())
    found = run_client(profile, lambda client: client.lookups.member(node_id, named=asks))
    if asks:
        confirm(f"Remove {found} for good?")
    run_client(profile, lambda client: client.remove_node(found.id, lose_files=lose_files))
    print_done({"node_id": found.id, "removed": True}, f"{found} is removed", as_json)


@node.command("joiners")
@client_command
def list_joiners(profile: str | None, *, as_json: bool) -> None:
    """List joiners that wait for approval, because of `token create --approve`."""
    joiners = run_client(profile, lambda client: client.list_joiners())
    print_views(
        joiners,
        as_json,
        "Joiners",
        ("node", "role", "says it is", "endpoints", "since", "until", "decided"),
        lambda each: (
            each.node_id,
            f"{each.role} ({grant_text(each.grant, each.namespace)})" if each.grant else each.role,
            each.name,
            " ".join(each.endpoints),
            time_text(each.asked_at_ms),
            time_text(each.expires_at_ms),
            {None: "", True: "approved", False: "rejected"}[each.approved],
        ),
    )


@node.command("approve")
@click.argument("node_id", metavar="NODE", type=MEMBER, shell_complete=completed_joiners)
@client_command
def approve_joiner(profile: str | None, node_id: str, *, as_json: bool) -> None:
    """Approve a joiner, by its node id or the beginning of it.

    Compare the id with the one that `join` shows on the other machine. Names are not accepted here,
    since a joiner chooses its own.
    """
    found, role = run_client(profile, lambda client: _decide_joiner(client, node_id, approved=True))
    print_done({"node_id": found.id, "approved": True}, f"{found} may join as {role}", as_json)


@node.command("reject")
@click.argument("node_id", metavar="NODE", type=MEMBER, shell_complete=completed_joiners)
@client_command
def reject_joiner(profile: str | None, node_id: str, *, as_json: bool) -> None:
    """Reject a joiner, by its node id or the beginning of it."""
    found, _ = run_client(profile, lambda client: _decide_joiner(client, node_id, approved=False))
    print_done({"node_id": found.id, "approved": False}, f"{found} is rejected", as_json)


async def _decide_joiner(client: Any, node_id: str, *, approved: bool) -> tuple[Named, str]:
    joiners = await client.list_joiners()
    node_id = chosen(JOINER, node_id, [Named(each.node_id) for each in joiners]).id
    found = [each for each in joiners if each.node_id == node_id]
    if approved and len(found) > 1:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{node_id} is waiting with several tokens, as "
            f"{', '.join(sorted(each.role for each in found))}; reject it, and let it join with "
            "one",
        )
    for joiner in found:
        await client.decide_joiner(joiner, approved=approved)
    return Named(node_id, found[0].name), str(found[0].role)

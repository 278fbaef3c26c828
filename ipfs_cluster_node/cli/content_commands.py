"""`content`: add, get, keep, rm, stat, ls."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import click

from ipfs_cluster_node.cli.completing import completed_cids
from ipfs_cluster_node.cli.files import (
    confirms_overwriting,
    force_option,
    harmless_name,
    standard_input,
    user_file,
    write_aside,
)
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.ids import Shown, node_names, shown_ids, wide_option
from ipfs_cluster_node.cli.output import (
    capturing,
    client_command,
    hint,
    print_done,
    print_view,
    print_views,
    progress_bar,
    run_client,
)
from ipfs_cluster_node.cli.waiting import saying_why_it_waits
from ipfs_cluster_node.config.output_file import is_standard_output
from ipfs_cluster_node.core.authorization import CONTENT_READ
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.held_blocks import SETTLED_SECONDS
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE
from ipfs_cluster_node.core.names import CONTENT

GONE_MINUTES: Final = 2 * int(SETTLED_SECONDS) // 60
"""From a removal until masters that run have deleted the blocks: see docs/content.md."""


@click.group(cls=Group)
def content() -> None:
    """Add, read, keep and remove files."""


async def _size(client: Any, cid: str) -> int | None:
    """The expected size for the bar; None if it is unknown or nothing is shown."""
    if not sys.stderr.isatty():
        return None
    try:
        stat = await client.stat_content(cid)
    except ClusterError:
        return None  # The read itself reports what is wrong.
    return int(stat.size_bytes)


@content.command("add")
@click.argument(
    "path", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option("--name", help="Its display name.  [default: the file's; none of standard input]")
@click.option(
    "--namespace", default=DEFAULT_NAMESPACE, help="Its namespace: a/b. [default: default]"
)
@client_command
def add_content(
    profile: str | None, path: Path, *, name: str | None, namespace: str, as_json: bool
) -> None:
    """Add a file, or standard input as `-`, and print its CID.

    The CID is the one that `ipfs add --cid-version=1` gives. Returns once two masters (all, if
    there are fewer) hold it durably. It is kept until it is removed. Whoever may read files in its
    namespace can read it; the same bytes may be added in several namespaces.
    """

    async def add(client: Any) -> Any:
        async with saying_why_it_waits(client):
            if file is None:
                done = await client.add_content(
                    path, name=name, namespace=namespace, on_progress=on_progress
                )
            else:
                done = await client.add_file(
                    file, name=name or "", namespace=namespace, on_progress=on_progress
                )
        if name:
            await _say_other_name(client, done.cid, name)
        return done

    with standard_input() if str(path) == "-" else nullcontext() as file:
        size = path.stat().st_size if file is None else os.fstat(file.fileno()).st_size
        with progress_bar(f"add {path.name}", size) as on_progress:
            added = run_client(profile, add)
    document = {
        "cid": added.cid,
        "size_bytes": str(added.size_bytes),
        "holders": list(added.holders),
    }
    print_done(document, added.cid, as_json)


async def _say_other_name(client: Any, cid: str, name: str) -> None:
    """Say that the same bytes are there already under another name."""
    with suppress(ClusterError):  # Perhaps not allowed; the file is added all the same.
        found = await client.stat_content(cid)
        if found.name != name:
            under = f"under the name {found.name}" if found.name else "without a name"
            hint(f"these bytes were there already {under}, which stays")


@content.command("get")
@click.argument("cid", shell_complete=completed_cids)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="[default: the name it was added under, else its CID; - is stdout]",
)
@force_option
@client_command
def get_content(
    profile: str | None, cid: str, *, output: Path | None, force: bool, as_json: bool
) -> None:
    """Download a file, whole or not at all, unless to standard output, a pipe or a device.

    Asks before it overwrites a file, if it runs on a terminal; elsewhere use --force. The bytes are
    verified against the CID.
    """

    async def receive(client: Any) -> tuple[str, int]:
        async with saying_why_it_waits(client):
            return await copy(client)

    async def copy(client: Any) -> tuple[str, int]:
        from ipfs_cluster_node.client.verified import verified

        done = 0
        whole: str = await client.lookups.cid(cid)
        with progress_bar("get", await _size(client, whole)) as on_progress:
            async for data in verified(whole, client.get_content(whole)):
                await write_aside(out, data)
                done += len(data)
                on_progress(done)
        return whole, done

    target = output if output is not None else Path()
    if target.is_dir() and not is_standard_output(target):
        target = target / _file_name(profile, cid)
    force = force or confirms_overwriting(target)
    with user_file(target, force=force) as out:
        cid, size_bytes = run_client(profile, receive)
    if not is_standard_output(target):
        document = {"cid": cid, "size_bytes": str(size_bytes), "path": str(target)}
        print_done(document, str(target), as_json)


def _file_name(profile: str | None, cid: str) -> str:
    """The name to write a file under: the one it was added under, if that is harmless."""
    own = Path(cid).name
    if capturing.get():
        return own
    try:
        found = run_client(profile, lambda client: client.stat_content(cid))
    except ClusterError:
        return own  # The read itself reports what is wrong.
    return harmless_name(found.name) or found.cid or own


@content.command("stat")
@click.argument("cid", shell_complete=completed_cids)
@client_command
def stat_content(profile: str | None, cid: str, *, as_json: bool) -> None:
    """Print a file's size and holders."""

    async def ask(client: Any) -> tuple[Any, Shown]:
        return await client.stat_content(cid), await node_names(client, wanted=not as_json)

    answer, named = run_client(profile, ask)
    said = (
        f"cid      {answer.cid}",
        f"name     {answer.name}",
        f"size     {answer.size_bytes} bytes",
        f"in       {' '.join(answer.namespaces) or '-'}",
        f"kept     {_kept(answer)}",
        *((f"needed   by {needed}",) if (needed := _needed_by(answer, "task ")) else ()),
        *(f"holder   {named(each.node_id)} {' '.join(each.endpoints)}" for each in answer.holders),
    )
    print_view(answer, said, as_json)


@content.command("ls")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@click.option("--namespace", metavar="PATTERN", default="", help="Only such, like 'team-a/*'.")
@wide_option
@client_command
def list_content(
    profile: str | None, *, limit: int, namespace: str, wide: bool, as_json: bool
) -> None:
    """List the files that were added."""
    from ipfs_cluster_node.cli.rights_text import say_if_limited

    async def ask(client: Any) -> Any:
        found = await client.list_content(limit=limit, namespace_pattern=namespace)
        await say_if_limited(client, found, CONTENT_READ)
        return found

    found = run_client(profile, ask)
    shown = shown_ids(CONTENT, [each.cid for each in found], wide=wide)
    print_views(
        found,
        as_json,
        "Content",
        ("cid", "bytes", "holders", "namespace", "kept", "needed by", "name"),
        lambda each: (
            shown(each.cid),
            each.size_bytes,
            len(each.holders),
            " ".join(each.namespaces),
            _kept(each),
            _needed_by(each),
            each.name,
        ),
    )


def _kept(listed: Any) -> str:
    kept, others = listed.kept_namespaces, set(listed.namespaces) - set(listed.kept_namespaces)
    if kept and not others:
        return "until removed"
    task = f"task {listed.goes_with}" if listed.goes_with else "its task"
    return f"in {' '.join(kept)} until removed" if kept else f"as long as {task}"


def _needed_by(listed: Any, before: str = "") -> str:
    if listed.needed_by:
        return f"{before}{listed.needed_by}"
    return "a task of others" if listed.needed_by_others else ""


NAMESPACE_HELP: Final = "Only in this one.  [default: all in which you may]"


@content.command("keep")
@click.argument("cid", shell_complete=completed_cids)
@click.option("--namespace", default="", help=NAMESPACE_HELP)
@client_command
def keep_content(profile: str | None, cid: str, *, namespace: str, as_json: bool) -> None:
    """Keep a task's result until it is removed; otherwise it is deleted with its task."""

    async def keep(client: Any) -> str:
        whole: str = await client.lookups.cid(cid)
        await client.keep_content(whole, namespace=namespace)
        return whole

    cid = run_client(profile, keep)
    print_done({"cid": cid}, f"{cid} is kept until it is removed", as_json)


@content.command("rm")
@click.argument("cid", shell_complete=completed_cids)
@click.option("--namespace", default="", help=NAMESPACE_HELP)
@client_command
def remove_content(profile: str | None, cid: str, *, namespace: str, as_json: bool) -> None:
    """Remove a file; refused while a task that has not ended needs it.

    In other namespaces than those it is removed from, it stays. Once it is in none, masters delete
    its blocks, except those that another file has too, within 20 minutes; those that do not run,
    after they return. Until then it may still be read by its CID.
    """

    async def remove(client: Any) -> tuple[str, Any]:
        whole: str = await client.lookups.cid(cid)
        return whole, await client.remove_content(whole, namespace=namespace)

    cid, removed = run_client(profile, remove)
    print_view(removed, list(_said_of_removal(cid, namespace, removed)), as_json)


def _said_of_removal(cid: str, namespace: str, removed: Any) -> Iterator[str]:
    if removed.left_namespaces:
        left = " ".join(removed.left_namespaces)
        yield f"{cid} is removed where you asked, and still in {left}: nothing is freed"
        return
    where = f" from {namespace}" if namespace else ""
    yield f"{cid} is removed{where} ({removed.size_bytes} bytes)"
    yield (
        f"its blocks that nothing else has go within {GONE_MINUTES} minutes, until then it may be "
        "read by its CID"
    )
    if removed.freed_bytes is None:
        yield "freed later, by the master that answered"
    else:
        yield f"{removed.freed_bytes} bytes freed by the master that answered"
    away = set(removed.later_node_ids)
    for node_id in removed.soon_node_ids:
        yield f"{node_id} deletes its blocks {'after its return' if node_id in away else 'soon'}"

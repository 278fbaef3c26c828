"""`dev`: a small cluster on this machine, in one terminal."""

import asyncio
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import click

from ipfs_cluster_node.cli.kept_cluster import KeptCluster, keep, using
from ipfs_cluster_node.cli.node_commands import profile_name_option
from ipfs_cluster_node.cli.output import command_line, local_command, print_done, say, with_profile
from ipfs_cluster_node.cli.own_handlers import (
    handlers_option,
    own_task_types,
    restart_on_change,
)
from ipfs_cluster_node.config.profiles import (
    PROFILE_VARIABLE,
    check_profile_name,
    chosen_profile,
    free_profile_name,
    load_profile,
    profile_names,
    remove_profile,
)
from ipfs_cluster_node.core.errors import ClusterError

MASTERS_DEFAULT: Final = 3
WORKERS_DEFAULT: Final = 2


@click.command()
@click.option("--masters", type=click.IntRange(1, 7), help=f"[default: {MASTERS_DEFAULT}]")
@click.option("--workers", type=click.IntRange(0, 32), help=f"[default: {WORKERS_DEFAULT}]")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Keep everything in this directory: new or empty, or that of an earlier `dev`, "
    "to continue its cluster. [default: temporary]",
)
@click.option(
    "--require-confinement",
    is_flag=True,
    help="Do not start if task handlers can't be kept from the nodes' files and processes.",
)
@handlers_option
@profile_name_option
@local_command
def dev(
    *,
    masters: int | None,
    workers: int | None,
    directory: Path | None,
    require_confinement: bool,
    handlers: tuple[str, ...],
    profile_name: str | None,
    as_json: bool,
) -> None:
    """Run a small cluster on this machine, with mutual TLS like any other.

    It runs until Ctrl-C, or until its terminal is closed. Each node is a process of its own.
    Commands in other terminals reach it by its profile, which is removed when it stops. Files of
    --handlers are reloaded when they change. Run it again with the same --directory to continue
    with the same nodes, tasks and files.
    """
    from ipfs_cluster_node.cli.local_cluster import LocalCluster

    if require_confinement:  # The nodes' processes inherit it.
        os.environ["IPFS_CLUSTER_NODE_TASKS_REQUIRE_CONFINEMENT"] = "true"
    if handlers:  # Before anything is made.
        asyncio.run(own_task_types(handlers))
    with ExitStack() as used:
        root = directory or Path(tempfile.mkdtemp(prefix="ipfs-cluster-node-dev-"))
        if directory is None:
            used.callback(shutil.rmtree, root, ignore_errors=True)
        kept = used.enter_context(using(root))
        if kept is not None:
            kept.check_counts(root, masters, workers)
            kept.check_ports()
        written = _profile_name(root, kept, profile_name)
        cluster = LocalCluster(root, profile_name=written, handlers=handlers)
        if kept is None:
            cluster.choose_nodes(
                masters=masters or MASTERS_DEFAULT,
                workers=WORKERS_DEFAULT if workers is None else workers,
            )
        else:
            cluster.take_nodes(kept.ports)
        keep(root, written, {n.name: (n.port, n.enrolment_port) for n in cluster.nodes})
        used.callback(remove_profile, written)
        asyncio.run(
            _dev(cluster, written, handlers, is_kept=directory is not None, as_json=as_json)
        )


def _profile_name(root: Path, kept: KeptCluster | None, wanted: str | None) -> str:
    """The name for the profile; one that is left of this cluster may be used again."""
    name = wanted or (kept.profile if kept is not None else None)
    if name is not None and name in profile_names():
        with suppress(ClusterError):
            if load_profile(name).certificate.is_relative_to(root.absolute()):
                return name
        name = wanted
    check_profile_name(name)
    return name or free_profile_name("dev")


def _profile_in_use(written: str) -> list[str]:
    """Which cluster commands use, if it is not this one, and how to use this one."""
    used = chosen_profile(None)
    if used == written:
        return []
    every = (
        f"export {PROFILE_VARIABLE}={written}"
        if os.environ.get(PROFILE_VARIABLE)
        else command_line("profile", "use", written)
    )
    return [
        f"this cluster's profile is {written}; commands without --profile use {used}",
        f"to use this cluster: add --profile {written} to a command, or for all run: {every}",
    ]


async def _dev(
    cluster: Any,
    profile_name: str,
    handlers: tuple[str, ...],
    *,
    is_kept: bool,
    as_json: bool,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The terminal was closed; under `nohup` that is ignored.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    say(*_profile_in_use(profile_name), err=True)
    try:
        await cluster.start(
            masters=MASTERS_DEFAULT,
            workers=WORKERS_DEFAULT,
            on_up=lambda name: say(f"{name} is up", err=True),
        )
        ready = {
            "event": "ready",
            "profile": profile_name,
            "nodes": [
                {"name": n.name, "node_id": n.node_id, "port": n.port} for n in cluster.nodes
            ],
        }
        how = f"ready; try: {with_profile(profile_name)} node list"
        end = "Ctrl-C stops it" + ("" if is_kept else " and removes its files")
        print_done(ready, [how, end], as_json)
        with suppress(asyncio.CancelledError):
            await restart_on_change(handlers, cluster, stop)
    finally:
        await cluster.stop()

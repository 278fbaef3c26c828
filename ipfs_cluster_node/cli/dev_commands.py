"""`dev`: a small cluster on this machine, in one terminal."""

import asyncio
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from ipfs_cluster_node.cli.node_commands import profile_name_option
from ipfs_cluster_node.cli.output import local_command, print_done, say, with_profile
from ipfs_cluster_node.cli.own_handlers import (
    handlers_option,
    own_task_types,
    restart_on_change,
)
from ipfs_cluster_node.config.home import check_unused
from ipfs_cluster_node.config.profiles import check_profile_name, free_profile_name, remove_profile


@click.command()
@click.option("--masters", type=click.IntRange(1, 7), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(0, 32), default=2, show_default=True)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="A new or empty directory, which is kept. [default: temporary]",
)
@click.option(
    "--require-confinement",
    is_flag=True,
    help="Refuse to start if task handlers can't be isolated from the node's files and processes.",
)
@handlers_option
@profile_name_option
@local_command
def dev(
    *,
    masters: int,
    workers: int,
    directory: Path | None,
    require_confinement: bool,
    handlers: tuple[str, ...],
    profile_name: str | None,
    as_json: bool,
) -> None:
    """Run a small cluster on this machine, with mutual TLS like any other.

    It runs until Ctrl-C, or until its terminal is closed.
    Each node is its own process. Other terminals use it through the profile.
    Files of --handlers are loaded again when they change.
    """
    check_profile_name(profile_name)
    if directory is not None:
        check_unused(directory, option="--directory")
    if require_confinement:  # The nodes' processes inherit it.
        os.environ["IPFS_CLUSTER_NODE_TASKS_REQUIRE_CONFINEMENT"] = "true"
    written = profile_name or free_profile_name("dev")
    asyncio.run(_dev(masters, workers, directory, written, handlers, as_json=as_json))


async def _dev(
    masters: int,
    workers: int,
    directory: Path | None,
    profile_name: str,
    handlers: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    from ipfs_cluster_node.cli.local_cluster import LocalCluster

    if handlers:
        await own_task_types(handlers)
    root = directory or Path(tempfile.mkdtemp(prefix="ipfs-cluster-node-dev-"))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The terminal was closed; under `nohup` that is ignored.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = LocalCluster(root, profile_name=profile_name, handlers=handlers)
    try:
        await cluster.start(
            masters=masters,
            workers=workers,
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
        end = "Ctrl-C stops it" + ("" if directory else " and removes its files")
        print_done(ready, [how, end], as_json)
        with suppress(asyncio.CancelledError):
            await restart_on_change(handlers, cluster, stop)
    finally:
        await cluster.stop()
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)
            remove_profile(profile_name)

"""`dev`: a small cluster on this machine, in one terminal."""

import asyncio
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from ipfs_cluster_node.cli.output import reporting
from ipfs_cluster_node.config.profiles import DEFAULT_PROFILE


@click.command()
@click.option("--masters", type=click.IntRange(1, 7), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(0, 32), default=2, show_default=True)
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Kept; default is a temporary one."
)
@click.option("--profile-name", default=DEFAULT_PROFILE, show_default=True)
@reporting
def dev(*, masters: int, workers: int, directory: Path | None, profile_name: str) -> None:
    """Run a small cluster on this machine until Ctrl-C, with mutual TLS like any other.

    Each node is a process of its own. Other terminals use it through the profile.
    """
    asyncio.run(_dev(masters, workers, directory, profile_name))


async def _dev(masters: int, workers: int, directory: Path | None, profile_name: str) -> None:
    from ipfs_cluster_node.cli.local_cluster import LocalCluster

    root = directory or Path(tempfile.mkdtemp(prefix="ipfs-cluster-node-dev-"))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = LocalCluster(root, profile_name=profile_name)
    try:
        await cluster.start(masters=masters, workers=workers, on_up=_say)
        click.echo(f"ready: profile {profile_name!r}; try: ipfs-cluster-node node list")
        click.echo("Ctrl-C stops it" + ("" if directory else " and removes its files"))
        with suppress(asyncio.CancelledError):
            await stop.wait()
    finally:
        await cluster.stop()
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)


def _say(name: str) -> None:
    click.echo(f"{name} is up")

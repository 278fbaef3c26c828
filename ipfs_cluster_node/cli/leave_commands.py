"""`leave`: the node of this machine leaves its cluster."""

import asyncio

import click

from ipfs_cluster_node.cli.node_commands import home_option
from ipfs_cluster_node.cli.output import capturing, confirm, local_command, print_done, say
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import load_settings


@click.command()
@home_option
@click.option(
    "--lose-files",
    is_flag=True,
    help="Leave even if this node is the last holder of files, which are then lost.",
)
@click.option("--yes", is_flag=True, help="Leave without asking.")
@local_command
def leave(*, home: Home, lose_files: bool, yes: bool, as_json: bool) -> None:
    """Take the node of this machine out of its cluster, for good.

    A running node waits up to `[tasks] drain` for its attempts, is removed, and stops; its `serve`
    exits with status 8. A leader hands leadership over first. Refused if the other masters would
    have no majority, or files would be lost; the node then stays a member. If this command or the
    node is killed meanwhile, run it again.

    Nothing is deleted: the node's directory stays, and `join --replace` moves it aside.
    """
    from ipfs_cluster_node.node.leaving import leave as leave_cluster

    home.check()
    settings = load_settings(home.config)
    name, cluster = settings.node.name, settings.cluster.name
    if not (yes or capturing.get() or home.left.exists()):
        confirm(f"Remove {name} from cluster {cluster} for good?")
    drain = settings.tasks.drain.total_seconds()
    try:
        asyncio.run(leave_cluster(home, lose_files=lose_files, drain_seconds=drain))
    except KeyboardInterrupt:
        say("a running node continues to leave; run `leave` again to wait for it", err=True)
        raise
    print_done(
        {"name": name, "cluster_name": cluster, "home": str(home.path), "left": True},
        f"{name} left cluster {cluster}, and does not run; its files are still in {home.path}",
        as_json,
    )

"""`version` and `completion`."""

import platform

import click

from ipfs_cluster_node import __version__
from ipfs_cluster_node.cli.output import json_option, print_json, reporting, say


@click.command()
@json_option
@reporting
def version(*, as_json: bool) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        say(f"ipfs-cluster-node {__version__}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@reporting
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: ipfs-cluster-node completion bash >> ~/.bash_completion
    """
    from click.shell_completion import get_completion_class

    from ipfs_cluster_node.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "ipfs-cluster-node", "_IPFS_CLUSTER_NODE_COMPLETE").source())

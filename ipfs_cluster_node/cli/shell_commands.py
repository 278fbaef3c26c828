"""`version` and `completion`."""

import platform

import click

from ipfs_cluster_node import __version__
from ipfs_cluster_node.cli.output import local_command, print_done, reporting


@click.command()
@local_command
def version(*, as_json: bool) -> None:
    """Print the version."""
    document = {"version": __version__, "python": platform.python_version()}
    print_done(document, f"ipfs-cluster-node {__version__}", as_json)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@reporting
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    For bash: ipfs-cluster-node completion bash >> ~/.bash_completion
    For zsh:  ipfs-cluster-node completion zsh >> ~/.zshrc
    For fish: ipfs-cluster-node completion fish > ~/.config/fish/completions/ipfs-cluster-node.fish
    """  # noqa: D301 (click keeps the lines after \b)
    from click.shell_completion import get_completion_class

    from ipfs_cluster_node.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "ipfs-cluster-node", "_IPFS_CLUSTER_NODE_COMPLETE").source())

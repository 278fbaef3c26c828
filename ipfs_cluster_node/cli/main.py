"""`ipfs-cluster-node`: the root of the command line."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from ipfs_cluster_node import __version__
from ipfs_cluster_node.cli.completing import completed_profiles
from ipfs_cluster_node.cli.groups import Group
from ipfs_cluster_node.cli.logs import set_up_plain_logging
from ipfs_cluster_node.cli.output import STALE_KEY, UCAN_KEY, drop_output
from ipfs_cluster_node.config.profiles import PROFILE_VARIABLE, UCAN_VARIABLE
from ipfs_cluster_node.core.errors import Exit
from ipfs_cluster_node.core.printable import printable

COMMANDS: Final = {
    "init": ("node_commands", "Create a cluster, with this node as its first master."),
    "join": ("node_commands", "Enrol this machine with a join token."),
    "serve": ("node_commands", "Run the node of this machine."),
    "leave": ("leave_commands", "Take the node of this machine out of its cluster."),
    "recover": ("recover_commands", "Recover from lost keys, masters or a lost cluster."),
    "dev": ("dev_commands", "Run a small cluster on this machine."),
    "profile": ("profile_commands", "Your clusters, and your identity in each."),
    "status": ("cluster_commands", "Show the cluster: its masters, nodes, tasks and files."),
    "cluster": ("cluster_commands", "Leadership and backups."),
    "node": ("cluster_commands", "List, inspect, approve and remove nodes."),
    "token": ("access_commands", "Join tokens, and delegations of your permissions."),
    "audit": ("audit_commands", "The audit log: who did what, and who was refused."),
    "auth": ("access_commands", "Permissions: what you and others may do."),
    "cert": ("certificate_commands", "Certificates of nodes and clients."),
    "config": ("config_commands", "The cluster's settings: change, plan, history, revert."),
    "state": ("state_commands", "The cluster's state as tables."),
    "task": ("task_commands", "Submit, list, watch and cancel tasks."),
    "sql": ("sql_commands", "Run a SELECT over files on a worker."),
    "content": ("content_commands", "Add, read, keep and remove files."),
    "completion": ("shell_commands", "Print the completion script of a shell."),
    "version": ("shell_commands", "Print the version."),
}
"""Name to module and help; a module is imported when its command runs."""

MEANT: Final = {
    "add": ("content add",),
    "agent": ("serve",),
    "apply": ("task submit",),
    "backup": ("cluster backup",),
    "cancel": ("task cancel",),
    "cat": ("content get",),
    "create": ("task submit", "token create"),
    "delete": ("task cancel", "node remove"),
    "demo": ("dev",),
    "describe": ("task get", "status"),
    "get": ("task get", "content get"),
    "drain": ("leave", "node remove"),
    "health": ("node health",),
    "info": ("status",),
    "inspect": ("task get", "token inspect"),
    "job": ("task list",),
    "jobs": ("task list",),
    "kill": ("task cancel",),
    "list": ("task list", "node list", "content ls"),
    "login": ("join", "profile use"),
    "logs": ("task get", "task watch"),
    "ls": ("content ls", "task list"),
    "members": ("node list",),
    "nodes": ("node list",),
    "profiles": ("profile list",),
    "put": ("content add",),
    "query": ("sql",),
    "rm": ("node remove", "task cancel"),
    "run": ("task submit", "sql"),
    "server": ("serve",),
    "show": ("task get", "status"),
    "start": ("serve", "dev"),
    "stop": ("task cancel",),
    "submit": ("task submit",),
    "tasks": ("task list",),
    "top": ("status", "node list"),
    "up": ("dev",),
    "wait": ("task watch",),
    "watch": ("task watch",),
    "whoami": ("auth whoami",),
    "worker": ("serve",),
}
"""What people type who know other tools, and the commands that they may mean."""


class LazyGroup(Group):
    """Imports a command when it is needed, so that `--help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name == "ps":  # Not in the help, as the other names of commands.
            tasks: Any = self.get_command(ctx, "task")
            return tasks.get_command(ctx, cmd_name)  # type: ignore[no-any-return]
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"ipfs_cluster_node.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def proposed(self, ctx: click.Context, name: str) -> Sequence[str]:
        """The commands that a word may mean here."""
        return MEANT.get(name) or super().proposed(ctx, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what click says of an error is escaped as all else."""
        set_up_plain_logging()
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message, keep="\n")
            raise
        except KeyboardInterrupt:
            drop_output()
            ctx.exit(Exit.INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="ipfs-cluster-node")
@click.option(
    "--profile",
    envvar=PROFILE_VARIABLE,
    shell_complete=completed_profiles,
    help="The cluster to use, from `profile list`. [default: set by `profile use`]",
)
@click.option(
    "--stale",
    is_flag=True,
    help="Read from the first master that answers; the data may be out of date.",
    expose_value=False,
    callback=lambda ctx, _param, value: ctx.meta.__setitem__(STALE_KEY, value),
)
@click.option(
    "--ucan",
    envvar=UCAN_VARIABLE,
    help="A container of delegations, or a file with one, to use besides the stored ones.",
    expose_value=False,
    callback=lambda ctx, _param, value: ctx.meta.__setitem__(UCAN_KEY, value or ""),
)
@click.pass_context
def main(ctx: click.Context, profile: str | None) -> None:
    """Run a node of a cluster for tasks and content-addressed files, or use a cluster.

    Wherever a command expects an id, it also accepts the beginning of one, and for a node or client
    its name. Files are identified by their CIDs alone.

    Exit status: 0 done, 1 failed, 2 wrong usage or input, 3 no leader reached, 4 denied,
    5 not found, 6 the task failed, 7 timed out, 8 the node was removed, 130 interrupted.
    """
    ctx.obj = profile

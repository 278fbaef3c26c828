"""Groups of commands: other names of commands, and what was probably meant."""

import difflib
from collections.abc import Sequence
from typing import Final, NoReturn

import click

OTHER_NAMES: Final = {
    "show": ("get", "inspect"),
    "describe": ("get", "show", "inspect"),
    "ps": ("list",),
    "ls": ("list",),
    "list": ("ls",),
    "rm": ("remove",),
}
"""Names that other tools use, and the commands that they stand for in a group: the first that the
group has. Not in the help, which has one name for each command."""
CLOSE: Final = 0.6
"""How alike a word and a command must be, 0 to 1, for the command to be proposed."""
PROPOSED_MAX: Final = 3


class Group(click.Group):
    """A group whose commands also have the names that other tools use."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name, or by another one."""
        for name in (cmd_name, *OTHER_NAMES.get(cmd_name, ())):
            command = super().get_command(ctx, name)
            if command is not None:
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is not there is answered with what may be meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            _refuse(ctx, name, self.proposed(ctx, name))
        return super().resolve_command(ctx, args)

    def proposed(self, ctx: click.Context, name: str) -> Sequence[str]:
        """The commands that are written much like a word, the closest first."""
        return difflib.get_close_matches(name, self.list_commands(ctx), PROPOSED_MAX, CLOSE)


def _refuse(ctx: click.Context, name: str, proposed: Sequence[str]) -> NoReturn:
    path = ctx.command_path.partition(" ")[2]
    whole = [f"`{f'{path} {each}'.strip()}`" for each in proposed]
    meant = f" Did you mean {' or '.join(whole)}?" if whole else " See --help."
    ctx.fail(f"No such command {name!r}.{meant}")

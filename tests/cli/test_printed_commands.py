"""Every command that README, the docs and the help texts print exists."""

import click
import pytest

from ipfs_cluster_node.cli.main import main
from tests.support.printed_commands import in_help, in_pages


def mistake(words: list[str]) -> str:
    """What is wrong with the words; empty if they are a command with options that it has."""
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.get_command(click.Context(command), rest[0])
        if below is None:
            return f"no command {rest[0]!r}"
        command = below
        rest.pop(0)
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    known |= {"--help", "-h"}
    given = [word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"]
    missing = [name for name in given if name not in known]
    return f"no option {missing[0]!r}" if missing else ""


@pytest.mark.parametrize("found", [in_pages, in_help])
def test_every_printed_command_is_one(found: object) -> None:
    assert callable(found)
    printed = found()
    assert len(printed) > 8
    wrong = {(where, " ".join(words)): mistake(words) for where, words in printed}
    assert {key: why for key, why in wrong.items() if why} == {}

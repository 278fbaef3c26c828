"""Printed commands can be copied into a shell."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipfs_cluster_node.cli import node_commands
from ipfs_cluster_node.cli.output import command_line, with_profile
from ipfs_cluster_node.config.home import Home


def test_a_name_or_path_stays_one_word_of_a_printed_command() -> None:
    line = command_line("serve", "--home", "/srv/my node's; rm -rf ~")
    assert shlex.split(line) == [
        "ipfs-cluster-node",
        "serve",
        "--home",
        "/srv/my node's; rm -rf ~",
    ]
    assert shlex.split(with_profile("two words"))[1:] == ["--profile", "two words"]


def test_the_command_that_starts_a_new_node_is_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "my node")
    made = SimpleNamespace(
        role="worker", node_id="n", cluster_name="c", cluster_id="i", recovery_passphrase=""
    )
    node_commands._report(made, home, None, as_json=False)
    said = capsys.readouterr().out.partition("start it with: ")[2].splitlines()[0]
    assert shlex.split(said)[-1] == str(home.path)

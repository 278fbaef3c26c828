"""What commands ask, and how long they may be told to wait."""

import click
import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.cli.output import confirm, json_option


@pytest.mark.parametrize(
    "waits", [("task", "wait", "t"), ("task", "watch", "t"), ("sql", "SELECT 1")]
)
def test_a_wait_shorter_than_a_call_is_refused(waits: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*waits, "--timeout", "1ms"])
    assert done.exit_code == 2
    assert "1ms is too short to ask a master; the minimum is 1s" in done.output


def test_a_command_that_prints_json_never_asks() -> None:
    @click.command()
    @json_option
    def removes(*, as_json: bool) -> None:
        confirm("Remove all?")
        click.echo("done")

    run = CliRunner().invoke
    assert "Add --yes for that" in run(removes, ["--json"], input="y\n").output
    assert run(removes, ["--json"], input="y\n").exit_code == 2
    assert run(removes, input="y\n").stdout == "done\n"
    assert run(removes, input="n\n").exit_code == 1

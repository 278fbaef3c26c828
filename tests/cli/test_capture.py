"""Which call is explained for a command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli.capture import CapturedCall, CapturingConnection
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.v1 import content_pb2


@pytest.mark.asyncio
async def test_an_upload_is_judged_by_its_size(tmp_path: Path) -> None:
    """Once its size was 0, which policies with an upper bound allow."""
    path = tmp_path / "f"
    path.write_bytes(bytes(1234))
    with pytest.raises(CapturedCall, match="AddContent") as caught:
        await Client(CapturingConnection()).add_content(path)
    header = content_pb2.AddContentRequest.FromString(caught.value.request).header
    assert (header.size_bytes, header.name) == (1234, "f")


def test_an_explained_removal_asks_for_no_confirmation(tmp_path: Path) -> None:
    command = ["auth", "explain", "--do", "node remove 12D3KooWx"]
    done = CliRunner(env={"HOME": str(tmp_path)}).invoke(main, command)
    assert "for good?" not in done.output


@pytest.mark.parametrize("command", ["audit list", "node health 12D3KooWx"])
def test_a_command_of_several_calls_is_not_explained_by_its_first(command: str) -> None:
    """Once it said "allowed" when only the list of nodes was allowed."""
    done = CliRunner().invoke(main, ["auth", "explain", "--do", command])
    assert done.exit_code != 0
    assert "only the first call of a command can be explained" in done.output

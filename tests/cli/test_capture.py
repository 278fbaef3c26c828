"""Which call is explained for a command line."""

from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.capture import CapturedCall, CapturingConnection, capturing_client
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.views import ListedNode
from ipfs_cluster_node.v1 import content_pb2, membership_pb2

NODE_ID = Identity.create().node_id


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


class Opened:
    """The client that looks up, of a cluster with one node."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def list_nodes(self, **_: Any) -> list[ListedNode]:
        return [ListedNode(node_id=NODE_ID, name="w1")]

    async def list_certificates(self, **_: Any) -> list[Any]:
        return []


@pytest.mark.asyncio
@pytest.mark.parametrize("named", ["w1", NODE_ID[8:16]])
async def test_a_name_is_looked_up_and_what_follows_is_captured(named: str) -> None:
    with pytest.raises(CapturedCall, match="RemoveNode") as caught:
        await capturing_client(Opened).remove_node(named)
    assert membership_pb2.RemoveNodeRequest.FromString(caught.value.request).node_id == NODE_ID


@pytest.mark.asyncio
async def test_a_whole_id_is_captured_without_any_profile() -> None:
    def opened() -> Any:
        raise AssertionError

    with pytest.raises(CapturedCall, match="RemoveNode"):
        await capturing_client(opened).remove_node(NODE_ID)

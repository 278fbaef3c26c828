"""Commands about members, with a client that notes what it is asked."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli import certificate_commands, cluster_commands
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.v1 import certificate_pb2

CLIENT = Identity.create()


def invoke(monkeypatch: pytest.MonkeyPatch, module: Any, client: Any, *arguments: str) -> Result:
    """Run a command whose client is this one."""

    def run_client(
        _profile: str | None, operation: Callable[[Any], Coroutine[Any, Any, Any]]
    ) -> Any:
        return asyncio.run(operation(client))

    monkeypatch.setattr(module, "run_client", run_client)
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("named", [CLIENT.node_id, CLIENT.did])
def test_node_remove_takes_either_name_of_an_identity(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    removed: list[tuple[str, bool]] = []

    async def remove_node(node_id: str, *, lose_files: bool) -> None:
        removed.append((node_id, lose_files))

    client = SimpleNamespace(remove_node=remove_node)
    for more in ([], ["--lose-files"]):
        arguments = ("node", "remove", named, "--yes", *more)
        done = invoke(monkeypatch, cluster_commands, client, *arguments)
        assert done.exit_code == 0, done.output
    assert removed == [(CLIENT.node_id, False), (CLIENT.node_id, True)]


def test_a_did_that_is_none_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("node", "remove", "did:key:z6Mk", "--yes")
    done = invoke(monkeypatch, cluster_commands, SimpleNamespace(), *arguments)
    assert done.exit_code == 2
    assert "did:key" in done.output


def test_cert_list_shows_the_did_of_an_owner_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def list_certificates(**_: Any) -> list[Any]:
        ends = Timestamp(seconds=1)
        return [
            certificate_pb2.Certificate(serial="1f", did=CLIENT.did, name="anna", expire_time=ends)
        ]

    client = SimpleNamespace(list_certificates=list_certificates)
    done = invoke(monkeypatch, certificate_commands, client, "cert", "list")
    assert "anna" in done.output
    assert CLIENT.did in done.output

"""Commands about members, with a client that records its calls."""

from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli import certificate_commands, cluster_commands, config_commands
from ipfs_cluster_node.client.lookups import Lookups
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.views import (
    HealthCheck,
    HealthReport,
    ListedCertificate,
    ListedNode,
    ListedSetting,
)
from tests.support.commands import invoke

CLIENT = Identity.create()


@pytest.mark.parametrize("named", [CLIENT.node_id, CLIENT.did])
def test_node_remove_takes_either_name_of_an_identity(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    removed: list[tuple[str, bool]] = []

    async def remove_node(node_id: str, *, lose_files: bool) -> None:
        removed.append((node_id, lose_files))

    nothing: Any = SimpleNamespace()  # A whole id is not looked up.
    client = SimpleNamespace(remove_node=remove_node, lookups=Lookups(nothing))
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
        return [ListedCertificate(serial="1f", did=CLIENT.did, name="anna", expires_at_ms=1000)]

    client = SimpleNamespace(list_certificates=list_certificates)
    done = invoke(monkeypatch, certificate_commands, client, "cert", "list")
    assert "anna" in done.output
    assert CLIENT.did in done.output


def test_node_list_shows_which_master_does_not_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    async def list_nodes() -> list[Any]:
        return [
            ListedNode(name="a", role=Role.MASTER, voter=True, leader=True),
            ListedNode(name="b", role=Role.MASTER, voter=True),
            ListedNode(name="c", role=Role.MASTER),
            ListedNode(name="d", role=Role.WORKER),
        ]

    client = SimpleNamespace(list_nodes=list_nodes)
    done = invoke(monkeypatch, cluster_commands, client, "node", "list")
    shown = [line.split("\t")[1:3] for line in done.output.splitlines()[1:]]
    assert shown == [
        ["a", "master (leads)"],
        ["b", "master"],
        ["c", "master (does not vote)"],
        ["d", "worker"],
    ]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_a_failed_check_of_health_is_a_failed_command(
    monkeypatch: pytest.MonkeyPatch,
    ok: bool,  # noqa: FBT001
    status: int,
    as_json: list[str],
) -> None:
    async def list_nodes() -> list[Any]:
        return [ListedNode(node_id=CLIENT.node_id, endpoints=("m:1",))]

    async def get_health(_address: str, _node_id: str, **_: Any) -> Any:
        log = HealthCheck(name="log", ok=True, degraded=True)
        return HealthReport(checks=(log, HealthCheck(name="disk", ok=ok)))

    client = SimpleNamespace(list_nodes=list_nodes, get_health=get_health)
    arguments = ("node", "health", CLIENT.node_id, *as_json)
    done = invoke(monkeypatch, cluster_commands, client, *arguments)
    assert done.exit_code == status
    assert "disk" in done.output


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_setting_that_is_none_is_not_found(
    monkeypatch: pytest.MonkeyPatch, as_json: list[str]
) -> None:
    async def get_config(key: str = "") -> list[Any]:
        entries = [ListedSetting(key="node_lease", value="10s")]
        return [entry for entry in entries if key in ("", entry.key)]

    client = SimpleNamespace(get_config=get_config)
    for key, status in (("", 0), ("node_lease", 0), ("nodelease", 5)):
        arguments = ("config", "get", *([key] if key else []), *as_json)
        done = invoke(monkeypatch, config_commands, client, *arguments)
        assert done.exit_code == status
    assert "nodelease" in done.output
    assert "did you mean node_lease?" in done.output
    assert "SETTING_NOT_FOUND" in done.output

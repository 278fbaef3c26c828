"""`node health --all`, and nodes that only connect out."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.cli import cluster_commands
from ipfs_cluster_node.cli.health import ASKED_AT_ONCE_MAX, health_of_all
from ipfs_cluster_node.cli.output import NOTHING
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.core.views import (
    ClusterStatus,
    HealthCheck,
    HealthReport,
    ListedNode,
    only_connects_out,
)
from tests.support.commands import invoke

MASTER = ListedNode(node_id="m", endpoints=("a.example:1",), liveness=Liveness.ALIVE)
OUTWARD = ListedNode(node_id="w", endpoints=("127.0.0.1:1",), liveness=Liveness.ALIVE)
WELL = HealthReport(checks=(HealthCheck(name="disk", ok=True),))
UNWELL = HealthReport(checks=(HealthCheck(name="disk", ok=False, detail="full"),))
SILENT = ClusterError(Reason.UNREACHABLE, "no answer")


def client_of(nodes: list[ListedNode], answers: dict[str, Any]) -> Any:
    """A client of these nodes; each gives this answer or raises this error."""

    async def list_nodes() -> list[ListedNode]:
        return nodes

    async def get_health(_address: str, node_id: str, **_: Any) -> Any:
        answer = answers[node_id]
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    return SimpleNamespace(list_nodes=list_nodes, get_health=get_health)


@pytest.mark.parametrize(
    ("answer", "liveness", "status", "shown"),
    [
        (WELL, Liveness.ALIVE, 0, "ok"),
        (UNWELL, Liveness.ALIVE, 1, "fail"),
        (SILENT, Liveness.ALIVE, 1, "unreachable"),
        (WELL, Liveness.DEAD, 1, "ok"),
    ],
)
def test_health_of_all_is_as_that_of_its_worst_node(
    monkeypatch: pytest.MonkeyPatch, answer: Any, liveness: Liveness, status: int, shown: str
) -> None:
    outward = ListedNode(node_id="w", endpoints=("127.0.0.1:1",), liveness=liveness)
    client = client_of([MASTER, outward], {"m": answer})
    for more in ((), ("--json",)):
        done = invoke(monkeypatch, cluster_commands, client, "node", "health", "--all", *more)
        assert done.exit_code == status, done.output
    of_master, of_worker = json.loads(done.stdout)
    assert of_master["health"] == shown
    assert of_master["well"] is (shown == "ok")
    assert ("report" in of_master, "error" in of_master) == (answer != SILENT, answer == SILENT)
    assert of_worker == {
        "node_id": "w",
        "name": "",
        "well": liveness is Liveness.ALIVE,
        "health": liveness.value,
    }


@pytest.mark.parametrize("given", [("--all", "m"), ()])
def test_health_of_a_node_or_of_all_is_asked(
    monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    client = client_of([MASTER], {"m": WELL})
    done = invoke(monkeypatch, cluster_commands, client, "node", "health", *given)
    assert done.exit_code == 2


def test_no_more_nodes_are_asked_at_once_than_the_bound() -> None:
    asked, most, go_on = 0, 0, asyncio.Event()

    async def get_health(*_: Any, **__: Any) -> Any:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        if asked == ASKED_AT_ONCE_MAX:
            go_on.set()
        await go_on.wait()
        await asyncio.sleep(0)
        asked -= 1
        return WELL

    nodes = [
        ListedNode(node_id=str(n), endpoints=("a.example:1",)) for n in range(3 * ASKED_AT_ONCE_MAX)
    ]
    client = client_of(nodes, {})
    client.get_health = get_health
    answers = asyncio.run(health_of_all(client))
    assert [node for node, _ in answers] == nodes
    assert most == ASKED_AT_ONCE_MAX


def test_a_node_without_an_address_for_others_only_connects_out() -> None:
    local = ListedNode(endpoints=("127.0.0.1:2",), role=Role.MASTER)
    assert only_connects_out(OUTWARD, [MASTER, OUTWARD])
    assert only_connects_out(ListedNode(), [local])
    assert not only_connects_out(MASTER, [MASTER, OUTWARD])
    assert not only_connects_out(OUTWARD, [local, OUTWARD])


def test_what_nodes_store_is_shown_with_its_age_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = ListedNode(node_id="new", content_bytes=3 * 2**19, content_age_ms=900)
    old = ListedNode(node_id="old", content_bytes=12, content_age_ms=8900)
    client = client_of([new, old, ListedNode(node_id="dead")], {})
    done = invoke(monkeypatch, cluster_commands, client, "node", "list")
    heads, *rows = (line.split("\t") for line in done.output.splitlines())
    stored = [row[heads.index("stored")] for row in rows]
    assert stored == ["1.5 MiB", "12 B (8 s ago)", NOTHING]
    for node_id, shown in zip(("new", "old", "dead"), stored, strict=True):
        done = invoke(monkeypatch, cluster_commands, client, "node", "get", node_id)
        assert f"stored    {shown}\n" in done.output
    missing = invoke(monkeypatch, cluster_commands, client, "node", "get", "none")
    assert "MEMBER_NOT_FOUND" in missing.output


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        (ClusterStatus(), "content  0 files\n"),
        (
            ClusterStatus(
                node_count=3, content_bytes=2048, content_node_count=2, content_age_ms=1400
            ),
            "content  0 files; 2.0 KiB stored, as 2 of 3 nodes reported in the last 2 s\n",
        ),
    ],
)
def test_status_shows_what_is_stored_where_a_leader_answers(
    monkeypatch: pytest.MonkeyPatch, known: ClusterStatus, shown: str
) -> None:
    async def get_cluster_status() -> ClusterStatus:
        return known

    client = SimpleNamespace(get_cluster_status=get_cluster_status)
    done = invoke(monkeypatch, cluster_commands, client, "status")
    assert done.output.endswith(shown)


def test_node_list_shows_no_endpoint_of_a_node_that_only_connects_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = client_of([MASTER, OUTWARD], {})
    done = invoke(monkeypatch, cluster_commands, client, "node", "list")
    heads, *rows = (line.split("\t") for line in done.output.splitlines())
    place = heads.index("endpoints")
    assert [row[place] for row in rows] == ["a.example:1", NOTHING]

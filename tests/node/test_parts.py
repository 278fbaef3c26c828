"""A node starts its parts in order, runs all their loops, and closes them the other way round."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.audit.files import FileAuditLog
from ipfs_cluster_node.adapters.worker.pool import HandlerPool
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.channels import PeerChannels
from ipfs_cluster_node.node.node import Node
from ipfs_cluster_node.node.parts.log import LogPart
from ipfs_cluster_node.node.parts.master import MasterPart
from ipfs_cluster_node.node.parts.part import Part
from tests.support.nodes import until
from tests.support.survivors import home_of_three
from tests.support.virtual_time import loop_clock


class Noted(Part):
    def __init__(self, name: str, did: list[str]) -> None:
        self.name, self.did = name, did
        self.fails = ""
        self.loops = {f"loop {name}": self.run}

    def _does(self, what: str) -> None:
        self.did.append(f"{what} {self.name}")
        if what == self.fails:
            raise ClusterError(Reason.INTERNAL, what)

    def bind(self) -> None:
        self._does("bind")

    async def prepare(self) -> None:
        self._does("prepare")

    async def begin(self) -> None:
        self._does("begin")

    async def run(self) -> None:
        self._does("run")
        try:
            await asyncio.sleep(3600)
        finally:
            self._does("end")

    async def leave(self) -> None:
        self._does("leave")

    async def close(self) -> None:
        self._does("close")


def master(tmp_path: Path) -> Node:
    home = home_of_three(tmp_path)
    settings = load_settings(home.config)
    return Node(
        home, replace(settings, node=replace(settings.node, bind="127.0.0.1:0")), clock=loop_clock()
    )


def noted(tmp_path: Path) -> tuple[Node, list[Noted], list[str]]:
    """A node whose own parts do nothing, with two more that tell what is asked of them."""
    node, did = master(tmp_path), list[str]()
    parts = [Noted("a", did), Noted("b", did)]
    node._parts = list(parts)
    return node, parts, did


@pytest.mark.asyncio
async def test_parts_run_until_the_node_is_told_to_stop(tmp_path: Path) -> None:
    node, _, did = noted(tmp_path)
    own = [node._common, node._member]
    bound: list[str] = []

    def ready(endpoint: Endpoint) -> None:
        bound.append(str(endpoint))
        did.append("ready")

    running = asyncio.create_task(node.run(ready))

    async def runs() -> bool:
        return did[-1:] == ["run b"]

    await until(runs, seconds=10, what="both loops run")
    # The port that the system chose, not 0, is what others are told.
    assert bound == list(node._member.uplink.registration.endpoints)
    assert int(bound[0].rpartition(":")[2]) > 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert did == [
        *("bind a", "bind b", "prepare a", "prepare b", "begin a", "begin b", "ready"),
        *("run a", "run b", "leave a", "leave b", "end a", "end b", "close b", "close a"),
    ]
    for part in own:
        await part.close()


@pytest.mark.parametrize("fails", ["begin", "run"])
@pytest.mark.asyncio
async def test_a_part_that_fails_ends_the_node_and_every_part_is_closed(
    tmp_path: Path, fails: str
) -> None:
    node, parts, did = noted(tmp_path)
    parts[0].fails = fails
    with pytest.raises(ClusterError, match=fails):
        await node.run()
    assert did[-2:] == ["close b", "close a"]
    assert "leave a" not in did
    for part in (node._common, node._member):
        await part.close()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was closed, in order."""
    names: list[str] = []

    def noting(kind: type, method: str) -> Callable[..., Any]:
        closes = getattr(kind, method)

        async def close(self: object) -> None:
            names.append(kind.__name__)
            await closes(self)

        return close

    for kind in (Connection, PeerChannels, HandlerPool):
        monkeypatch.setattr(kind, "close", noting(kind, "close"))
    monkeypatch.setattr(FileAuditLog, "stop", noting(FileAuditLog, "stop"))
    return names


@pytest.mark.asyncio
async def test_each_part_closes_what_it_opened(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = master(tmp_path)._parts
    [last] = [part for part in parts if isinstance(part, MasterPart)]
    stops = last._enrolment_server.stop

    async def stop(grace: float) -> None:
        closed.append("enrolment")
        await stops(grace)

    monkeypatch.setattr(last._enrolment_server, "stop", stop)
    for part in reversed(parts):
        await part.close()
    assert closed == ["enrolment", "FileAuditLog", "HandlerPool", "Connection", "PeerChannels"]


@pytest.mark.parametrize("error", [ClusterError(Reason.HANDLER_FAILED, "asked for"), OSError()])
@pytest.mark.asyncio
async def test_handler_processes_end_that_did_not_all_start(
    tmp_path: Path, closed: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nothing is closed of a node that does not come to run."""

    async def start(_pool: HandlerPool) -> None:
        raise error

    monkeypatch.setattr(HandlerPool, "start", start)
    parts = master(tmp_path)._parts
    with pytest.raises(ClusterError) as raised:
        await parts[1].prepare()
    assert raised.value.reason is Reason.HANDLER_FAILED
    assert closed == ["HandlerPool"]
    for part in reversed(parts):
        await part.close()


@pytest.mark.asyncio
async def test_what_a_leader_heard_goes_with_its_leadership(tmp_path: Path) -> None:
    node = master(tmp_path)
    [log] = [part for part in node._parts if isinstance(part, LogPart)]
    node._common.observations.hear(NodeId("n"))
    log.replica.on_leadership(False, 1)
    assert node._common.observations.heard_at == {}
    for part in reversed(node._parts):
        await part.close()


@pytest.mark.asyncio
async def test_after_a_snapshot_running_calls_are_checked_again(tmp_path: Path) -> None:
    """What was revoked meanwhile came with it, and with no command of its own."""
    node = master(tmp_path)
    [log] = [part for part in node._parts if isinstance(part, LogPart)]
    node._member.gate._hurried.clear()  # As once it runs.
    log.machine._announce({})
    assert not node._member.gate._hurried.is_set()
    log.machine._announce(None)
    assert node._member.gate._hurried.is_set()
    for part in reversed(node._parts):
        await part.close()

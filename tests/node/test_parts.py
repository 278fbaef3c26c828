"""A node starts its parts in order, runs all their loops, and closes them the other way round."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node.node import Node
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


def noted(tmp_path: Path) -> tuple[Node, list[Noted], list[str]]:
    """A node whose own parts do nothing, with two more that tell what is asked of them."""
    home, did = home_of_three(tmp_path), list[str]()
    settings = load_settings(home.config)
    node = Node(
        home, replace(settings, node=replace(settings.node, bind="127.0.0.1:0")), clock=loop_clock()
    )
    parts = [Noted("a", did), Noted("b", did)]
    node._parts = list(parts)
    return node, parts, did


@pytest.mark.asyncio
async def test_parts_run_until_the_node_is_told_to_stop(tmp_path: Path) -> None:
    node, _, did = noted(tmp_path)
    own = [node._common, node._member]
    running = asyncio.create_task(node.run(lambda _bound: did.append("ready")))

    async def runs() -> bool:
        return did[-1:] == ["run b"]

    await until(runs, seconds=10, what="both loops run")
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

"""A round of the collector leaves the loop to the log."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.unneeded import Candidates
from ipfs_cluster_node.cluster.content import collector as collecting
from ipfs_cluster_node.cluster.content.collector import REST_SECONDS_MAX, Collector
from ipfs_cluster_node.core.multiformats import RAW, Cid, cid_of
from tests.support.virtual_time import loop_clock, virtual_time

FILES = [cid_of(RAW, b"%d" % n) for n in range(10)]


@dataclass
class Slow:
    """A master whose processor takes some time for each name."""

    seconds_per_name: float
    worked: float = 0.0
    node_id: str = "here"

    def state(self) -> Any:
        return SimpleNamespace(contents=self)

    def listed(self) -> Iterator[Any]:
        for cid in FILES:
            self.worked += self.seconds_per_name
            yield SimpleNamespace(cid=str(cid), holders=())


async def rested(slow: Slow, directory: Path, unneeded: Candidates) -> float:
    clock = loop_clock()
    collector = Collector(
        consensus=cast("Any", slow),
        store=BlockStore(directory),
        repair=lambda _cid: None,
        clock=replace(clock, boottime=lambda: clock.boottime() + slow.worked),
    )
    began = asyncio.get_running_loop().time()
    assert await collector._discard_needed(unneeded)
    return asyncio.get_running_loop().time() - began


@virtual_time
async def test_a_round_rests_as_long_as_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "NAMES_AT_ONCE", 2)
    nobodys = cid_of(RAW, b"of no file")
    unneeded = Candidates([nobodys, FILES[3]])
    assert await rested(Slow(0.01), tmp_path, unneeded) == pytest.approx(10 * 0.01)
    assert unneeded.left == {nobodys}


@virtual_time
async def test_a_rest_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "NAMES_AT_ONCE", 5)
    unneeded = Candidates([Cid(RAW, bytes(32))])
    assert await rested(Slow(60.0), tmp_path, unneeded) == pytest.approx(2 * REST_SECONDS_MAX)

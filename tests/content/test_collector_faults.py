"""Nothing is deleted in a round that could not learn which blocks files have."""

import asyncio
import errno
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.content import blockstore, files
from ipfs_cluster_node.cluster.content import collector as collecting
from ipfs_cluster_node.config.files import open_regular
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core import held_blocks
from ipfs_cluster_node.core.held_blocks import SETTLED_SECONDS
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.settings import DELETION_PAUSED
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.unixfs import FileBuilder
from ipfs_cluster_node.node.health import NodeHealth
from tests.content.test_collector import FIRST, SHARING, Here, Master, settled
from tests.support.content import build, fill
from tests.support.virtual_time import virtual_time


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks."""
    monkeypatch.setattr(files, "FileBuilder", partial(FileBuilder, chunk_bytes=64, links_max=4))


class FailingOnce:
    """Opens files, but for one: it fails for want of descriptors."""

    def __init__(self, at: int) -> None:
        self.open, self.at, self.count = open_regular, at, 0

    def __call__(self, *args: Any) -> int:
        self.count += 1
        if self.count == self.at:
            raise OSError(errno.EMFILE, "Too many open files")
        return self.open(*args)


@virtual_time
async def test_a_read_that_fails_for_want_of_descriptors_deletes_no_block_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever read of a round it is; the next round deletes what no file has."""
    unneeded = build(SHARING)[1].keys() - build(FIRST)[1].keys()
    needed = {str(cid) for cid in build(FIRST)[1]}
    for at in range(1, 1000):
        here = Here(tmp_path / str(at))
        await here.add(FIRST)
        fill(here.store, build(SHARING)[1])
        await asyncio.sleep(1)
        with monkeypatch.context() as patched:
            opening = FailingOnce(at)
            patched.setattr(blockstore, "open_regular", opening)
            caplog.clear()
            await here.contents.collector._logged(here.contents.collector._sweep())
        assert here.blocks() >= needed
        if opening.count < at:
            break
        assert len(here.blocks()) == len(needed) + len(unneeded)
        assert "unneeded blocks not deleted" in caplog.text
        await settled()
        assert here.blocks() == needed
        await here.stop()
    assert at > 5
    await here.stop()


@virtual_time
async def test_a_removal_that_can_not_read_deletes_no_block_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {str(cid) for cid in build(SHARING)[1]}
    for at in range(1, 1000):
        here = Here(tmp_path / str(at))
        first = await here.add(FIRST)
        await here.add(SHARING)
        with monkeypatch.context() as patched:
            opening = FailingOnce(at)
            patched.setattr(blockstore, "open_regular", opening)
            await here.remove(first)
        assert here.blocks() >= needed
        await asyncio.sleep(SETTLED_SECONDS)
        await settled()
        assert here.blocks() == needed
        await here.stop()
        if opening.count < at:
            break
    assert at > 10


def paused(value: str) -> c.ProposeConfig:
    return c.ProposeConfig(values={DELETION_PAUSED: value})


@virtual_time
async def test_after_a_recovery_nothing_is_deleted_until_the_operator_allows_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An older log may not name files whose only copies are here."""
    here = Here(tmp_path)
    here.master.commit(paused("1"))
    removed = await here.add(SHARING)
    fill(here.store, build(FIRST)[1])
    stored = here.blocks()
    assert await here.remove(removed) is None
    await asyncio.sleep(collecting.SWEEP_SECONDS + SETTLED_SECONDS)
    assert here.blocks() == stored
    assert DELETION_PAUSED in [getattr(each, "key", "") for each in caplog.records]
    here.master.commit(paused("0"))
    await settled()
    assert here.blocks() == set()
    await here.stop()


@virtual_time
async def test_a_round_under_way_ends_once_deletion_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(tmp_path)
    await asyncio.sleep(1)
    fill(here.store, build(FIRST)[1])
    stored = here.blocks()
    delete = here.store.delete_unheld

    def then_paused(cids: Iterable[Cid]) -> tuple[int, int]:
        deleted = delete(cids)
        here.master.its_state.apply(c.LogCommand(at_ms=1, body=paused("1")))
        return deleted

    monkeypatch.setattr(collecting, "DELETED_AT_ONCE", 2)
    monkeypatch.setattr(here.store, "delete_unheld", then_paused)
    await here.contents.collector._sweep()
    assert len(here.blocks()) == len(stored) - 2
    await here.stop()


def test_the_health_says_that_deletion_is_paused() -> None:
    state = ClusterState()
    health = cast("Any", NodeHealth.__new__(NodeHealth))
    health._consensus = SimpleNamespace(known_state=lambda: state)
    health._store = SimpleNamespace(damaged_count=0, repaired_count=0)
    assert health._content_check().detail == "no block is known to be damaged"
    state.apply(c.LogCommand(at_ms=1, body=paused("1")))
    assert DELETION_PAUSED in health._content_check().detail
    state.apply(c.LogCommand(at_ms=1, body=paused("0")))
    assert health._content_check().detail == "no block is known to be damaged"


@virtual_time
async def test_a_leader_heard_before_a_round_makes_no_state_current_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still may find an old message waiting, and take it for a new one."""
    time = asyncio.get_running_loop().time
    here = Here(tmp_path)
    heard_at = time()
    monkeypatch.setattr(Master, "age_ms", property(lambda _: round(1000 * (time() - heard_at))))
    here.master.leads_for_sure = False
    await asyncio.sleep(1)
    fill(here.store, build(FIRST)[1])
    heard_at = time()
    await here.contents.collector._sweep()
    assert here.has(str(build(FIRST)[0]))
    round_again = asyncio.create_task(here.contents.collector._sweep())
    for _ in range(50):
        await asyncio.sleep(0.1)
        heard_at = time()
    await round_again
    assert here.blocks() == set()
    await here.stop()


@virtual_time
async def test_steady_removals_do_not_keep_every_block_from_being_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(tmp_path)
    collector = here.contents.collector
    await asyncio.sleep(1)
    fill(here.store, build(FIRST)[1])
    cid = str(build(SHARING)[0])

    async def another() -> None:
        await asyncio.sleep(60)
        collector._removed[cid] = None

    monkeypatch.setattr(collector, "_collect_removed", another)
    collector._removed[cid] = None
    collector._wake.set()
    await asyncio.sleep(collecting.SWEEP_SECONDS)
    assert here.blocks() == set()
    await here.stop()


def test_holds_that_linger_while_nothing_is_collected_are_bounded_in_number() -> None:
    """They are merged, and so held longer, never shorter."""
    held = held_blocks.HeldBlocks()
    cids = list(build(FIRST)[1])
    for number in range(3 * held_blocks.LINGERING_MAX):
        hold = held.begin()
        hold.add(cids[number % len(cids)])
        hold.lingers_from = 100.0 * number
        held.end(hold)
    assert len(held._lingering) == held_blocks.LINGERING_MAX
    held.begin_round(SETTLED_SECONDS)
    assert all(map(held.holds, cids))
    held.begin_round(100.0 * number + SETTLED_SECONDS)
    assert not any(map(held.holds, cids))


def test_a_hold_that_takes_in_an_earlier_one_lasts_no_shorter() -> None:
    held = held_blocks.HeldBlocks()
    cid = build(FIRST)[0]
    for ended in (50.0, 10.0):
        hold = held.begin()
        hold.add(cid)
        hold.lingers_from = ended
        held.end(hold)
    held.begin_round(20.0 + SETTLED_SECONDS)
    assert held.holds(cid)

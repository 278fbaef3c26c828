"""Blocks that no file has are deleted, and no block of a file, whatever happens meanwhile."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.content import files
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.files import is_complete
from ipfs_cluster_node.adapters.content.unneeded import Candidates
from ipfs_cluster_node.cluster.content import collector as collecting
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core import held_blocks
from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.held_blocks import SETTLED_SECONDS
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.multiformats import Cid, parse_cid
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.unixfs import FileBuilder
from tests.support.content import build, content, fill, stream
from tests.support.virtual_time import loop_clock, virtual_time

HERE, THERE = NodeId("here"), NodeId("there")
ME = Did("did:key:me")
FIRST = content(3000)
SHARING = FIRST[:2000] + b"other bytes" * 50
"""Begins with the same blocks as `FIRST`."""


class Master:
    """A master that applies what is proposed to it; it leads, or its state is `age_s` old."""

    node_id = HERE
    voters = frozenset({HERE})

    def __init__(self) -> None:
        self.its_state = ClusterState()
        self.its_state.cluster_id = "id"
        self.leads_for_sure, self.failed, self.age_s = True, None, 0.0
        self.replica: Any = self
        self.contents: Contents | None = None
        self.before_commit: Any = None

    @property
    def age_ms(self) -> int:
        return round(1000 * self.age_s)

    def check_leads(self) -> None:
        pass

    def state(self) -> ClusterState:
        return self.its_state

    known_state = state

    async def propose(self, body: Any, **_: Any) -> tuple[str, ...]:
        if self.before_commit is not None:
            await self.before_commit(body)
        return self.commit(body)

    def commit(self, body: Any) -> tuple[str, ...]:
        applied = self.its_state.apply(c.LogCommand(at_ms=1, body=body))
        assert self.contents is not None
        self.contents.collector.on_change(1, applied.touched)
        if isinstance(applied.outcome, Rejected):
            raise ClusterError(applied.outcome.reason, applied.outcome.message)
        return applied.outcome.ids

    def install(self, *cids: str) -> None:
        """A snapshot that has these files only."""
        self.its_state = ClusterState()
        self.its_state.cluster_id = "id"
        for cid in cids:
            self.its_state.apply(c.LogCommand(at_ms=1, body=named(cid)))
        assert self.contents is not None
        self.contents.collector.on_change(2, None)


class Here:
    """A master's store, its files, and what collects its blocks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.master = Master()
        self.start()

    def start(self) -> None:
        self.store = BlockStore(self.directory)
        self.contents = Contents(
            consensus=cast("Any", self.master),
            store=self.store,
            channel_to=lambda _node: None,
            clock=loop_clock(),
        )
        self.master.contents = self.contents
        self.repaired: list[Cid] = []
        self.contents.collector._repair = self.repaired.append
        self.running = asyncio.create_task(self.contents.collector.run())

    async def restart(self) -> None:
        await self.stop()
        self.start()

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def add(self, data: bytes) -> str:
        added = await self.contents.add_content(stream(data), name="", size_bytes=None, caller=ME)
        return added.cid

    async def remove(self, cid: str) -> int | None:
        removed = await self.contents.remove_content(cid, caller=ME, request_id="")
        return removed.freed_bytes

    async def put(self, data: bytes) -> str:
        """A copy from another master, which names it later."""
        root, blocks = build(data)
        await self.contents.put_blocks(sent(blocks))
        return str(root)

    def has(self, cid: str) -> bool:
        return is_complete(parse_cid(cid), self.store)

    def blocks(self) -> set[str]:
        return {str(cid) for d in self.store.directories() for cid in self.store.stored_in(d)}


def named(cid: str, *holders: NodeId) -> c.AddContent:
    return c.AddContent(cid=cid, size_bytes=1, holders=holders or (HERE,), name="")


async def sent(blocks: dict[Cid, bytes]) -> AsyncIterator[tuple[bytes, bytes]]:
    for cid, data in blocks.items():
        yield cid.binary, data


def killed_after(count: int, store: BlockStore) -> Callable[[Iterable[Cid]], tuple[int, int]]:
    """Deletes so many blocks, and then nothing more."""
    delete, left = store.delete_unheld, iter(range(count))

    def until_the_crash(cids: Iterable[Cid]) -> tuple[int, int]:
        for cid in cids:
            if next(left, None) is None:
                raise OSError("killed")
            delete([cid])
        return 0, 0

    return until_the_crash


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, and rounds of a few of them."""
    monkeypatch.setattr(files, "FileBuilder", partial(FileBuilder, chunk_bytes=64, links_max=4))
    monkeypatch.setattr(collecting, "CANDIDATES_MAX", 8)
    monkeypatch.setattr(collecting, "DELETED_AT_ONCE", 2)
    monkeypatch.setattr(collecting, "NAMES_AT_ONCE", 1)
    monkeypatch.setattr(collecting, "FILES_AT_ONCE", 1)


async def settled() -> None:
    await asyncio.sleep(2.5 * SETTLED_SECONDS)


@virtual_time
async def test_a_removed_file_frees_its_blocks_but_not_those_of_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CANDIDATES_MAX", 1000)
    here = Here(tmp_path)
    first, sharing = await here.add(FIRST), await here.add(SHARING)
    stored = here.store.size_bytes
    freed = await here.remove(first)
    assert freed is not None
    assert 0 < freed < len(FIRST)
    assert stored - here.store.size_bytes == freed
    assert here.has(sharing)
    assert not here.has(first)
    await here.remove(sharing)
    assert here.blocks() == set()
    assert here.store.size_bytes == 0
    await here.stop()


@virtual_time
async def test_the_index_of_a_round_s_blocks_is_not_made_in_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 65,536 blocks it takes 0.3 s."""
    threads: list[threading.Thread] = []

    def noted(blocks: Iterable[Cid]) -> Candidates:
        threads.append(threading.current_thread())
        return Candidates(blocks)

    monkeypatch.setattr(collecting, "Candidates", noted)
    here = Here(tmp_path)
    await settled()
    await here.remove(await here.add(FIRST))
    await settled()
    assert threads
    assert threading.current_thread() not in threads
    await here.stop()


@virtual_time
async def test_a_file_of_many_blocks_is_deleted_in_bounded_rounds(tmp_path: Path) -> None:
    here = Here(tmp_path)
    first, sharing = await here.add(FIRST), await here.add(SHARING)
    await here.remove(first)
    assert here.blocks()
    await settled()
    assert here.blocks() == {str(cid) for cid in build(SHARING)[1]}
    assert here.has(sharing)
    await here.stop()


@virtual_time
async def test_what_no_file_has_is_deleted_in_time(tmp_path: Path) -> None:
    """Uploads that broke off, reads that failed, removals while the node was away or down."""
    here = Here(tmp_path)
    kept = await here.add(FIRST)
    fill(here.store, build(SHARING)[1])
    (here.store.path_of(parse_cid(kept)).parent / "notes.txt").write_text("of somebody")
    await asyncio.sleep(collecting.SWEEP_SECONDS + SETTLED_SECONDS)
    assert here.has(kept)
    assert here.blocks() == {str(cid) for cid in build(FIRST)[1]}
    here.master.install()
    await settled()
    assert here.blocks() == set()
    assert [path.name for path in tmp_path.glob("??/*")] == ["notes.txt"]
    await here.stop()


@virtual_time
async def test_a_copy_is_held_until_the_log_can_no_longer_name_it(tmp_path: Path) -> None:
    here = Here(tmp_path)
    await asyncio.sleep(1)
    cid = await here.put(FIRST)
    await here.contents.collector._sweep()
    assert here.has(cid)
    await asyncio.sleep(SETTLED_SECONDS - 1)
    await here.contents.collector._sweep()
    assert here.has(cid)
    here.master.commit(named(cid))
    await settled()
    assert here.has(cid)
    await here.stop()


@virtual_time
async def test_a_copy_is_held_while_the_state_is_old(tmp_path: Path) -> None:
    """A node that is cut off may not have heard yet that it is a holder."""
    here = Here(tmp_path)
    await asyncio.sleep(100)
    cid = await here.put(FIRST)
    here.master.leads_for_sure = False
    for _ in range(100):
        here.master.age_s += 60
        await asyncio.sleep(60)
    assert here.has(cid)
    here.master.age_s = 0
    await asyncio.sleep(collecting.SWEEP_SECONDS + SETTLED_SECONDS)
    assert not here.has(cid)
    await here.stop()


@virtual_time
async def test_after_a_restart_nothing_is_deleted_until_earlier_copies_are_settled(
    tmp_path: Path,
) -> None:
    here = Here(tmp_path)
    cid, other = await here.put(FIRST), await here.add(SHARING)
    await here.restart()
    assert await here.remove(other) is None
    await asyncio.sleep(SETTLED_SECONDS - 1)
    assert here.has(cid)
    assert here.has(other)
    here.master.commit(named(cid))
    await settled()
    assert here.has(cid)
    assert not here.has(other)
    await here.stop()


@virtual_time
async def test_an_upload_is_not_touched_before_it_is_named(tmp_path: Path) -> None:
    """However long it takes, and though its bytes were a file that is removed meanwhile."""
    here = Here(tmp_path)
    first = await here.add(FIRST)

    async def meanwhile(body: Any) -> None:
        here.master.before_commit = None
        here.master.commit(c.RemoveContent(cid=first))
        await asyncio.sleep(held_blocks.NAMED_SECONDS_MAX / 2)
        assert here.has(first)

    here.master.before_commit = meanwhile
    assert await here.add(FIRST) == first
    await settled()
    assert here.has(first)
    await here.stop()


@virtual_time
async def test_an_upload_that_is_named_while_blocks_are_collected_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names were read before; its hold ends before the blocks are deleted."""
    here = Here(tmp_path)
    await asyncio.sleep(1)
    fill(here.store, build(FIRST)[1])
    collector = here.contents.collector
    discard = collector._discard_needed
    added: list[str] = []

    async def then_add(candidates: Candidates) -> bool:
        known = await discard(candidates)
        if not added:
            added.append(await here.add(FIRST))
        return known

    monkeypatch.setattr(collector, "_discard_needed", then_add)
    monkeypatch.setattr(collecting, "CANDIDATES_MAX", 1000)
    await collector._sweep()
    assert here.has(added[0])
    await here.stop()


@virtual_time
async def test_an_upload_of_unknown_outcome_is_held(tmp_path: Path) -> None:
    here = Here(tmp_path)

    async def lost(_body: Any) -> None:
        raise ClusterError(Reason.UNKNOWN_OUTCOME, "the leader was lost")

    here.master.before_commit = lost
    with pytest.raises(ClusterError):
        await here.add(FIRST)
    cid = str(build(FIRST)[0])
    here.master.install()
    await asyncio.sleep(SETTLED_SECONDS - 1)
    await here.contents.collector._sweep()
    assert here.has(cid)
    here.master.commit(named(cid))
    await settled()
    assert here.has(cid)
    await here.stop()


@virtual_time
async def test_an_upload_that_the_log_does_not_name_in_time_fails(tmp_path: Path) -> None:
    here = Here(tmp_path)

    async def stuck(_body: Any) -> None:
        await asyncio.sleep(10 * held_blocks.NAMED_SECONDS_MAX)

    here.master.before_commit = stuck
    with pytest.raises(ClusterError) as failed:
        await here.add(FIRST)
    assert failed.value.reason is Reason.UNKNOWN_OUTCOME
    await here.stop()


@virtual_time
async def test_no_block_is_deleted_while_a_node_above_it_is_lost(tmp_path: Path) -> None:
    """Which blocks a file has below it is not known: they may be the only ones there are."""
    here = Here(tmp_path)
    cid, other = await here.add(FIRST), await here.add(SHARING)
    root, blocks = build(FIRST)
    here.store.path_of(root).write_bytes(b"damaged")
    assert await here.remove(other) is None
    await settled()
    assert here.blocks() >= {str(block) for block in blocks}
    assert here.repaired
    assert set(here.repaired) == {root}
    fill(here.store, {root: blocks[root]})
    await settled()
    assert here.has(cid)
    assert here.blocks() == {str(block) for block in blocks}
    await here.stop()


@virtual_time
async def test_a_kept_copy_of_a_file_that_others_hold_does_not_stop_it(tmp_path: Path) -> None:
    here = Here(tmp_path)
    root, blocks = build(FIRST)
    del blocks[root]
    fill(here.store, blocks)
    here.master.commit(named(str(root), THERE))
    other = await here.add(SHARING)
    await here.remove(other)
    await asyncio.sleep(collecting.SWEEP_SECONDS + SETTLED_SECONDS)
    assert here.blocks() == set()
    await here.stop()


@virtual_time
async def test_files_that_share_blocks_are_added_and_removed_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "CANDIDATES_MAX", 1000)
    here = Here(tmp_path)
    contents = [FIRST, SHARING, FIRST[:1000], SHARING[1024:]]

    async def again(data: bytes) -> None:
        for _ in range(8):
            cid = await here.add(data)
            assert here.has(cid)
            await asyncio.sleep(0)
            assert here.has(cid)
            await here.remove(cid)
        await here.add(data)

    await asyncio.gather(*map(again, contents))
    for data in contents:
        assert here.has(str(build(data)[0]))
    assert here.store.size_bytes == BlockStore(tmp_path).size_bytes
    await here.stop()


@virtual_time
async def test_a_crash_between_any_two_deletions_loses_no_block_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is deleted before a crash is just the first of what is deleted without one."""
    monkeypatch.setattr(collecting, "CANDIDATES_MAX", 1000)
    unneeded = len(build(FIRST)[1].keys() - build(SHARING)[1].keys())
    assert unneeded > 4
    for deleted in range(unneeded + 1):
        here = Here(tmp_path / str(deleted))
        first, sharing = await here.add(FIRST), await here.add(SHARING)
        monkeypatch.setattr(here.store, "delete_unheld", killed_after(deleted, here.store))
        await here.remove(first)
        await here.restart()
        assert here.has(sharing)
        assert len(here.blocks() - {str(cid) for cid in build(SHARING)[1]}) == unneeded - deleted
        await settled()
        assert here.has(sharing)
        assert here.blocks() == {str(cid) for cid in build(SHARING)[1]}
        await here.stop()


@virtual_time
async def test_a_repeat_of_a_removal_waits_for_nothing(tmp_path: Path) -> None:
    here = Here(tmp_path)
    cid = await here.add(FIRST)
    here.master.commit(c.RemoveContent(cid=cid))

    async def repeated(_body: Any, **_: Any) -> tuple[str, ...]:
        return ("3000", HERE)

    await asyncio.sleep(1)
    cast("Any", here.master).propose = repeated
    before = asyncio.get_running_loop().time()
    assert await here.remove(cid) is None
    assert asyncio.get_running_loop().time() == before
    await here.stop()


def test_a_hold_of_too_many_blocks_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_blocks, "BLOCKS_HELD_MAX", 3)
    held = held_blocks.HeldBlocks()
    hold = held.begin()
    cids = list(build(FIRST)[1])
    for cid in cids[:3]:
        hold.add(cid)
    assert [held.holds(cid) for cid in cids[:4]] == [True, True, True, False]
    hold.add(cids[3])
    assert all(map(held.holds, cids))
    hold.lingers_from = 5.0
    held.end(hold)
    assert all(map(held.holds, cids))
    held.begin_round(5.0 + SETTLED_SECONDS)
    assert not any(map(held.holds, cids))


def test_holds_that_end_together_are_merged() -> None:
    held = held_blocks.HeldBlocks()
    cids = list(build(FIRST)[1])
    for number, cid in enumerate(cids):
        hold = held.begin()
        hold.add(cid)
        hold.lingers_from = number / 10
        held.end(hold)
    assert len(held._lingering) == 1
    held.begin_round(SETTLED_SECONDS)
    assert all(map(held.holds, cids))

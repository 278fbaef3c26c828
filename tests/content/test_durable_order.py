"""Blocks and their names are synced before they are acknowledged."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.content.blockstore import BATCH_BLOCKS_MAX, BlockStore
from ipfs_cluster_node.adapters.content.fetch import fetch
from ipfs_cluster_node.adapters.content.files import add, is_complete
from ipfs_cluster_node.cluster.content.contents import Contents
from ipfs_cluster_node.core.contents import ContentTable
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import RAW, Cid, cid_of
from ipfs_cluster_node.core.unixfs import Block
from tests.support.content import MemorySource, build, content, stream
from tests.support.virtual_time import loop_clock


class Disk:
    """What would be left of a directory after a power cut now, given the syncs so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: set[int] = set()
        """Inodes whose bytes, or names, are durable."""
        self._unsynced_names: dict[Path, list[Path]] = {}
        fsync, rename, mkdir = os.fsync, os.rename, os.mkdir

        def noted_fsync(descriptor: int) -> None:
            fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._synced.add(os.fstat(descriptor).st_ino)
            self._unsynced_names.pop(path, None)

        def noted_rename(source: Any, target: Any) -> None:
            assert Path(source).stat().st_ino in self._synced, f"{source} is renamed, not synced"
            rename(source, target)
            self._unsynced_names.setdefault(Path(target).parent, []).append(Path(target))

        def noted_mkdir(path: Any, mode: int = 0o777) -> None:
            mkdir(path, mode)
            self._unsynced_names.setdefault(Path(path).parent, []).append(Path(path))

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        monkeypatch.setattr(os, "mkdir", noted_mkdir)

    def lost_names(self) -> list[Path]:
        return [path for paths in self._unsynced_names.values() for path in paths]


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "content")


@pytest.fixture
def disk(store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def blocks_of(store: BlockStore, cids: list[Cid]) -> int:
    return sum(store.has(cid) for cid in cids)


def test_a_flushed_batch_is_durable_bytes_and_names(store: BlockStore, disk: Disk) -> None:
    pieces = [str(n).encode() for n in range(2 * BATCH_BLOCKS_MAX + 3)]
    with store.batch() as batch:
        for piece in pieces:
            batch.put(Block(cid_of(RAW, piece), piece))
        batch.flush()
        assert disk.lost_names() == []
    assert blocks_of(store, [cid_of(RAW, piece) for piece in pieces]) == len(pieces)


def test_a_block_that_another_batch_has_just_renamed_is_synced_too(
    store: BlockStore, disk: Disk
) -> None:
    block = Block(cid_of(RAW, b"x"), b"x")
    with store.batch() as batch:
        batch.put(block)
        batch.flush()
    path = store.path_of(block.cid)
    disk._unsynced_names = {path.parent: [path], path.parent.parent: [path.parent]}
    with store.batch() as batch:
        batch.put(block)
        batch.flush()
    assert disk.lost_names() == []


@pytest.mark.asyncio
async def test_an_added_file_is_durable_when_that_is_said(store: BlockStore, disk: Disk) -> None:
    report = await add(stream(content(3 * 2**20)), store)
    assert is_complete(report.cid, store)
    assert disk.lost_names() == []


@pytest.mark.asyncio
async def test_a_fetched_file_is_durable_when_that_is_said(store: BlockStore, disk: Disk) -> None:
    root, blocks = build(content(5000))
    await fetch(root, store=store, sources=[MemorySource("one", blocks)])
    assert blocks_of(store, list(blocks)) == len(blocks)
    assert disk.lost_names() == []


@pytest.mark.asyncio
async def test_put_blocks_are_durable_before_their_sender_is_answered(
    store: BlockStore, disk: Disk
) -> None:
    _, blocks = build(content(5000))
    contents = Contents(
        consensus=cast("Any", None), store=store, channel_to=lambda _node: None, clock=loop_clock()
    )

    async def sent() -> AsyncIterator[tuple[bytes, bytes]]:
        for cid, data in blocks.items():
            yield cid.binary, data

    assert await contents.put_blocks(sent()) == len(blocks)
    assert blocks_of(store, list(blocks)) == len(blocks)
    assert disk.lost_names() == []


@pytest.mark.asyncio
async def test_a_file_is_durable_before_the_log_names_this_node_as_its_holder(
    store: BlockStore, disk: Disk
) -> None:
    committed: list[str] = []
    contents_of = ContentTable((), lambda _node_id: False)

    class Consensus:
        node_id = "this"
        voters = frozenset({"this"})
        replica = object()

        def check_leads(self) -> None:
            pass

        def leader_state(self) -> Any:
            return self.state()

        def state(self) -> Any:
            members = SimpleNamespace(node=lambda _id: None, masters=list)
            return SimpleNamespace(contents=contents_of, members=members)

        async def propose(self, body: Any, **_: Any) -> None:
            assert disk.lost_names() == []
            assert list(store.tmp.iterdir()) == []
            committed.append(body.cid)
            contents_of[body.cid] = body

    contents = Contents(
        consensus=cast("Any", Consensus()),
        store=store,
        channel_to=lambda _node: None,
        clock=loop_clock(),
    )
    await contents.add_content(
        stream(content(3 * 2**20)), name="file", size_bytes=None, caller=Did("did")
    )
    await asyncio.sleep(0)
    assert len(committed) == 1

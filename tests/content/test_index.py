"""Which blocks a file has."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.files import add, walk
from ipfs_cluster_node.adapters.content.index import FileIndex
from ipfs_cluster_node.core.multiformats import RAW, Cid

LEAF = 256 * 1024


async def added(store: BlockStore, marks: range) -> tuple[Cid, list[Cid]]:
    async def chunks() -> AsyncIterator[bytes]:
        for mark in marks:
            yield mark.to_bytes(4) * (LEAF // 4)

    report = await add(chunks(), store)
    return report.cid, [cid async for cid in walk(report.cid, store)]


@pytest.mark.asyncio
async def test_a_file_has_its_own_blocks_and_no_others(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    root, blocks = await added(store, range(200))  # Two levels of nodes.
    other, others = await added(store, range(1000, 1003))
    index = FileIndex(store)
    assert len(blocks) > 200
    assert index.holds(root, blocks)
    assert all(index.holds(root, [block]) for block in blocks)
    assert not any(index.holds(root, [block]) for block in others)
    assert not index.holds(root, [*blocks[:3], others[-1]])
    assert index.holds(other, others)
    assert not index.holds(other, [root])


@pytest.mark.asyncio
async def test_a_file_of_one_block_is_that_block(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    root, blocks = await added(store, range(1))
    other, _ = await added(store, range(5, 6))
    index = FileIndex(store)
    assert root.codec == RAW
    assert blocks == [root]
    assert index.holds(root, [root])
    assert not index.holds(root, [other])


@pytest.mark.asyncio
async def test_a_file_whose_nodes_are_not_here_has_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    root, blocks = await added(store, range(200))
    inner = next(
        block for block in blocks if block not in (root, *blocks[:1]) and block.codec != RAW
    )
    store.delete_unheld([inner])
    assert not FileIndex(store).holds(root, [blocks[-1]])


@pytest.mark.asyncio
async def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    files = [await added(store, range(n * 100, n * 100 + 50)) for n in range(4)]
    index = FileIndex(store, size_bytes_max=2 * 51 * 32)
    for _ in range(2):
        for root, blocks in files:
            assert index.holds(root, blocks)
            assert sum(map(len, index._files.values())) <= 2 * 51 * 32
            assert root in index._files
    small = FileIndex(store, size_bytes_max=1)
    assert small.holds(*files[0])
    assert len(small._files) == 1

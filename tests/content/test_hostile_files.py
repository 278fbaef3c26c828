"""DAGs that are far larger to walk than to send, and other hostile files."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.content.blockstore import Batch, BlockStore
from ipfs_cluster_node.adapters.content.fetch import fetch
from ipfs_cluster_node.adapters.content.files import is_complete, walk
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, Cid, cid_of
from ipfs_cluster_node.core.unixfs import BLOCK_BYTES_MAX, Block, decode_node
from tests.support.content import MemorySource, build, chain, content, fill, node

DATA = b"four"
LEAF = cid_of(RAW, DATA)


def open_files(directory: Path) -> int:
    """How many files below it this process has open; those that others leave open do not count."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += descriptor.readlink().is_relative_to(directory)
    return found


def bomb(levels: int, fan: int) -> tuple[Cid, dict[Cid, bytes]]:
    """A few blocks that stand for fan ** levels leaves."""
    blocks = {LEAF: DATA}
    child = (LEAF, 4)
    for _ in range(levels):
        cid, data = node([child] * fan)
        blocks[cid] = data
        child = (cid, child[1] * fan)
    return child[0], blocks


@pytest.mark.asyncio
@pytest.mark.timeout(20)
async def test_a_file_that_repeats_itself_costs_no_more_than_its_blocks(tmp_path: Path) -> None:
    root, blocks = bomb(6, 300)
    store = BlockStore(tmp_path)
    source = MemorySource("a", blocks)
    assert await fetch(root, store=store, sources=[source]) == sum(map(len, blocks.values()))
    assert sum(map(len, source.asked)) == len(blocks)
    assert is_complete(root, store)
    assert [cid async for cid in walk(root, store)] == [*reversed(blocks)]


@pytest.mark.asyncio
async def test_a_part_said_to_have_two_sizes_is_refused(tmp_path: Path) -> None:
    root, data = node([(LEAF, 4), (LEAF, 1 << 40)])
    with pytest.raises(ClusterError) as refused:
        await fetch(
            root,
            store=BlockStore(tmp_path),
            sources=[MemorySource("a", {root: data, LEAF: DATA})],
        )
    assert refused.value.reason is Reason.BLOCK_MISMATCH


@pytest.mark.asyncio
@pytest.mark.parametrize("said", [3, 5, 1 << 40])
async def test_a_part_of_another_size_than_said_is_not_fetched(tmp_path: Path, said: int) -> None:
    root, data = node([(LEAF, said)])
    sources = [MemorySource(name, {root: data, LEAF: DATA}) for name in "ab"]
    with pytest.raises(ClusterError) as refused:
        await fetch(root, store=BlockStore(tmp_path), sources=sources)
    assert refused.value.reason is Reason.BLOCK_MISMATCH
    # The file is at fault, not the node that sent it.
    assert sources[1].asked == []


def test_a_part_without_bytes_is_malformed() -> None:
    with pytest.raises(ClusterError) as refused:
        decode_node(*node([(LEAF, 4), (LEAF, 0)]))
    assert refused.value.reason is Reason.BLOCK_MISMATCH


@pytest.mark.asyncio
async def test_a_raw_block_over_2_mib_is_refused(tmp_path: Path) -> None:
    data = bytes(BLOCK_BYTES_MAX + 1)
    cid = cid_of(RAW, data)
    with pytest.raises(ClusterError) as refused:
        await fetch(cid, store=BlockStore(tmp_path), sources=[MemorySource("a", {cid: data})])
    assert refused.value.reason is Reason.BLOCK_MISMATCH
    decode_node(cid_of(RAW, data[1:]), data[1:])


@pytest.mark.asyncio
async def test_a_file_of_too_many_levels_is_named_malformed(tmp_path: Path) -> None:
    blocks = dict(chain((LEAF, 4), 33))
    *_, allowed, too_deep = blocks
    source = MemorySource("a", {LEAF: DATA, **blocks})
    await fetch(allowed, store=BlockStore(tmp_path / "a"), sources=[source])
    with pytest.raises(ClusterError) as refused:
        await fetch(too_deep, store=BlockStore(tmp_path / "b"), sources=[source])
    assert refused.value.reason is Reason.BLOCK_MISMATCH


@pytest.mark.asyncio
async def test_a_dead_source_costs_one_try(tmp_path: Path) -> None:
    root, blocks = build(content(64 * 1000), links_max=174)
    dead = MemorySource("dead", {}, fails_with=ClusterError(Reason.UNREACHABLE, "no answer"))
    sources = [dead, MemorySource("alive", blocks)]
    await fetch(root, store=BlockStore(tmp_path), sources=sources)
    assert dead.asked == [[root]]


@pytest.mark.asyncio
async def test_a_damaged_node_here_is_fetched_anew(tmp_path: Path) -> None:
    root, blocks = build(content(1000))
    store = BlockStore(tmp_path)
    fill(store, blocks)
    (tmp_path / str(root)[-3:-1] / str(root)).write_bytes(b"damaged")
    source = MemorySource("a", blocks)
    await fetch(root, store=store, sources=[source])
    assert source.asked == [[root]]
    assert is_complete(root, store)


def put_all(batch: Batch, blocks: list[Block]) -> None:
    for block in blocks:
        batch.put(block)


def test_a_batch_dropped_while_it_is_filled_leaves_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    blocks = [
        Block(cid_of(RAW, data), data) for data in (bytes([n]) * 1_000_000 for n in range(60))
    ]
    with ThreadPoolExecutor(1) as pool:
        with store.batch() as batch:
            batch.put(blocks[0])
            filling = pool.submit(put_all, batch, blocks)
        filling.result()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert open_files(tmp_path) == 0


def test_batches_keep_no_files_open(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    with store.batch() as batch:
        for number in range(60):
            data = bytes([number])
            batch.put(Block(cid_of(RAW, data), data))
        assert open_files(tmp_path) == 0


def test_bytes_stored_by_two_batches_are_counted_once(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    with store.batch() as first, store.batch() as second:
        first.put(Block(LEAF, DATA))
        second.put(Block(LEAF, DATA))
        first.flush()
        second.flush()
    assert store.size_bytes == 4
    (tmp_path / str(LEAF)[-3:-1] / str(LEAF)).write_bytes(b"ruin")
    assert store.get(LEAF) is None
    assert store.size_bytes == 0


def test_a_damaged_block_read_by_several_threads_is_absent_to_all(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(30):
            fill(store, {LEAF: DATA})
            (tmp_path / str(LEAF)[-3:-1] / str(LEAF)).write_bytes(b"ruin" * 50_000)
            assert [*pool.map(store.get, [LEAF] * 4)] == [None] * 4


def test_a_block_that_was_there_already_is_durable_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch may have renamed it and not synced its directory: a power cut would lose it."""
    store = BlockStore(tmp_path)
    fill(store, {LEAF: DATA})
    synced: list[Path] = []
    monkeypatch.setattr("ipfs_cluster_node.adapters.content.blockstore._sync", synced.append)
    with store.batch() as batch:
        batch.put(Block(LEAF, DATA))
        batch.flush()
    assert store.path_of(LEAF).parent in synced

"""Files from other nodes, some of which send wrong blocks, lack blocks or break off."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.fetch import REQUEST_BLOCKS_MAX, fetch
from ipfs_cluster_node.adapters.content.files import is_complete, read
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import DAG_PB, RAW, Cid, cid_of
from ipfs_cluster_node.core.unixfs import CHUNK_BYTES
from tests.support.content import MemorySource, build, chain, content, fill, holding, node

DATA = content(10_000)
ROOT, BLOCKS = build(DATA)
LEAVES = [cid for cid in BLOCKS if cid.codec == RAW]
Lie = Callable[[Cid, bytes], tuple[Cid, bytes]]


async def read_all(root: Cid, store: BlockStore) -> bytes:
    return b"".join([piece async for piece in read(root, store)])


@pytest.mark.asyncio
async def test_a_fetched_file_is_there_after_a_restart(tmp_path: Path) -> None:
    source = MemorySource("a", BLOCKS)
    await fetch(ROOT, store=BlockStore(tmp_path), sources=[source])
    store = BlockStore(tmp_path)
    assert is_complete(ROOT, store)
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_blocks_are_asked_for_once_and_at_most_64_at_a_time(tmp_path: Path) -> None:
    root, blocks = build(DATA, chunk_bytes=32, links_max=174)
    source = MemorySource("a", blocks)
    await fetch(root, store=BlockStore(tmp_path), sources=[source])
    asked = [cid for cids in source.asked for cid in cids]
    assert len(asked) == len(set(asked)) == len(blocks)
    assert max(map(len, source.asked)) == REQUEST_BLOCKS_MAX == 64


@pytest.mark.asyncio
async def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    fill(store, BLOCKS)
    missing = {LEAVES[3], LEAVES[40], next(cid for cid in BLOCKS if cid.codec == DAG_PB)}
    for cid in missing:
        store.delete_unheld([cid])
    source = MemorySource("a", BLOCKS)
    fetched = await fetch(ROOT, store=store, sources=[source])
    assert {cid for cids in source.asked for cid in cids} == missing
    assert fetched == sum(len(BLOCKS[cid]) for cid in missing)
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_nobody_is_asked_for_a_file_that_is_here(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    fill(store, BLOCKS)
    source = MemorySource("a", BLOCKS)
    assert await fetch(ROOT, store=store, sources=[source]) == 0
    assert source.asked == []


@pytest.mark.asyncio
async def test_progress_ends_at_what_was_fetched(tmp_path: Path) -> None:
    seen: list[int] = []
    fetched = await fetch(
        ROOT,
        store=BlockStore(tmp_path),
        sources=[MemorySource("a", BLOCKS)],
        on_progress=seen.append,
    )
    assert seen == sorted(set(seen))
    assert seen[-1] == fetched == sum(map(len, BLOCKS.values()))


@pytest.mark.asyncio
async def test_nodes_that_hold_a_part_each_make_a_whole(tmp_path: Path) -> None:
    items = list(BLOCKS.items())
    sources = [MemorySource(str(n), dict(items[n::3])) for n in range(3)]
    store = BlockStore(tmp_path)
    await fetch(ROOT, store=store, sources=sources)
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_a_node_that_breaks_off_is_followed_by_the_next(tmp_path: Path) -> None:
    broken = MemorySource(
        "broken",
        dict(list(BLOCKS.items())[::2]),
        fails_with=ClusterError(Reason.UNREACHABLE, "it went away"),
    )
    store = BlockStore(tmp_path)
    await fetch(ROOT, store=store, sources=[broken, MemorySource("whole", BLOCKS)])
    assert await read_all(ROOT, store) == DATA


def wrong_bytes(cid: Cid, data: bytes) -> tuple[Cid, bytes]:
    return cid, data[:-1] + bytes([data[-1] ^ 1])


def unasked(_cid: Cid, _data: bytes) -> tuple[Cid, bytes]:
    return cid_of(RAW, b"advertisement"), b"advertisement"


def another_codec(cid: Cid, data: bytes) -> tuple[Cid, bytes]:
    return Cid(RAW if cid.codec == DAG_PB else DAG_PB, cid.digest), data


def nothing(cid: Cid, _data: bytes) -> tuple[Cid, bytes]:
    return cid, b""


LIES: list[Lie] = [wrong_bytes, unasked, another_codec, nothing]


@pytest.mark.asyncio
@pytest.mark.parametrize("lie", LIES)
async def test_a_node_that_lies_is_not_asked_again(tmp_path: Path, lie: Lie) -> None:
    liar = MemorySource("liar", BLOCKS, twist=lie)
    store = BlockStore(tmp_path)
    await fetch(ROOT, store=store, sources=[liar, MemorySource("honest", BLOCKS)])
    assert liar.asked == [[ROOT]]
    assert await read_all(ROOT, store) == DATA
    assert not store.has(cid_of(RAW, b"advertisement"))


@pytest.mark.asyncio
@pytest.mark.parametrize("lie", LIES)
async def test_nothing_of_a_lie_is_stored(tmp_path: Path, lie: Lie) -> None:
    store = BlockStore(tmp_path)
    with pytest.raises(ClusterError) as refused:
        await fetch(ROOT, store=store, sources=[MemorySource("liar", BLOCKS, twist=lie)])
    assert refused.value.reason is Reason.CONTENT_NOT_FOUND
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Repeating:
    """Sends the first block it is asked for again and again."""

    name = "repeating"

    def __init__(self) -> None:
        self.sent = 0

    async def blocks(self, cids: Sequence[Cid]) -> AsyncIterator[tuple[Cid, bytes]]:
        while self.sent < 1000:
            self.sent += 1
            yield cids[0], BLOCKS[cids[0]]


@pytest.mark.asyncio
async def test_a_node_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    source = Repeating()
    store = BlockStore(tmp_path)
    await fetch(ROOT, store=store, sources=[source, MemorySource("whole", BLOCKS)])
    assert source.sent <= 4
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_those_who_were_asked_in_vain_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    most = {cid: data for cid, data in BLOCKS.items() if cid != LEAVES[-1]}
    sources = [MemorySource("one", most), MemorySource("two", {})]
    with pytest.raises(ClusterError) as refused:
        await fetch(ROOT, store=store, sources=sources)
    assert refused.value.reason is Reason.CONTENT_NOT_FOUND
    assert f"{ROOT} is held by none of the nodes asked (one, two)" in refused.value.message
    assert refused.value.metadata == {"asked": "one, two"}
    # What was flushed on the way is not fetched again.
    kept = holding(store, BLOCKS)
    source = MemorySource("whole", BLOCKS)
    await fetch(ROOT, store=store, sources=[source])
    assert kept.isdisjoint(cid for cids in source.asked for cid in cids)
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_who_could_not_be_asked_may_have_it(tmp_path: Path) -> None:
    """The file is not declared lost for a node that is away for a moment."""
    away = MemorySource("away", {}, fails_with=ClusterError(Reason.UNREACHABLE, "it is away"))
    store = BlockStore(tmp_path)
    with pytest.raises(ClusterError) as refused:
        await fetch(ROOT, store=store, sources=[away, MemorySource("two", {})])
    assert refused.value.reason is Reason.UNREACHABLE
    assert "away: it is away" in refused.value.message


@pytest.mark.asyncio
async def test_with_nobody_to_ask_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as refused:
        await fetch(ROOT, store=BlockStore(tmp_path), sources=[])
    assert refused.value.reason is Reason.CONTENT_NOT_FOUND
    assert f"no node is known to hold {ROOT}" in refused.value.message


@pytest.mark.asyncio
async def test_a_damaged_node_block_here_is_fetched_anew_by_the_next_try(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    fill(store, BLOCKS)
    text = str(ROOT)
    (tmp_path / text[-3:-1] / text).write_bytes(b"damaged")
    source = MemorySource("a", BLOCKS)
    assert store.get(ROOT) is None
    await fetch(ROOT, store=store, sources=[source])
    assert source.asked == [[ROOT]]
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_every_damaged_block_is_fetched_anew_if_they_are_checked(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    await fetch(ROOT, store=store, sources=[MemorySource("whole", BLOCKS)])
    for path in tmp_path.glob("??/b*"):
        path.write_bytes(b"damaged")
    await fetch(ROOT, store=store, sources=[MemorySource("whole", BLOCKS)], check=True)
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_two_fetches_at_once_of_one_file(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    sources = [MemorySource("a", BLOCKS)]
    await asyncio.gather(*(fetch(ROOT, store=store, sources=sources) for _ in range(2)))
    assert await read_all(ROOT, store) == DATA


@pytest.mark.asyncio
async def test_a_malformed_node_is_refused_though_its_hash_is_right(tmp_path: Path) -> None:
    root, data = node([(LEAVES[0], 64)], file_size=1 << 50)
    source = MemorySource("a", {**BLOCKS, root: data})
    with pytest.raises(ClusterError) as refused:
        await fetch(root, store=BlockStore(tmp_path), sources=[source])
    assert refused.value.reason is Reason.BLOCK_MISMATCH
    assert source.asked == [[root]]


@pytest.mark.asyncio
async def test_too_many_levels_are_not_followed(tmp_path: Path) -> None:
    leaf = cid_of(RAW, b"four")
    blocks = dict(chain((leaf, 4), 60))
    source = MemorySource("a", {leaf: b"four", **blocks})
    with pytest.raises(ClusterError):
        await fetch(list(blocks)[-1], store=BlockStore(tmp_path), sources=[source])
    assert len(source.asked) < 40
    assert [leaf] not in source.asked


@pytest.mark.asyncio
async def test_memory_stays_flat_while_a_file_comes(tmp_path: Path) -> None:
    class Counting:
        """Makes each leaf when it is asked for, so that it holds none of them."""

        name = "counting"

        def __init__(self) -> None:
            self.made = {self.leaf(n): n for n in range(160)}
            self.nodes: dict[Cid, bytes] = {}

        @staticmethod
        def data(number: int) -> bytes:
            return number.to_bytes(4, "big") * (CHUNK_BYTES // 4)

        def leaf(self, number: int) -> Cid:
            return cid_of(RAW, self.data(number))

        async def blocks(self, cids: Sequence[Cid]) -> AsyncIterator[tuple[Cid, bytes]]:
            for cid in cids:
                yield cid, self.nodes[cid] if cid in self.nodes else self.data(self.made[cid])

    source = Counting()
    root, data = node([(cid, CHUNK_BYTES) for cid in source.made])
    source.nodes[root] = data
    tracemalloc.start()
    try:
        fetched = await fetch(root, store=BlockStore(tmp_path), sources=[source])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fetched == 160 * CHUNK_BYTES + len(data)
    assert peak < 12 << 20

"""Files in and out of a store."""

import asyncio
import base64
import json
import os
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.files import (
    PIECE_BYTES_MAX,
    add,
    is_complete,
    materialize,
    read,
    walk,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import RAW, Cid, cid_of, parse_cid
from ipfs_cluster_node.core.unixfs import decode_node
from tests.support.content import build, chain, content, fill, node, stream

VECTORS = Path(__file__).parent / "vectors"
LEAF = b"four"


async def read_all(
    root: Cid, store: BlockStore, offset: int = 0, length: int | None = None
) -> bytes:
    pieces = [piece async for piece in read(root, store, offset=offset, length=length)]
    assert all(0 < len(piece) <= PIECE_BYTES_MAX for piece in pieces)
    return b"".join(pieces)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 1_000_000])
async def test_what_was_added_is_read_back_after_a_restart(tmp_path: Path, size: int) -> None:
    data = content(size)
    added = await add(stream(data), BlockStore(tmp_path / "store"))
    assert added.size_bytes == size
    store = BlockStore(tmp_path / "store")
    assert is_complete(added.cid, store)
    assert await read_all(added.cid, store) == data


@pytest.mark.asyncio
async def test_an_added_file_has_the_cid_that_kubo_gives_it(tmp_path: Path) -> None:
    vectors = json.loads((VECTORS / "kubo_cids.json").read_text())["vectors"]
    wanted = {v["size_bytes"]: v["cid"] for v in vectors if v["chunk_bytes"] == 262_144}
    for size in (0, 1, 262_145, 524_289):
        added = await add(stream(content(size), 10_007), BlockStore(tmp_path))
        assert str(added.cid) == wanted[size]


@pytest.mark.asyncio
async def test_two_adds_at_once_of_files_that_share_blocks(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    files = [content(size) for size in (1_000_000, 1_300_000, 1_300_000)]
    reports = await asyncio.gather(*(add(stream(data), store) for data in files))
    for data, report in zip(files, reports, strict=True):
        assert await read_all(report.cid, store) == data


@pytest.mark.asyncio
async def test_an_add_that_breaks_off_leaves_only_whole_blocks(tmp_path: Path) -> None:
    async def breaks_off() -> AsyncIterator[bytes]:
        async for piece in stream(content(70 * 262_144)):
            yield piece
        raise ConnectionResetError

    store = BlockStore(tmp_path)
    with pytest.raises(ConnectionResetError):
        await add(breaks_off(), store)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        cid = parse_cid(path.name)
        assert cid.matches(path.read_bytes())


async def out(root: Cid, store: BlockStore, path: Path) -> int:
    """Write a file to `out` in a directory."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return await materialize(root, store, "out", directory=directory)
    finally:
        os.close(directory)


@pytest.mark.asyncio
async def test_memory_stays_flat_while_a_file_goes_in_and_out(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(48):
            yield number.to_bytes(4, "big") * (1 << 18)

    store = BlockStore(tmp_path / "store")
    tracemalloc.start()
    try:
        added = await add(pieces(), store)
        assert await out(added.cid, store, tmp_path) == 48 << 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


@pytest.mark.asyncio
async def test_the_loop_stays_live_during_an_add(tmp_path: Path) -> None:
    adding = asyncio.create_task(add(stream(content(4_000_000), 1 << 20), BlockStore(tmp_path)))
    turns = 0
    while not adding.done():
        await asyncio.wait([adding], timeout=0.001)
        turns += 1
    await adding
    assert turns > 3


@pytest.mark.asyncio
async def test_every_part_of_a_file_can_be_read(tmp_path: Path) -> None:
    data = content(1000)
    root, blocks = build(data)
    store = BlockStore(tmp_path)
    fill(store, blocks)
    bounds = (0, 1, 63, 64, 65, 255, 256, 257, 999, 1000, 1001, 5000)
    for offset in bounds:
        for length in (0, *bounds, None):
            end = None if length is None else offset + length
            assert await read_all(root, store, offset, length) == data[offset:end]


@given(st.binary(max_size=600), st.integers(0, 700), st.none() | st.integers(0, 700))
@settings(max_examples=30, deadline=None)
def test_a_range_is_the_slice(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int | None
) -> None:
    root, blocks = build(data, chunk_bytes=16, links_max=3)
    store = BlockStore(tmp_path_factory.mktemp("store"))
    fill(store, blocks)
    end = None if length is None else offset + length
    assert asyncio.run(read_all(root, store, offset, length)) == data[offset:end]


def kubo_files() -> list[dict[str, object]]:
    made: list[dict[str, object]] = json.loads((VECTORS / "kubo_blocks.json").read_text())["files"]
    return made


@pytest.mark.asyncio
@pytest.mark.parametrize("name", [str(vector["name"]) for vector in kubo_files()])
async def test_a_file_that_kubo_made_is_read_whole_and_in_part(tmp_path: Path, name: str) -> None:
    [vector] = [v for v in kubo_files() if v["name"] == name]
    size, period, packed = vector["size_bytes"], vector["period"], vector["blocks"]
    assert isinstance(size, int)
    assert isinstance(period, int)
    assert isinstance(packed, dict)
    data = content(size, period)
    root = parse_cid(str(vector["root"]))
    store = BlockStore(tmp_path / "store")
    fill(store, {parse_cid(c): zlib.decompress(base64.b64decode(b)) for c, b in packed.items()})
    assert is_complete(root, store)
    assert await read_all(root, store, size // 3, size // 2) == data[size // 3 :][: size // 2]
    assert await out(root, store, tmp_path) == size
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.asyncio
async def test_a_materialized_file_is_private_and_replaces_nothing(tmp_path: Path) -> None:
    data = content(1000)
    root, blocks = build(data)
    store = BlockStore(tmp_path / "store")
    fill(store, blocks)
    path = tmp_path / "file" / "out"
    path.parent.mkdir()
    assert await out(root, store, path.parent) == 1000
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"before")
    with pytest.raises(FileExistsError):
        await out(root, store, path.parent)
    assert path.read_bytes() == b"before"


@pytest.mark.asyncio
async def test_links_take_no_materialized_file_elsewhere(tmp_path: Path) -> None:
    """Neither one that replaces the file, nor one that replaces its directory once that is open."""
    root, blocks = build(content(1000))
    store = BlockStore(tmp_path / "store")
    fill(store, blocks)
    ours, other, moved = tmp_path / "ours", tmp_path / "other", tmp_path / "moved"
    ours.mkdir()
    other.mkdir()
    (ours / "out").symlink_to(other / "made")
    with pytest.raises(FileExistsError):
        await out(root, store, ours)
    (ours / "out").unlink()
    directory = os.open(ours, os.O_RDONLY | os.O_DIRECTORY)
    ours.rename(moved)
    ours.symlink_to(other)
    try:
        await materialize(root, store, "out", directory=directory)
    finally:
        os.close(directory)
    assert list(other.iterdir()) == []
    assert (moved / "out").stat().st_size == 1000


@pytest.mark.asyncio
async def test_a_file_with_a_missing_block_is_not_materialized(tmp_path: Path) -> None:
    root, blocks = build(content(1000))
    store = BlockStore(tmp_path / "store")
    fill(store, blocks)
    missing = [cid for cid in blocks if cid.codec == RAW][-1]
    store.delete_unheld([missing])
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(ClusterError) as refused:
        await out(root, store, path)
    assert refused.value.reason is Reason.CONTENT_NOT_FOUND
    assert str(missing) in refused.value.message
    assert list(path.iterdir()) == []


@pytest.mark.asyncio
async def test_a_walk_names_every_block_before_its_parts(tmp_path: Path) -> None:
    data = content(3000)
    root, blocks = build(data)
    store = BlockStore(tmp_path)
    fill(store, blocks)
    order = [cid async for cid in walk(root, store)]
    assert order[0] == root
    assert set(order) == set(blocks)
    assert b"".join(blocks[cid] for cid in order if cid.codec == RAW) == data
    for position, cid in enumerate(order):
        parts = [part.cid for part in decode_node(cid, blocks[cid]).links]
        assert all(order.index(part) > position for part in parts)


def test_a_file_is_complete_only_with_every_block(tmp_path: Path) -> None:
    root, blocks = build(content(1000))
    store = BlockStore(tmp_path)
    assert not is_complete(root, store)
    fill(store, blocks)
    assert is_complete(root, store)
    for cid, data in blocks.items():
        store.delete_unheld([cid])
        assert not is_complete(root, store)
        fill(store, {cid: data})
    assert is_complete(root, store)


@pytest.mark.asyncio
@pytest.mark.parametrize("said", [3, 5, 1 << 40])
async def test_a_part_of_another_size_than_said_is_not_read(tmp_path: Path, said: int) -> None:
    leaf = cid_of(RAW, LEAF)
    root, data = node([(leaf, 4), (leaf, said)])
    store = BlockStore(tmp_path)
    fill(store, {leaf: LEAF, root: data})
    got = b""
    with pytest.raises(ClusterError) as refused:
        async for piece in read(root, store):
            got += piece
    assert refused.value.reason is Reason.BLOCK_MISMATCH
    assert got == LEAF


@pytest.mark.asyncio
async def test_a_file_of_too_many_levels_is_not_read(tmp_path: Path) -> None:
    leaf = cid_of(RAW, LEAF)
    nodes = list(chain((leaf, 4), 40))
    store = BlockStore(tmp_path)
    fill(store, {leaf: LEAF, **dict(nodes)})
    assert await read_all(nodes[29][0], store) == LEAF
    with pytest.raises(ClusterError):
        await read_all(nodes[-1][0], store)

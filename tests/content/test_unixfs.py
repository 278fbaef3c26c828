"""Files as DAGs: the same CIDs as Kubo's, files of Kubo read back, and hostile blocks refused."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import DAG_PB, RAW, Cid, cid_of, parse_cid
from ipfs_cluster_node.core.unixfs import BLOCK_BYTES_MAX, FileBuilder, decode_node
from tests.support.content import build, content, field, link, node, unixfs, varint

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


CIDS = load("kubo_cids.json")["vectors"]
SETS = load("kubo_blocks.json")


def blocks_of(vector: dict[str, Any]) -> dict[Cid, bytes]:
    return {
        parse_cid(cid): zlib.decompress(base64.b64decode(data))
        for cid, data in vector["blocks"].items()
    }


def join(cid: Cid, blocks: dict[Cid, bytes]) -> bytes:
    decoded = decode_node(cid, blocks[cid])
    data = decoded.data + b"".join(join(part.cid, blocks) for part in decoded.links)
    assert decoded.size_bytes == len(data)
    return data


@pytest.fixture(scope="module")
def largest() -> bytes:
    return content(max(vector["size_bytes"] for vector in CIDS))


@pytest.mark.parametrize("vector", CIDS, ids=lambda v: f"{v['chunk_bytes']}-{v['size_bytes']}")
def test_a_file_has_the_cid_that_kubo_gives_it(vector: dict[str, Any], largest: bytes) -> None:
    builder = FileBuilder(chunk_bytes=vector["chunk_bytes"])
    view = memoryview(largest)[: vector["size_bytes"]]
    for start in range(0, len(view), 1_000_000):
        builder.feed(bytes(view[start : start + 1_000_000]))
    _, root, size = builder.finish()
    assert (str(root), size) == (vector["cid"], vector["size_bytes"])


@pytest.mark.parametrize("vector", SETS["files"], ids=lambda v: v["name"])
def test_a_file_that_kubo_made_is_read(vector: dict[str, Any]) -> None:
    blocks = blocks_of(vector)
    assert all(cid.matches(data) for cid, data in blocks.items())
    expected = content(vector["size_bytes"], vector["period"])
    assert join(parse_cid(vector["root"]), blocks) == expected


@pytest.mark.parametrize("vector", SETS["not_files"], ids=lambda v: v["name"])
def test_what_is_no_file_is_refused_by_its_name(vector: dict[str, Any]) -> None:
    [(cid, data)] = blocks_of(vector).items()
    with pytest.raises(ClusterError) as refused:
        decode_node(cid, data)
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    what = "a symbolic link" if vector["name"] == "symlink" else "a directory"
    assert f"{cid} is {what}" in refused.value.message


@given(st.binary(max_size=3000), st.integers(1, 3000), st.integers(1, 70), st.integers(2, 5))
@example(b"", 1, 1, 2)
@example(bytes(64), 64, 16, 2)
def test_the_blocks_hold_the_file_however_its_bytes_come(
    data: bytes, feed_bytes: int, chunk_bytes: int, links_max: int
) -> None:
    root, blocks = build(data, feed_bytes=feed_bytes, chunk_bytes=chunk_bytes, links_max=links_max)
    assert join(root, blocks) == data
    assert all(cid.matches(block) for cid, block in blocks.items())
    if len(data) <= chunk_bytes:
        assert blocks == {cid_of(RAW, data): data}


def test_the_builder_keeps_no_more_than_a_chunk() -> None:
    builder = FileBuilder(chunk_bytes=100)
    made = sum(
        len(b.data) for _ in range(50) for b in builder.feed(bytes(99)) if b.cid.codec == RAW
    )
    assert 50 * 99 - made <= 100


LEAF = cid_of(RAW, b"leaf")
OTHER = cid_of(RAW, b"other")

MALFORMED = {
    "no UnixFS data": link(LEAF),
    "empty": b"",
    "UnixFS data twice": unixfs() + unixfs(),
    "sizes short of the links": link(LEAF) + link(OTHER) + unixfs([4]),
    "sizes beyond the links": link(LEAF) + unixfs([4, 5]),
    "a file larger than its parts": link(LEAF) + unixfs([4], file_size=1 << 40),
    "a file smaller than its parts": link(LEAF) + unixfs([4], file_size=3),
    "a file larger than its data": unixfs(data=b"data", file_size=1 << 40),
    "a link without CID": field(2, field(2, b"")) + unixfs([4]),
    "a link with an unknown hash": field(2, field(1, b"\x01\x55\x1b\x20" + bytes(32)))
    + unixfs([4]),
    "a link with an unknown codec": field(2, field(1, b"\x01\x71\x12\x20" + bytes(32)))
    + unixfs([4]),
    "a field cut off": unixfs()[:-1],
    "an unknown field": varint(9, 1) + unixfs(),
    "an unknown wire type": b"\x0d\x00\x00\x00\x00" + unixfs(),
    "a varint without end": b"\xff" * 12,
    "8193 links": link(LEAF) * 8193 + unixfs([4] * 8193),
    "over 2 MiB": unixfs(data=bytes(BLOCK_BYTES_MAX)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_block_is_a_mismatch(name: str) -> None:
    data = MALFORMED[name]
    cid = cid_of(DAG_PB, data)
    with pytest.raises(ClusterError) as refused:
        decode_node(cid, data)
    assert refused.value.reason is Reason.BLOCK_MISMATCH
    assert str(cid) in refused.value.message


def test_as_many_links_as_allowed_are_read() -> None:
    decoded = decode_node(*node([(LEAF, 4)] * 8192))
    assert len(decoded.links) == 8192
    assert decoded.size_bytes == 4 * 8192
    assert {(part.cid, part.size_bytes) for part in decoded.links} == {(LEAF, 4)}


NODE = node([(LEAF, 4), (OTHER, 5)])[1]


def mutate(edits: list[tuple[int, int]]) -> bytes:
    data = bytearray(NODE)
    for position, value in edits:
        data[position % len(data)] = value
    return bytes(data)


@given(
    st.binary(max_size=400)
    | st.builds(mutate, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
    | st.integers(0, len(NODE)).map(lambda end: NODE[:end])
    | st.builds(
        unixfs,
        st.lists(st.integers(0, 1 << 62), max_size=3),
        data=st.none() | st.binary(max_size=20),
        kind=st.integers(0, 9),
        file_size=st.none() | st.integers(0, 1 << 62),
    )
)
def test_whatever_comes_is_a_node_or_a_cluster_error(data: bytes) -> None:
    try:
        decoded = decode_node(cid_of(DAG_PB, data), data)
    except ClusterError as error:
        assert error.reason in (Reason.BLOCK_MISMATCH, Reason.INVALID_ARGUMENT)
    else:
        parts = sum(part.size_bytes for part in decoded.links)
        assert decoded.size_bytes == len(decoded.data) + parts

"""Bytes, blocks and sources of blocks for tests of content."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.multiformats import DAG_PB, Cid, cid_of, encode_varint
from ipfs_cluster_node.core.unixfs import Block, FileBuilder

SEED = b"ipfs-cluster-node vectors"


def content(size: int, period: int = 0) -> bytes:
    """The content of the vectors, see scripts/make-kubo-vectors."""
    if not period:
        return hashlib.shake_128(SEED).digest(size)
    once = hashlib.shake_128(SEED).digest(period)
    return (once * (size // period + 1))[:size]


def build(
    data: bytes, *, chunk_bytes: int = 64, links_max: int = 4, feed_bytes: int = 1000
) -> tuple[Cid, dict[Cid, bytes]]:
    """The blocks of a file, small enough that a short one has several levels."""
    builder = FileBuilder(chunk_bytes=chunk_bytes, links_max=links_max)
    blocks: list[Block] = []
    for start in range(0, len(data), feed_bytes):
        blocks += builder.feed(data[start : start + feed_bytes])
    last, root, size = builder.finish()
    assert size == len(data)
    return root, {block.cid: block.data for block in [*blocks, *last]}


def fill(store: BlockStore, blocks: dict[Cid, bytes]) -> None:
    with store.batch() as batch:
        for cid, data in blocks.items():
            batch.put(Block(cid, data))
        batch.flush()


def holding(store: BlockStore, cids: Iterable[Cid]) -> set[Cid]:
    return {cid for cid in cids if store.has(cid)}


async def stream(data: bytes, piece_bytes: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece_bytes):
        yield data[start : start + piece_bytes]


class MemorySource:
    """A node that holds these blocks, and may twist what it sends."""

    def __init__(
        self,
        name: str,
        blocks: dict[Cid, bytes],
        *,
        twist: Callable[[Cid, bytes], tuple[Cid, bytes]] = lambda cid, data: (cid, data),
        fails_with: ClusterError | None = None,
    ) -> None:
        self.name = name
        self._blocks = blocks
        self._twist = twist
        self._fails_with = fails_with
        self.asked: list[list[Cid]] = []

    async def blocks(self, cids: Sequence[Cid]) -> AsyncIterator[tuple[Cid, bytes]]:
        self.asked.append(list(cids))
        for cid in cids:
            if cid in self._blocks:
                yield self._twist(cid, self._blocks[cid])
        if self._fails_with is not None:
            raise self._fails_with


# Nodes as no sane writer makes them.


def varint(number: int, value: int) -> bytes:
    return encode_varint(number << 3) + encode_varint(value)


def field(number: int, value: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


def link(cid: Cid, total_bytes: int = 0) -> bytes:
    return field(2, field(1, cid.binary) + field(2, b"") + varint(3, total_bytes))


def unixfs(
    sizes: Sequence[int] = (),
    *,
    data: bytes | None = None,
    kind: int = 2,
    file_size: int | None = None,
) -> bytes:
    encoded = varint(1, kind)
    if data is not None:
        encoded += field(2, data)
    total = sum(sizes) + len(data or b"") if file_size is None else file_size
    encoded += varint(3, total)
    return field(1, encoded + b"".join(varint(4, size) for size in sizes))


def node(children: Sequence[tuple[Cid, int]], *, file_size: int | None = None) -> tuple[Cid, bytes]:
    """A file node above `children`, each with the size it is said to have."""
    data = b"".join(link(cid) for cid, _ in children)
    data += unixfs([size for _, size in children], file_size=file_size)
    return cid_of(DAG_PB, data), data


def chain(leaf: tuple[Cid, int], length: int) -> Iterator[tuple[Cid, bytes]]:
    """Nodes above one another, the lowest first; each has one part."""
    child = leaf
    for _ in range(length):
        cid, data = node([child])
        yield cid, data
        child = (cid, leaf[1])

"""Files as DAGs of blocks, as `ipfs add --cid-version=1` creates them.

Raw leaves of 256 KiB; above them dag-pb nodes holding UnixFS file nodes of up to 174 links, in the
balanced layout: all leaves at the same depth. A file of one chunk is a bare raw leaf.

Sources: ipfs/specs UNIXFS.md and ipld/specs dag-pb. The CIDs are checked against Kubo 0.39
(tests/content/vectors).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.multiformats import (
    DAG_PB,
    RAW,
    Cid,
    cid_of,
    decode_varint,
    encode_varint,
    parse_cid_binary,
)

CHUNK_BYTES: Final = 256 * 1024
LINKS_MAX: Final = 174
BLOCK_BYTES_MAX: Final = 2 * 1024 * 1024
"""Largest block accepted from other nodes."""
READ_LINKS_MAX: Final = 8192
DEPTH_MAX: Final = 32
OPENED_MAX: Final = 65_536
"""Most distinct blocks with links in one file: 2.7 TiB as Kubo creates them."""
WAITING_MAX: Final = 262_144
"""Most pending parts while a file is walked."""
OPENED_AT_ONCE_MAX: Final = 16
"""Most blocks that may have links in one window, since each may add 8,192 parts."""

_TYPE_RAW: Final = 0
_TYPE_FILE: Final = 2
_TYPE_NAMES: Final = {1: "a directory", 3: "metadata", 4: "a symbolic link", 5: "a directory"}


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes and their CID."""

    cid: Cid
    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A part of a file."""

    cid: Cid
    size_bytes: int
    """Bytes of the file below it."""
    total_bytes: int = 0
    """Bytes of all blocks below it, as dag-pb counts them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A block as its parent names it."""

    cid: Cid
    size_bytes: int | None
    """Bytes of the file below it; None for the root, whose size is not given."""
    depth: int


@dataclass(frozen=True, slots=True)
class Node:
    """A decoded block: bytes of its own, then its links, in file order."""

    links: tuple[Link, ...]
    data: bytes
    size_bytes: int


class FileBuilder:
    """Cuts a file into blocks as its bytes arrive; holds at most 174 links per level."""

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES, links_max: int = LINKS_MAX) -> None:
        """Other sizes than the defaults give other CIDs; tests use them."""
        self._chunk_bytes = chunk_bytes
        self._links_max = links_max
        self._pending = bytearray()
        self._levels: list[list[Link]] = []
        self._size_bytes = 0

    def feed(self, data: bytes) -> list[Block]:
        """Take the next bytes; returns blocks to store."""
        self._pending += data
        blocks: list[Block] = []
        # One chunk is held back, so that a file never ends with an empty leaf.
        start = 0
        while len(self._pending) - start > self._chunk_bytes:
            self._leaf(bytes(self._pending[start : start + self._chunk_bytes]), blocks)
            start += self._chunk_bytes
        del self._pending[:start]
        return blocks

    def finish(self) -> tuple[list[Block], Cid, int]:
        """End the file; returns the last blocks, the root and the file's size."""
        blocks: list[Block] = []
        if self._pending or not self._size_bytes:
            self._leaf(bytes(self._pending), blocks)
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            self._close(level, blocks)
            level += 1
        return blocks, self._levels[level][0].cid, self._size_bytes

    def _leaf(self, data: bytes, blocks: list[Block]) -> None:
        block = Block(cid_of(RAW, data), data)
        blocks.append(block)
        self._size_bytes += len(data)
        self._add(0, Link(block.cid, len(data), len(data)), blocks)

    def _add(self, level: int, link: Link, blocks: list[Block]) -> None:
        if level == len(self._levels):
            self._levels.append([])
        if len(self._levels[level]) == self._links_max:
            self._close(level, blocks)
        self._levels[level].append(link)

    def _close(self, level: int, blocks: list[Block]) -> None:
        links, self._levels[level] = self._levels[level], []
        if not links:
            return
        data = encode_file_node(links)
        block = Block(cid_of(DAG_PB, data), data)
        blocks.append(block)
        size = sum(link.size_bytes for link in links)
        total = len(data) + sum(link.total_bytes for link in links)
        self._add(level + 1, Link(block.cid, size, total), blocks)


def encode_file_node(links: list[Link]) -> bytes:
    """Encode a dag-pb node with a UnixFS file above `links`."""
    encoded = bytearray()
    for link in links:
        entry = (
            _bytes_field(1, link.cid.binary)
            + _bytes_field(2, b"")
            + _varint_field(3, link.total_bytes)
        )
        encoded += _bytes_field(2, entry)
    unixfs = _varint_field(1, _TYPE_FILE)
    unixfs += _varint_field(3, sum(link.size_bytes for link in links))
    for link in links:
        unixfs += _varint_field(4, link.size_bytes)
    return bytes(encoded) + _bytes_field(1, unixfs)


def decode_node(cid: Cid, data: bytes) -> Node:
    """Read a block whose hash was checked.

    Raises:
        ClusterError: INVALID_ARGUMENT if it is not a file, BLOCK_MISMATCH if it is malformed.
    """
    if len(data) > BLOCK_BYTES_MAX:
        raise mismatch(cid, "over 2 MiB")
    if cid.codec == RAW:
        return Node((), data, len(data))
    try:
        return _decode_dag_pb(cid, data)
    except ValueError as error:
        raise mismatch(cid, str(error)) from error


def mismatch(cid: Cid, why: str) -> ClusterError:
    """The error for a malformed block."""
    return ClusterError(
        Reason.BLOCK_MISMATCH, f"{cid} is a malformed block ({why}); add the file again"
    )


class Walk:
    """The order in which a file's blocks are visited: depth first, parents before their parts.

    Each block with links is opened once (again only if it occurs deeper), so that a few blocks that
    link to each other many times cost no more than their number.
    """

    def __init__(self, root: Cid) -> None:
        self._waiting = [Part(root, None, 0)]
        self._opened: dict[Cid, tuple[int, int]] = {}

    def take(self, count: int) -> list[Part]:
        """The next parts, at most `count`, each block once; none at the end.

        Raises:
            ClusterError: BLOCK_MISMATCH if a block has two different sizes.
        """
        taken: dict[Cid, Part] = {}
        inner = 0
        while self._waiting and len(taken) < count and inner < OPENED_AT_ONCE_MAX:
            part = self._waiting.pop()
            depth, size = self._opened.get(part.cid, (-1, None))
            self._same_size(part, size)
            if part.depth <= depth:
                continue
            other = taken.get(part.cid)
            if other is not None:
                self._same_size(part, other.size_bytes)
            elif part.cid.codec != RAW:
                inner += 1
            if other is None or other.depth < part.depth:
                taken[part.cid] = part
        return list(taken.values())

    def open(self, part: Part, data: bytes) -> Node:
        """Read the block of a part; its links are visited next.

        Raises:
            ClusterError: BLOCK_MISMATCH if it is malformed, too large, too deep or of another size
                than stated; those of `decode_node`.
        """
        node = decode_node(part.cid, data)
        self._same_size(part, node.size_bytes)
        if node.links:
            if part.depth == DEPTH_MAX or len(self._opened) == OPENED_MAX:
                raise mismatch(part.cid, "too deep, or one too many")
            self._opened[part.cid] = (part.depth, node.size_bytes)
            parts = dict.fromkeys((link.cid, link.size_bytes) for link in node.links)
            self._waiting += [Part(cid, size, part.depth + 1) for cid, size in reversed(parts)]
            if len(self._waiting) > WAITING_MAX:
                raise mismatch(part.cid, "too many links")
        return node

    @staticmethod
    def _same_size(part: Part, size: int | None) -> None:
        if part.size_bytes is not None and size is not None and part.size_bytes != size:
            raise mismatch(part.cid, "not as large as said")


def _decode_dag_pb(cid: Cid, data: bytes) -> Node:
    children: list[tuple[Cid, int]] = []
    unixfs: bytes | None = None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes) and unixfs is None:
            unixfs = value
        elif number == 2 and isinstance(value, bytes):
            children.append(_decode_link(value))
        else:
            raise ValueError("unknown field")
    if len(children) > READ_LINKS_MAX or unixfs is None:
        raise ValueError("too many links, or no UnixFS data")
    kind, own, declared, sizes = _TYPE_FILE, b"", None, []
    for number, value in _fields(unixfs):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes):
            own = value
        elif number == 3 and isinstance(value, int):
            declared = value
        elif number == 4 and isinstance(value, int):
            sizes.append(value)
    if kind not in (_TYPE_RAW, _TYPE_FILE):
        what = _TYPE_NAMES.get(kind, "no file")
        raise ClusterError(
            Reason.INVALID_ARGUMENT, f"{cid} is {what}; name a file in it by its own CID"
        )
    total = len(own) + sum(sizes)
    # False sizes would let a small DAG stand for an endless file.
    if len(sizes) != len(children) or (declared is not None and declared != total):
        raise ValueError("sizes do not add up")
    if 0 in sizes:
        raise ValueError("a part without bytes")
    links = tuple(
        Link(child, size, tsize) for (child, tsize), size in zip(children, sizes, strict=True)
    )
    return Node(links, own, total)


def _decode_link(data: bytes) -> tuple[Cid, int]:
    child: Cid | None = None
    total = 0
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            child = parse_cid_binary(value)
        elif number == 3 and isinstance(value, int):
            total = value
    if child is None:
        raise ValueError("a link without CID")
    return child, total


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    offset = 0
    while offset < len(data):
        tag, offset = decode_varint(data, offset)
        number, wire_type = tag >> 3, tag & 7
        value, offset = decode_varint(data, offset)
        if wire_type == 0:
            yield number, value
        elif wire_type == 2:
            if offset + value > len(data):
                raise ValueError("a field is cut off")
            yield number, data[offset : offset + value]
            offset += value
        else:
            raise ValueError("an unknown wire type")


def _varint_field(number: int, value: int) -> bytes:
    return encode_varint(number << 3) + encode_varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value

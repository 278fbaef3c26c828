"""Snapshot files: one whole state, checked, replaced atomically.

File: `ICNSNAP2 | crc32 u32 | header length u32 | header | state`, little endian; the CRC covers
all behind it. The header is `index u64 term u64` and the voters, a name a line.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.raft.damage import LogDamagedError
from ipfs_cluster_node.adapters.raft.disk import Disk, OpenFile
from ipfs_cluster_node.core.ids import VoterId

MAGIC: Final = b"ICNSNAP2"
SNAPSHOT_NAME: Final = "snapshot"
SLICE_BYTES: Final = 1024 * 1024
_HEAD: Final = struct.Struct("<II")
_POSITION: Final = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state as of one index of the log."""

    index: int
    term: int
    voters: frozenset[VoterId]
    state: bytes | bytearray
    size_bytes: int = 0
    """Of the file it was read from; 0 for one that was made here."""

    def encode(self) -> bytearray:
        """The bytes of the file; put together in slices, since one long copy stops every thread."""
        header = _POSITION.pack(self.index, self.term) + "\n".join(sorted(self.voters)).encode()
        begin = struct.pack("<I", len(header)) + header
        crc = zlib.crc32(self.state, zlib.crc32(begin))
        encoded = bytearray(MAGIC + struct.pack("<I", crc) + begin)
        with memoryview(self.state) as state:
            for offset in range(0, len(state), SLICE_BYTES):
                encoded += state[offset : offset + SLICE_BYTES]
        return encoded


def decode_snapshot_file(data: bytes | bytearray) -> Snapshot:
    """Read a snapshot file.

    Raises:
        LogDamagedError: It is not whole.
    """
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + _HEAD.size + _POSITION.size:
        raise LogDamagedError("its snapshot is not whole")
    crc, header_bytes = _HEAD.unpack_from(data, len(MAGIC))
    if zlib.crc32(memoryview(data)[len(MAGIC) + 4 :]) != crc:
        raise LogDamagedError("its snapshot is not whole")
    start = len(MAGIC) + _HEAD.size
    index, term = _POSITION.unpack_from(data, start)
    names = data[start + _POSITION.size : start + header_bytes].decode().split("\n")
    return Snapshot(
        index=index,
        term=term,
        voters=frozenset(VoterId(name) for name in names if name),
        state=data[start + header_bytes :],
        size_bytes=len(data),
    )


def snapshot_position(file: OpenFile) -> tuple[int, int]:
    """The index up to which a snapshot file goes, and its CRC."""
    head = file.read_at(len(MAGIC), _HEAD.size + _POSITION.size)
    crc, _ = _HEAD.unpack_from(head)
    index, _ = _POSITION.unpack_from(head, _HEAD.size)
    return index, crc


def load_snapshot(disk: Disk) -> Snapshot | None:
    """Read the snapshot; None if there is none.

    Raises:
        LogDamagedError: It is not whole.
    """
    data = disk.read(SNAPSHOT_NAME)
    return None if data is None else decode_snapshot_file(data)


def store_snapshot(disk: Disk, snapshot: Snapshot) -> None:
    """Replace the snapshot durably; blocks."""
    disk.replace(SNAPSHOT_NAME, snapshot.encode())

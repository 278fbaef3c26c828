"""Snapshot files: one whole state, checked, replaced atomically; written and read in parts.

File: `ICNSNAP3 | header length u32 | header | parts | crc32 u32`, little endian; the CRC covers all
before it. The header is `index u64 term u64` and the voters, a name a line. A part is
`length u32 | bytes`; only the state machine knows its meaning. Parts are small, so that a state of
any size needs little memory, and other threads never wait for long.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import Disk, OpenFile
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError, of_another_release
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import VoterId

MAGIC: Final = b"ICNSNAP3"
SNAPSHOT_NAME: Final = "snapshot"
READ_BYTES: Final = 1024 * 1024
_LENGTH: Final = struct.Struct("<I")
_CRC: Final = struct.Struct("<I")
_POSITION: Final = struct.Struct("<QQ")
_HEADER_AT: Final = len(MAGIC) + _LENGTH.size
SIZE_BYTES_MIN: Final = _HEADER_AT + _POSITION.size + _CRC.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The place in the log that a state was taken at."""

    index: int
    term: int
    voters: frozenset[VoterId]


class SnapshotFile:
    """A snapshot file, checked from end to end."""

    def __init__(self, file: OpenFile) -> None:
        """Check a file, and take it over.

        Raises:
            LogDamagedError: It is not whole.
            ClusterError: RELEASE_TOO_OLD.
        """
        self._file = file
        self.size_bytes = file.size_bytes
        head = file.read_at(0, _HEADER_AT)
        if self.size_bytes < SIZE_BYTES_MIN or self._crc_of_content() != snapshot_crc(file):
            raise LogDamagedError("its snapshot is not whole")
        if head[: len(MAGIC)] != MAGIC:
            raise of_another_release("the snapshot of the log")
        (header_bytes,) = _LENGTH.unpack_from(head, len(MAGIC))
        header = file.read_at(_HEADER_AT, header_bytes)
        index, term = _POSITION.unpack_from(header)
        names = header[_POSITION.size :].decode().split("\n")
        voters = frozenset(VoterId(name) for name in names if name)
        self.position = Position(index=index, term=term, voters=voters)
        self._parts_at: int = _HEADER_AT + header_bytes
        self._end = self.size_bytes - _CRC.size

    @property
    def is_empty(self) -> bool:
        """Whether it holds no state, as in a cluster whose log has just been created."""
        return self._parts_at == self._end

    def parts(self) -> Iterator[bytes]:
        """The state, as the state machine encoded it."""
        offset = self._parts_at
        while offset < self._end:
            (length,) = _LENGTH.unpack(self._file.read_at(offset, _LENGTH.size))
            offset += _LENGTH.size
            yield self._file.read_at(offset, length)
            offset += length

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _crc_of_content(self) -> int:
        crc = 0
        end = self.size_bytes - _CRC.size
        for offset in range(0, end, READ_BYTES):
            crc = zlib.crc32(self._file.read_at(offset, min(READ_BYTES, end - offset)), crc)
        return crc


def open_snapshot(disk: Disk, name: str = SNAPSHOT_NAME) -> SnapshotFile | None:
    """Open and check a snapshot, which the caller closes; None if there is none.

    Raises:
        LogDamagedError: It is not whole.
        ClusterError: RELEASE_TOO_OLD.
    """
    file = disk.open(name)
    if file is None:
        return None
    try:
        return SnapshotFile(file)
    except ClusterError:
        file.close()
        raise


def store_snapshot(disk: Disk, position: Position, parts: Iterable[bytes]) -> None:
    """Replace the snapshot durably; blocks, as long as the parts take to be made."""
    disk.replace(SNAPSHOT_NAME, encode_file(position, parts))


def snapshot_index(file: OpenFile) -> int:
    """The index up to which a snapshot file goes; it was checked before."""
    index, _ = _POSITION.unpack(file.read_at(_HEADER_AT, _POSITION.size))
    return int(index)


def snapshot_crc(file: OpenFile) -> int:
    """The CRC that a snapshot file has at its end."""
    (crc,) = _CRC.unpack(file.read_at(file.size_bytes - _CRC.size, _CRC.size))
    return int(crc)


def encode_file(position: Position, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Make a snapshot file, piece by piece; takes as long as the parts take to be made."""
    names = "\n".join(sorted(position.voters)).encode()
    header = _POSITION.pack(position.index, position.term) + names
    begin = MAGIC + _LENGTH.pack(len(header)) + header
    crc = zlib.crc32(begin)
    yield begin
    for part in parts:
        framed = _LENGTH.pack(len(part)) + part
        crc = zlib.crc32(framed, crc)
        yield framed
    yield _CRC.pack(crc)

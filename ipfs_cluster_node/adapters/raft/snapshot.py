"""Snapshot files: one whole state, checked, replaced atomically.

File: `ICNSNAP1 | crc32 u32 | header length u32 | header | state`, little endian; the CRC covers
all behind it. The header is `index u64 term u64` and the voters, a name a line.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.raft.journal import fsync_directory, write_all
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId

MAGIC: Final = b"ICNSNAP1"
_HEAD: Final = struct.Struct("<II")
_POSITION: Final = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state as of one index of the log."""

    index: int
    term: int
    voters: frozenset[VoterId]
    state: bytes

    def encode(self) -> bytes:
        """The bytes of the file."""
        header = _POSITION.pack(self.index, self.term) + "\n".join(sorted(self.voters)).encode()
        body = struct.pack("<I", len(header)) + header + self.state
        return MAGIC + struct.pack("<I", zlib.crc32(body)) + body


def decode_snapshot_file(data: bytes) -> Snapshot:
    """Read a snapshot file.

    Raises:
        ClusterError: HOME_DAMAGED, if it is not whole.
    """
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + _HEAD.size + _POSITION.size:
        raise ClusterError(Reason.HOME_DAMAGED, "the snapshot is damaged; join this node anew")
    crc, header_bytes = _HEAD.unpack_from(data, len(MAGIC))
    if zlib.crc32(data[len(MAGIC) + 4 :]) != crc:
        raise ClusterError(Reason.HOME_DAMAGED, "the snapshot is damaged; join this node anew")
    start = len(MAGIC) + _HEAD.size
    index, term = _POSITION.unpack_from(data, start)
    names = data[start + _POSITION.size : start + header_bytes].decode().split("\n")
    return Snapshot(
        index=index,
        term=term,
        voters=frozenset(VoterId(name) for name in names if name),
        state=data[start + header_bytes :],
    )


def load_snapshot(path: Path) -> Snapshot | None:
    """Read the snapshot at `path`; None if there is none.

    Raises:
        ClusterError: HOME_DAMAGED, if it is not whole.
    """
    try:
        return decode_snapshot_file(path.read_bytes())
    except FileNotFoundError:
        return None


def store_snapshot(path: Path, encoded: bytes) -> None:
    """Replace the snapshot at `path` durably; blocks."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, encoded)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(path)
    fsync_directory(path.parent)

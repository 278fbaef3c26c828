"""Segments of the journal: the format of their files.

A segment, `journal-<number>`, is a header `ICNRAFT2 | salt u32 | crc32 u32`, then frames
`length u32 | crc32 u32 | number u64 | records`, little endian. A frame's CRC begins with the salt
and covers number and records; numbers count up by one through the segment. The salt keeps a command
from looking like a frame. Records are `length u32 | payload`; payloads are
`E index u64 term u64 command`, `T from_index u64` (all entries from there on are void),
`V term u64 voted_for` (term and vote) and `R index u64 term u64` (a snapshot replaced the log,
which begins behind it). A segment begins with the vote, so that whole segments can be removed once
a snapshot covers them.

All that one sync makes durable is one frame, and a frame is synced before the next one is written.
So only the last frame can be torn, and no answer can have depended on it: it is cut at open. A
broken frame with a whole one behind it is damage, and so is a frame that is missing although
`synced` names it: that file says how many frames of which segment were synced, now or, after a
crash, at an earlier time.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError, of_another_release

MAGIC: Final = b"ICNRAFT2"
SEGMENT_PREFIX: Final = "journal-"
SYNCED_NAME: Final = "synced"
FRAMES_SEARCHED: Final = 1000
"""How many frame numbers are searched for behind a broken frame."""

_HEADER: Final = struct.Struct("<8sII")
_FRAME: Final = struct.Struct("<IIQ")
FRAME_HEAD_BYTES: Final = _FRAME.size
LENGTH: Final = struct.Struct("<I")
ENTRY: Final = struct.Struct("<cQQ")
TRUNCATE: Final = struct.Struct("<cQ")
VOTE: Final = struct.Struct("<cQ")
_NUMBER: Final = struct.Struct("<Q")
_SYNCED: Final = struct.Struct("<QQ")
"""Segment and frames, followed by their CRC-32."""


def has_journal(disk: Disk) -> bool:
    """Whether a disk has any segment."""
    return any(name.startswith(SEGMENT_PREFIX) for name in disk.names())


@dataclass(slots=True)
class Segment:
    """One file of the journal."""

    number: int
    salt: int
    frames: int
    size_bytes: int
    index_max: int
    """Highest index of any entry in it, including void ones."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{SEGMENT_PREFIX}{self.number:08d}"


def vote_payload(term: int, voted_for: str | None) -> bytes:
    """Encode term and vote as a record's payload."""
    return VOTE.pack(b"V", term) + (voted_for or "").encode()


def synced_note(number: int, frames: int) -> bytes:
    """Encode how many frames of which segment were synced."""
    position = _SYNCED.pack(number, frames)
    return position + LENGTH.pack(zlib.crc32(position))


def read_synced_note(data: bytes | None) -> tuple[int, int]:
    """Decode segment and frames that were certainly synced; zeros where that is unknown."""
    if data is None or len(data) < _SYNCED.size:
        return 0, 0
    number, frames = _SYNCED.unpack_from(data)
    return (number, frames) if data == synced_note(number, frames) else (0, 0)


def next_frame(segment: Segment, records: bytes) -> bytes:
    """Make the next frame of a segment, which counts it."""
    crc = _crc(segment.salt, segment.frames, records)
    framed = _FRAME.pack(len(records), crc, segment.frames) + records
    segment.frames += 1
    return framed


def header(salt: int) -> bytes:
    """Make the header of a segment."""
    return _HEADER.pack(MAGIC, salt, zlib.crc32(MAGIC, salt))


def read_header(name: str, data: bytes) -> tuple[int, int]:
    """The salt of a segment, and where its frames begin.

    Raises:
        LogDamagedError: The header is not whole.
        ClusterError: RELEASE_TOO_OLD.
    """
    if len(data) < _HEADER.size:
        raise LogDamagedError(f"{name} is too short")
    magic, salt, crc = _HEADER.unpack_from(data)
    if crc != zlib.crc32(magic, salt):
        raise LogDamagedError(f"{name} has a wrong header")
    if magic != MAGIC:
        raise of_another_release(name)
    return salt, _HEADER.size


def whole_frame_follows(data: bytes, offset: int, segment: Segment) -> bool:
    """Whether a whole frame follows the broken one at `offset`."""
    for number in range(segment.frames + 1, segment.frames + FRAMES_SEARCHED):
        at = data.find(_NUMBER.pack(number), offset)
        while at >= 0:
            if records_at(data, at - _FRAME.size + _NUMBER.size, segment.salt, number):
                return True
            at = data.find(_NUMBER.pack(number), at + 1)
    return False


def _crc(salt: int, number: int, records: bytes) -> int:
    return zlib.crc32(records, zlib.crc32(number.to_bytes(8, "little"), salt))


def records_at(data: bytes, offset: int, salt: int, number: int) -> bytes | None:
    """The records of the frame at `offset`; None if it is broken or has another number."""
    if offset + _FRAME.size > len(data):
        return None
    length, crc, found = _FRAME.unpack_from(data, offset)
    end = offset + _FRAME.size + length
    if length == 0 or end > len(data) or found != number:
        return None
    records = data[offset + _FRAME.size : end]
    return records if _crc(salt, number, records) == crc else None


def payloads(records: bytes) -> Iterator[bytes]:
    """The payload of each record of a frame."""
    offset = 0
    while offset < len(records):
        (length,) = LENGTH.unpack_from(records, offset)
        offset += LENGTH.size
        yield records[offset : offset + length]
        offset += length

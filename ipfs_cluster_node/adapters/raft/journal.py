"""The durable log: entries, term and vote, in segments that are only ever appended to.

A segment, `journal-<number>`, is a header `ICNRAFT2 | salt u32 | crc32 u32`, then frames
`length u32 | crc32 u32 | number u64 | records`, little endian. A frame's CRC begins with the salt
and covers number and records; numbers count up by one through the segment. Records are
`length u32 | payload`; payloads are `E index u64 term u64 command`, `T from_index u64` (all
entries from there on are void), `V term u64 voted_for` (term and vote) and
`R index u64 term u64` (a snapshot replaced the log, which begins behind it).

All that one sync makes durable is one frame, and a frame is synced before the next is written: so
only the last can be torn, and no answer can have depended on it. It is cut at open. A broken frame
with a whole one behind it is damage, and refused, and so is a frame that is missing although
`synced` names it: that file says how many frames of which segment were synced, as of now or, after
a crash, as of earlier. The salt keeps a command from looking like a
frame. A segment begins with the vote, so that older ones can go as a whole once a snapshot covers
them.

Nothing is written when PySyncObj calls: records gather in memory, and `write_and_sync` writes
them, in a thread, before any message or answer that depends on them leaves (raft hazard H7).
"""

import logging
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, overload

from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError, of_another_release
from ipfs_cluster_node.core.ids import VoterId

log = logging.getLogger(__name__)

MAGIC: Final = b"ICNRAFT2"
SEGMENT_PREFIX: Final = "journal-"
SEGMENT_BYTES_MAX: Final = 64 * 1024 * 1024
SYNCED_NAME: Final = "synced"
FRAMES_SEARCHED: Final = 1000
"""How many numbers behind a broken frame are looked for."""
NO_OP: Final = b"\x01"
MEMBERSHIP: Final = b"\x02"
REGULAR: Final = b"\x00"

Entry = tuple[bytes, int, int]
"""Command with its type byte, index, term: as PySyncObj has it."""

_HEADER: Final = struct.Struct("<8sII")
_FRAME: Final = struct.Struct("<IIQ")
_LENGTH: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<cQQ")
_TRUNCATE: Final = struct.Struct("<cQ")
_VOTE: Final = struct.Struct("<cQ")
_NUMBER: Final = struct.Struct("<Q")
_SYNCED: Final = struct.Struct("<QQ")
"""Segment and frames; their CRC-32 follows."""


def has_journal(disk: Disk) -> bool:
    """Whether there is any segment."""
    return any(name.startswith(SEGMENT_PREFIX) for name in disk.names())


def change_of(command: bytes) -> tuple[str, VoterId] | None:
    """Read a configuration entry: `("add" | "rem", voter)`; None for any other command."""
    if command[:1] != MEMBERSHIP:
        return None
    operation, _, voter = command[1:].decode("ascii").partition(" ")
    return operation, VoterId(voter)


@dataclass(slots=True)
class _Segment:
    number: int
    salt: int
    frames: int
    size_bytes: int
    index_max: int
    """Highest index of any entry in it, void ones included."""

    @property
    def name(self) -> str:
        return f"{SEGMENT_PREFIX}{self.number:08d}"


@dataclass(frozen=True, slots=True)
class Pending:
    """Records that wait to be written, as one frame."""

    records: bytes
    index_max: int
    vote: bytes
    """Term and vote as of before them, for the head of a new segment."""


class SegmentedJournal:
    """The log on disk, and whole in memory.

    Entry 0 of the list is the one the log begins behind: one that a snapshot covers, or the first
    no-op. The configuration (who votes) follows the entries as they are added and cut, since a
    configuration holds from its entry on, committed or not.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        base: Entry = (NO_OP, 1, 0),
        base_voters: frozenset[VoterId],
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        synced_at_least: tuple[int, int] = (0, 0),
    ) -> None:
        """Open the log, or make it.

        Args:
            disk: Where it is.
            base: What the snapshot covers, as an entry; the log goes on behind it.
            base_voters: Who votes as of `base`.
            segment_bytes_max: A segment that has grown beyond it is followed by a new one.
            synced_at_least: What another journal on the same disk had synced, by its `synced`.

        Raises:
            LogDamagedError: It is there, and not whole.
        """
        self._disk = disk
        self._base_voters = base_voters
        self._segment_bytes_max = segment_bytes_max
        self._entries: list[Entry] = []
        self._changes: list[tuple[int, str, VoterId]] = []
        """The configuration entries of the log: index, operation, voter."""
        self._voters = base_voters
        """What `voters()` comes to; kept, since each step asks several times."""
        self._term = 0
        self._voted_for: str | None = None
        self._vote_written = _vote_payload(0, None)
        self._pending = bytearray()
        self._pending_index_max = 0
        self.entry_bytes = 0
        """Bytes of all commands in the log."""
        self._segments: list[_Segment] = []
        self.synced = synced_at_least
        """The last segment, and how many frames of it are durable; nothing behind them is."""
        self._load()
        self._begin_behind(base)
        self.write_and_sync(self.take_pending())

    # What PySyncObj calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self._take((command, idx, term))
        self._pending_index_max = max(self._pending_index_max, idx)
        self._record(_ENTRY.pack(b"E", idx, term), command)

    def clear(self) -> None:
        """Never called: `rebase` is (H18)."""
        raise AssertionError("PySyncObj's own snapshots are off")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut everything from this position of the list on."""
        if entryFrom < len(self._entries):
            self._record(_TRUNCATE.pack(b"T", self._entries[entryFrom][1]))
            self._cut(entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Never called: `trim` is, once a snapshot is durable (H8, H18)."""
        raise AssertionError("PySyncObj's own compaction is off")

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        """Entries by position in the list."""
        return self._entries[item]

    def __len__(self) -> int:
        """How many entries the list has."""
        return len(self._entries)

    def _destroy(self) -> None:
        self._disk.close()

    def onOneSecondTimer(self) -> None:
        """Nothing to do: the disk is written in steps."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Ignored: the commit index is learned again after a start (H7)."""

    def getRaftCommitIndex(self) -> int:
        """What is certainly committed: what the snapshot covers."""
        return self._entries[0][1]

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Note term and vote."""
        self._term, self._voted_for = term, votedForNodeId
        self._record(_vote_payload(term, votedForNodeId))

    def getCurrentTerm(self) -> int:
        """The term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Who got this node's vote in the term."""
        return self._voted_for

    # What the engine calls.

    @property
    def first_index(self) -> int:
        """Index of the entry that the log begins behind."""
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self._entries[-1][1]

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None if it is not in the log."""
        position = index - self.first_index
        if 0 <= position < len(self._entries):
            return self._entries[position][2]
        return None

    def voters(self, up_to: int | None = None) -> frozenset[VoterId]:
        """Who votes by the configuration entries up to an index, default all."""
        if up_to is None:
            return self._voters
        voters = set(self._base_voters)
        for index, operation, voter in self._changes:
            if index <= up_to:
                (voters.add if operation == "add" else voters.discard)(voter)
        return frozenset(voters)

    def last_change_index(self) -> int:
        """Index of the last configuration entry in the log; 0 if there is none."""
        return self._changes[-1][0] if self._changes else 0

    @property
    def dirty(self) -> bool:
        """Whether there is something to sync."""
        return bool(self._pending)

    def take_pending(self) -> Pending:
        """Take what is to be written; the caller gives it to `write_and_sync`."""
        pending = Pending(bytes(self._pending), self._pending_index_max, self._vote_written)
        self._pending.clear()
        self._pending_index_max = 0
        self._vote_written = _vote_payload(self._term, self._voted_for)
        return pending

    def write_and_sync(self, pending: Pending) -> None:
        """Write and sync; may run in a thread. After an error the journal must not be used again.

        Raises:
            OSError: The disk failed.
        """
        if not pending.records and self._segments:
            return
        active = self._segments[-1] if self._segments else None
        if active is None or active.size_bytes >= self._segment_bytes_max:
            number = 1 if active is None else active.number + 1
            new = _Segment(number, secrets.randbits(32), 0, 0, 0)
            head = _LENGTH.pack(len(pending.vote)) + pending.vote
            data = _header(new.salt) + _frame(new, head)
            self._disk.replace(new.name, [data])
            new.size_bytes = len(data)
            self._segments.append(new)
            active = new
            self.synced = (active.number, active.frames)
        if pending.records:
            data = _frame(active, pending.records)
            self._disk.append(active.name, data)
            self._disk.sync(active.name)
            active.size_bytes += len(data)
            active.index_max = max(active.index_max, pending.index_max)
            self.synced = (active.number, active.frames)
        self._disk.note(SYNCED_NAME, _synced_note(*self.synced))

    def probe(self) -> None:
        """Write term and vote as they are, and sync: after an outage, to see that it works."""
        self.setCurrentTerm(self._term, self._voted_for)
        self.write_and_sync(self.take_pending())

    def trim(self, index: int, voters: frozenset[VoterId]) -> None:
        """Let the log begin behind `index`, which a durable snapshot covers; blocks a little.

        Segments without an entry above it go. `voters` is the configuration as of `index`.
        """
        position = index - self.first_index
        if position <= 0:
            return
        self.entry_bytes -= sum(len(e[0]) for e in self._entries[:position])
        del self._entries[:position]
        self._changes = [change for change in self._changes if change[0] > index]
        self._begin_with(voters)
        self._drop_segments(index)

    def rebase(self, index: int, term: int, voters: frozenset[VoterId]) -> None:
        """Let the log begin behind an installed snapshot, which is durable.

        Entries above it stay if the log agrees with it at `index` (H18).
        """
        if self.term_at(index) == term:
            self.trim(index, voters)
            return
        self._reset(index, term)
        self._begin_with(voters)

    def _begin_with(self, voters: frozenset[VoterId]) -> None:
        self._base_voters = voters
        self._voters = self.voters(up_to=self.last_index)

    # Files.

    def _record(self, head: bytes, body: bytes = b"") -> None:
        self._pending += _LENGTH.pack(len(head) + len(body))
        self._pending += head
        self._pending += body

    def _take(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.entry_bytes += len(entry[0])
        change = change_of(entry[0])
        if change is not None:
            self._changes.append((entry[1], *change))
            self._voters = self.voters(up_to=entry[1])

    def _cut(self, position: int) -> None:
        self.entry_bytes -= sum(len(e[0]) for e in self._entries[position:])
        del self._entries[position:]
        last = self._entries[-1][1] if self._entries else 0
        if self._changes and self._changes[-1][0] > last:
            self._changes = [change for change in self._changes if change[0] <= last]
            self._voters = self.voters(up_to=last)

    def _reset(self, index: int, term: int) -> None:
        self._record(_ENTRY.pack(b"R", index, term))
        self._cut(0)
        self._take((NO_OP, index, term))

    def _begin_behind(self, base: Entry) -> None:
        _, index, term = base
        if not self._entries or self._entries[-1][1] < index:
            self._reset(index, term)
        elif self._entries[0][1] == index + 1:
            self._entries.insert(0, base)
            self.entry_bytes += len(base[0])
        elif self._entries[0][1] > index:
            raise LogDamagedError(
                f"the log begins at {self._entries[0][1]}, its snapshot ends at {index}"
            )
        elif self.term_at(index) != term:
            self._reset(index, term)

    def _drop_segments(self, index: int) -> None:
        while len(self._segments) > 1 and self._segments[0].index_max <= index:
            self._disk.remove(self._segments.pop(0).name)

    def _load(self) -> None:
        numbers = sorted(
            int(name.removeprefix(SEGMENT_PREFIX))
            for name in self._disk.names()
            if name.startswith(SEGMENT_PREFIX) and name.removeprefix(SEGMENT_PREFIX).isdigit()
        )
        # Older ones that were removed, and came back in a crash, have a gap behind them.
        whole = [n for n in numbers if set(range(n, numbers[-1] + 1)) <= set(numbers)]
        for number in set(numbers) - set(whole):
            self._disk.remove(f"{SEGMENT_PREFIX}{number:08d}")
        self.synced = max(self.synced, _read_synced_note(self._disk.read(SYNCED_NAME)))
        for number in whole:
            self._load_segment(number, is_last=number == whole[-1])
        last = self._segments[-1] if self._segments else _Segment(0, 0, 0, 0, 0)
        self._check_synced(last)
        self.synced = (last.number, last.frames)
        self._vote_written = _vote_payload(self._term, self._voted_for)

    def _load_segment(self, number: int, *, is_last: bool) -> None:
        segment = _Segment(number, 0, 0, 0, 0)
        data = self._disk.read(segment.name) or b""
        if len(data) < _HEADER.size:
            raise LogDamagedError(f"{segment.name} is too short")
        magic, segment.salt, crc = _HEADER.unpack_from(data)
        if crc != zlib.crc32(magic, segment.salt):
            raise LogDamagedError(f"{segment.name} has a wrong header")
        if magic != MAGIC:
            raise of_another_release(segment.name)
        offset = settled = _HEADER.size
        while offset < len(data):
            records = _records_at(data, offset, segment.salt, segment.frames)
            if records is None:
                self._cut_tail(segment, data, offset, is_last=is_last)
                break
            for payload in _payloads(records):
                self._replay(payload, segment)
            offset += _FRAME.size + len(records)
            segment.frames += 1
            if (number, segment.frames) <= self.synced:
                settled = offset
        if is_last and (number, segment.frames) > self.synced:
            # A process that ended before its sync, or after one that failed, left what is here.
            self._disk.settle(segment.name, settled)
        segment.size_bytes = offset
        self._segments.append(segment)

    def _cut_tail(self, segment: _Segment, data: bytes, offset: int, *, is_last: bool) -> None:
        # The first frame was synced with the file's name.
        if not is_last or segment.frames == 0 or _frame_behind(data, offset, segment):
            raise LogDamagedError(f"{segment.name} is broken at byte {offset}")
        self._check_synced(segment)
        log.warning(
            "journal tail cut",
            extra={"segment": segment.name, "offset": offset, "lost_bytes": len(data) - offset},
        )
        self._disk.truncate(segment.name, offset)

    def _check_synced(self, last: _Segment) -> None:
        # What was synced was acknowledged, perhaps: it may be cut by damage only.
        if (last.number, last.frames) < self.synced:
            number, frames = self.synced
            raise LogDamagedError(
                f"the journal ends with frame {last.frames} of segment {last.number}, and was "
                f"synced up to frame {frames} of segment {number}"
            )

    def _replay(self, payload: bytes, segment: _Segment) -> None:
        kind = payload[:1]
        if kind == b"E":
            _, index, term = _ENTRY.unpack_from(payload)
            if self._entries and index != self._entries[-1][1] + 1:
                raise LogDamagedError(f"{segment.name} goes from {self._entries[-1][1]} to {index}")
            self._take((payload[_ENTRY.size :], index, term))
            segment.index_max = max(segment.index_max, index)
        elif kind == b"T":
            _, index = _TRUNCATE.unpack(payload)
            if self._entries:
                self._cut(max(0, index - self.first_index))
        elif kind == b"R":
            _, index, term = _ENTRY.unpack(payload)
            self._cut(0)
            self._take((NO_OP, index, term))
        else:
            _, self._term = _VOTE.unpack_from(payload)
            self._voted_for = payload[_VOTE.size :].decode() or None


def _vote_payload(term: int, voted_for: str | None) -> bytes:
    return _VOTE.pack(b"V", term) + (voted_for or "").encode()


def _synced_note(number: int, frames: int) -> bytes:
    position = _SYNCED.pack(number, frames)
    return position + _LENGTH.pack(zlib.crc32(position))


def _read_synced_note(data: bytes | None) -> tuple[int, int]:
    """Segment and frames that were synced for sure; zeros where nobody knows."""
    if data is None or len(data) < _SYNCED.size:
        return 0, 0
    number, frames = _SYNCED.unpack_from(data)
    return (number, frames) if data == _synced_note(number, frames) else (0, 0)


def _frame(segment: _Segment, records: bytes) -> bytes:
    crc = _crc(segment.salt, segment.frames, records)
    framed = _FRAME.pack(len(records), crc, segment.frames) + records
    segment.frames += 1
    return framed


def _header(salt: int) -> bytes:
    return _HEADER.pack(MAGIC, salt, zlib.crc32(MAGIC, salt))


def _frame_behind(data: bytes, offset: int, segment: _Segment) -> bool:
    """Whether a whole frame follows a broken one."""
    for number in range(segment.frames + 1, segment.frames + FRAMES_SEARCHED):
        at = data.find(_NUMBER.pack(number), offset)
        while at >= 0:
            if _records_at(data, at - _FRAME.size + _NUMBER.size, segment.salt, number):
                return True
            at = data.find(_NUMBER.pack(number), at + 1)
    return False


def _crc(salt: int, number: int, records: bytes) -> int:
    return zlib.crc32(records, zlib.crc32(number.to_bytes(8, "little"), salt))


def _records_at(data: bytes, offset: int, salt: int, number: int) -> bytes | None:
    """The records of the frame at `offset`, if it is whole and has this number."""
    if offset + _FRAME.size > len(data):
        return None
    length, crc, found = _FRAME.unpack_from(data, offset)
    end = offset + _FRAME.size + length
    if length == 0 or end > len(data) or found != number:
        return None
    records = data[offset + _FRAME.size : end]
    return records if _crc(salt, number, records) == crc else None


def _payloads(records: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(records):
        (length,) = _LENGTH.unpack_from(records, offset)
        offset += _LENGTH.size
        yield records[offset : offset + length]
        offset += length

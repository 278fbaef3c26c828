"""The durable log: entries, term and vote, in segments that are only ever appended to.

Nothing is written when PySyncObj calls: records gather in memory, and `write_and_sync` writes
them, in a thread, before any message or answer that depends on them is sent (raft hazard H7).
"""

import logging
import secrets
from dataclasses import dataclass
from typing import Final, overload

from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.segments import (
    ENTRY,
    FRAME_HEAD_BYTES,
    LENGTH,
    SEGMENT_PREFIX,
    SYNCED_NAME,
    TRUNCATE,
    VOTE,
    Segment,
    header,
    next_frame,
    payloads,
    read_header,
    read_synced_note,
    records_at,
    synced_note,
    vote_payload,
    whole_frame_follows,
)
from ipfs_cluster_node.core.ids import VoterId

log = logging.getLogger(__name__)

SEGMENT_BYTES_MAX: Final = 64 * 1024 * 1024
NO_OP: Final = b"\x01"
MEMBERSHIP: Final = b"\x02"
REGULAR: Final = b"\x00"

Entry = tuple[bytes, int, int]
"""Command with its type byte, index, term: as PySyncObj has it."""


def change_of(command: bytes) -> tuple[str, VoterId] | None:
    """Read a configuration entry: `("add" | "rem", voter)`; None for any other command."""
    if command[:1] != MEMBERSHIP:
        return None
    operation, _, voter = command[1:].decode("ascii").partition(" ")
    return operation, VoterId(voter)


@dataclass(frozen=True, slots=True)
class Pending:
    """Records that wait to be written, as one frame."""

    records: bytes
    index_max: int
    vote: bytes
    """Term and vote as of before them, for the head of a new segment."""


class SegmentedJournal:
    """The log on disk, and all of it in memory.

    Entry 0 of the list is the one before the log's first: an entry that a snapshot covers, or the
    first no-op. The configuration (who votes) changes as entries are added and cut, since it holds
    from its entry on, committed or not.
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
        """Open the log, or create it, after `base`, which the snapshot covers, as its voters do.

        `synced_at_least` is `synced` of an earlier journal on the same disk.

        Raises:
            LogDamagedError: It exists and is not whole.
        """
        self._disk = disk
        self._base_voters = base_voters
        self._segment_bytes_max = segment_bytes_max
        self._entries: list[Entry] = []
        self._changes: list[tuple[int, str, VoterId]] = []
        """The configuration entries of the log: index, operation, voter."""
        self._voters = base_voters
        """The result of `voters()`, cached, since each step needs it several times."""
        self._term = 0
        self._voted_for: str | None = None
        self._vote_written = vote_payload(0, None)
        self._pending = bytearray()
        self._pending_index_max = 0
        self.entry_bytes = 0
        """Bytes of all commands in the log."""
        self._segments: list[Segment] = []
        self.synced = synced_at_least
        """The last segment, and how many of its frames are durable; nothing after them is."""
        self._load()
        self._begin_behind(base)
        self.write_and_sync(self.take_pending())

    # What PySyncObj calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self._take((command, idx, term))
        self._pending_index_max = max(self._pending_index_max, idx)
        self._record(ENTRY.pack(b"E", idx, term), command)

    def clear(self) -> None:
        """Never called: `rebase` is (hazard H18)."""
        raise AssertionError("PySyncObj's own snapshots are off")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut everything from this position of the list on."""
        if entryFrom < len(self._entries):
            self._record(TRUNCATE.pack(b"T", self._entries[entryFrom][1]))
            self._cut(entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Never called: `trim` is, once a snapshot is durable (hazards H8, H18)."""
        raise AssertionError("PySyncObj's own compaction is off")

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        """Entries by position in the list."""
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None:
        self._disk.close()

    def onOneSecondTimer(self) -> None:
        """Nothing to do: the disk is written in steps."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Ignored: the commit index is learned again after a start (hazard H7)."""

    def getRaftCommitIndex(self) -> int:
        """The index that is certainly committed: that of the snapshot."""
        return self._entries[0][1]

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Note term and vote."""
        self._term, self._voted_for = term, votedForNodeId
        self._record(vote_payload(term, votedForNodeId))

    def getCurrentTerm(self) -> int:
        """The term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """The voter that got this node's vote in the term."""
        return self._voted_for

    # What the engine calls.

    @property
    def first_index(self) -> int:
        """Index of the entry before the log's first."""
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
        """The voters by the configuration entries up to an index, by default all."""
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
        """Take the records to write; the caller passes them to `write_and_sync`."""
        pending = Pending(bytes(self._pending), self._pending_index_max, self._vote_written)
        self._pending.clear()
        self._pending_index_max = 0
        self._vote_written = vote_payload(self._term, self._voted_for)
        return pending

    def write_and_sync(self, pending: Pending) -> None:
        """Write and sync; blocks, may run in a thread. After an OSError open the log again."""
        if not pending.records and self._segments:
            return
        active = self._segments[-1] if self._segments else None
        if active is None or active.size_bytes >= self._segment_bytes_max:
            number = 1 if active is None else active.number + 1
            new = Segment(number, secrets.randbits(32), 0, 0, 0)
            head = LENGTH.pack(len(pending.vote)) + pending.vote
            data = header(new.salt) + next_frame(new, head)
            self._disk.replace(new.name, [data])
            new.size_bytes = len(data)
            self._segments.append(new)
            active = new
            self.synced = (active.number, active.frames)
        if pending.records:
            data = next_frame(active, pending.records)
            self._disk.append(active.name, data)
            self._disk.sync(active.name)
            active.size_bytes += len(data)
            active.index_max = max(active.index_max, pending.index_max)
            self.synced = (active.number, active.frames)
        self._disk.note(SYNCED_NAME, synced_note(*self.synced))

    def probe(self) -> None:
        """Write term and vote again, and sync, to see that the disk works after an outage."""
        self.setCurrentTerm(self._term, self._voted_for)
        self.write_and_sync(self.take_pending())

    def trim(self, index: int, voters: frozenset[VoterId]) -> None:
        """Drop the entries up to `index`, which a durable snapshot covers; blocks a little.

        Segments without an entry above it are removed. `voters` is the configuration at `index`.
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
        """Let the log begin after an installed snapshot, which is durable.

        Entries above it stay if the log has an entry of that term at `index` (hazard H18).
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
        self._pending += LENGTH.pack(len(head) + len(body))
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
        self._record(ENTRY.pack(b"R", index, term))
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
        # Removed segments that came back in a crash have a gap behind them.
        whole = [n for n in numbers if set(range(n, numbers[-1] + 1)) <= set(numbers)]
        for number in set(numbers) - set(whole):
            self._disk.remove(f"{SEGMENT_PREFIX}{number:08d}")
        self.synced = max(self.synced, read_synced_note(self._disk.read(SYNCED_NAME)))
        for number in whole:
            self._load_segment(number, is_last=number == whole[-1])
        last = self._segments[-1] if self._segments else Segment(0, 0, 0, 0, 0)
        self._check_synced(last)
        self.synced = (last.number, last.frames)
        self._vote_written = vote_payload(self._term, self._voted_for)

    def _load_segment(self, number: int, *, is_last: bool) -> None:
        segment = Segment(number, 0, 0, 0, 0)
        data = self._disk.read(segment.name) or b""
        segment.salt, offset = read_header(segment.name, data)
        settled = offset
        while offset < len(data):
            records = records_at(data, offset, segment.salt, segment.frames)
            if records is None:
                self._cut_tail(segment, data, offset, is_last=is_last)
                break
            for payload in payloads(records):
                self._replay(payload, segment)
            offset += FRAME_HEAD_BYTES + len(records)
            segment.frames += 1
            if (number, segment.frames) <= self.synced:
                settled = offset
        if is_last and (number, segment.frames) > self.synced:
            # Left by a process that ended before its sync, or after one that failed.
            self._disk.settle(segment.name, settled)
        segment.size_bytes = offset
        self._segments.append(segment)

    def _cut_tail(self, segment: Segment, data: bytes, offset: int, *, is_last: bool) -> None:
        # The first frame was synced with the file's name.
        if not is_last or segment.frames == 0 or whole_frame_follows(data, offset, segment):
            raise LogDamagedError(f"{segment.name} is broken at byte {offset}")
        self._check_synced(segment)
        log.warning(
            "journal tail cut",
            extra={"segment": segment.name, "offset": offset, "lost_bytes": len(data) - offset},
        )
        self._disk.truncate(segment.name, offset)

    def _check_synced(self, last: Segment) -> None:
        # What was synced may have been acknowledged: only damage can have cut it.
        if (last.number, last.frames) < self.synced:
            number, frames = self.synced
            raise LogDamagedError(
                f"the journal ends with frame {last.frames} of segment {last.number}, and was "
                f"synced up to frame {frames} of segment {number}"
            )

    def _replay(self, payload: bytes, segment: Segment) -> None:
        kind = payload[:1]
        if kind == b"E":
            _, index, term = ENTRY.unpack_from(payload)
            if self._entries and index != self._entries[-1][1] + 1:
                raise LogDamagedError(f"{segment.name} goes from {self._entries[-1][1]} to {index}")
            self._take((payload[ENTRY.size :], index, term))
            segment.index_max = max(segment.index_max, index)
        elif kind == b"T":
            _, index = TRUNCATE.unpack(payload)
            if self._entries:
                self._cut(max(0, index - self.first_index))
        elif kind == b"R":
            _, index, term = ENTRY.unpack(payload)
            self._cut(0)
            self._take((NO_OP, index, term))
        else:
            _, self._term = VOTE.unpack_from(payload)
            self._voted_for = payload[VOTE.size :].decode() or None

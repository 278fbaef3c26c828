"""The durable log: entries, term and vote, in one append-only file of checked records.

File: a header `ICNRAFT1`, then records of `length u32 | crc32 u32 | payload`, little endian, the
CRC over the payload. Payloads: `E index u64 term u64 command`, `T from_index u64` (all entries
from there on are void), `V term u64 voted_for` (term and vote). A rewrite makes a new file and
renames it. A torn tail, which no answer can have depended on, is cut at open; a damaged record
with whole ones behind it is refused.

Nothing is written when PySyncObj calls: records gather in memory, and `sync` writes and syncs them
together, in a thread, before any message or answer that depends on them leaves (raft hazard H7).
"""

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Final, overload

from pysyncobj.journal import Journal

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId

log = logging.getLogger(__name__)

MAGIC: Final = b"ICNRAFT1"
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024
NO_OP: Final = b"\x01"
MEMBERSHIP: Final = b"\x02"
REGULAR: Final = b"\x00"

Entry = tuple[bytes, int, int]
"""Command with its type byte, index, term: as PySyncObj has it."""

_FRAME: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<cQQ")
_TRUNCATE: Final = struct.Struct("<cQ")
_VOTE: Final = struct.Struct("<cQ")


def fsync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a short write is followed up."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def change_of(command: bytes) -> tuple[str, VoterId] | None:
    """Read a configuration entry: `("add" | "rem", voter)`; None for any other command."""
    if command[:1] != MEMBERSHIP:
        return None
    operation, _, voter = command[1:].decode("ascii").partition(" ")
    return operation, VoterId(voter)


class FileJournal(Journal):  # type: ignore[misc]  # PySyncObj has no types.
    """The log on disk, and whole in memory.

    Entry 0 of the list is the one the log begins behind: the last that a snapshot covers, or the
    first no-op. The configuration (who votes) follows the entries as they are added and cut, since
    a configuration holds from its entry on, committed or not.
    """

    def __init__(
        self, path: Path, *, base: Entry = (NO_OP, 1, 0), base_voters: frozenset[VoterId]
    ) -> None:
        """Open or make the file.

        Args:
            path: The file; made if it is not there.
            base: The entry the log begins behind, if the file has none at its index.
            base_voters: Who votes as of `base`.

        Raises:
            ClusterError: HOME_DAMAGED, if records behind a damaged one are whole.
        """
        self._path = path
        self._base_voters = base_voters
        self._entries: list[Entry] = []
        self._term = 0
        self._voted_for: str | None = None
        self._pending = bytearray()
        self.entry_bytes = 0
        """Bytes of all commands in the log."""
        self._file = -1
        self._load()
        self._begin_behind(base)
        if self._file < 0:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    # What PySyncObj calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self._entries.append((command, idx, term))
        self.entry_bytes += len(command)
        self._record(_ENTRY.pack(b"E", idx, term) + command)

    def clear(self) -> None:
        """Drop every entry; `rebase` follows."""
        self._entries.clear()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut everything from this position of the list on."""
        if entryFrom < len(self._entries):
            self._record(_TRUNCATE.pack(b"T", self._entries[entryFrom][1]))
            self.entry_bytes -= sum(len(e[0]) for e in self._entries[entryFrom:])
            del self._entries[entryFrom:]

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
        self.close()

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Ignored: the commit index is learned again after a start (H7)."""

    def getRaftCommitIndex(self) -> int:
        """What is certainly committed: what the snapshot covers."""
        return self._entries[0][1]

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Note term and vote."""
        self._term, self._voted_for = term, votedForNodeId
        self._record(_VOTE.pack(b"V", term) + (votedForNodeId or "").encode())

    def getCurrentTerm(self) -> int:
        """The term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Who got this node's vote in the term."""
        return self._voted_for

    # What the replica calls.

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
        voters = set(self._base_voters)
        for command, index, _ in self._entries[1:]:
            if up_to is not None and index > up_to:
                break
            change = change_of(command)
            if change is not None:
                (voters.add if change[0] == "add" else voters.discard)(change[1])
        return frozenset(voters)

    def last_change_index(self) -> int:
        """Index of the last configuration entry in the log; 0 if there is none."""
        return next((i for c, i, _ in reversed(self._entries[1:]) if c[:1] == MEMBERSHIP), 0)

    @property
    def dirty(self) -> bool:
        """Whether there is something to sync."""
        return bool(self._pending)

    def take_pending(self) -> bytes:
        """Take what is to be written; the caller gives it to `write_and_sync`."""
        pending = bytes(self._pending)
        self._pending.clear()
        return pending

    def write_and_sync(self, records: bytes) -> None:
        """Write and sync; runs in a thread. After an error the journal must not be used again."""
        write_all(self._file, records)
        os.fdatasync(self._file)

    def trim(self, index: int, voters: frozenset[VoterId]) -> None:
        """Let the log begin behind `index`, which a durable snapshot covers; blocks.

        `voters` is the configuration as of `index`.
        """
        position = index - self.first_index
        if position <= 0:
            return
        self._rewrite(self._entries[position:], voters)

    def rebase(self, index: int, term: int, voters: frozenset[VoterId]) -> None:
        """Let the log begin behind an installed snapshot; blocks.

        Entries above it stay if the log agrees with it at `index` (H18).
        """
        if self.term_at(index) == term:
            self.trim(index, voters)
        else:
            self._rewrite([(NO_OP, index, term)], voters)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # Files.

    def _record(self, payload: bytes) -> None:
        self._pending += _frame(payload)

    def _begin_behind(self, base: Entry) -> None:
        _, index, term = base
        held = self._entries and self._entries[0][1] <= index <= self._entries[-1][1]
        if held and self.term_at(index) == term:
            return
        if self._entries and not held and self._entries[-1][1] > index:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"{self._path} begins behind the snapshot at {index}; remove this node and join "
                "it anew",
            )
        self._rewrite([base], self._base_voters)

    def _rewrite(self, entries: list[Entry], voters: frozenset[VoterId]) -> None:
        new = self._path.with_suffix(".new")
        records = bytearray(MAGIC)
        records += _frame(_VOTE.pack(b"V", self._term) + (self._voted_for or "").encode())
        for command, index, term in entries:
            records += _frame(_ENTRY.pack(b"E", index, term) + command)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, bytes(records))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.rename(self._path)
        fsync_directory(self._path.parent)
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._entries = list(entries)
        self.entry_bytes = sum(len(e[0]) for e in entries)
        self._base_voters = voters
        self._pending.clear()  # All of it is in the new file.

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        if data[: len(MAGIC)] != MAGIC:
            if len(data) <= len(MAGIC):
                return  # The first write was cut off; nothing was answered yet.
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"{self._path} is no journal of this release; remove this node and join it anew",
            )
        offset = len(MAGIC)
        while offset < len(data):
            payload = _payload_at(data, offset)
            if payload is None:
                self._cut_tail(data, offset)
                return
            self._replay(payload)
            offset += _FRAME.size + len(payload)

    def _cut_tail(self, data: bytes, offset: int) -> None:
        # A torn write leaves nothing whole behind it; a flipped bit does.
        for later in range(offset + 1, min(len(data), offset + RECORD_BYTES_MAX)):
            found = _payload_at(data, later)
            if found and found[:1] in b"ETV" and len(found) >= _VOTE.size:
                raise ClusterError(
                    Reason.HOME_DAMAGED,
                    f"{self._path} is damaged at byte {offset}; remove this node and join it anew",
                )
        log.warning(
            "journal tail cut",
            extra={"path": str(self._path), "offset": offset, "lost_bytes": len(data) - offset},
        )
        os.truncate(self._path, offset)

    def _replay(self, payload: bytes) -> None:
        kind = payload[:1]
        if kind == b"E":
            _, index, term = _ENTRY.unpack_from(payload)
            self._entries.append((payload[_ENTRY.size :], index, term))
            self.entry_bytes += len(payload) - _ENTRY.size
        elif kind == b"T":
            _, index = _TRUNCATE.unpack(payload)
            del self._entries[max(0, index - self.first_index) :]
        else:
            _, self._term = _VOTE.unpack_from(payload)
            self._voted_for = payload[_VOTE.size :].decode() or None


def _frame(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _payload_at(data: bytes, offset: int) -> bytes | None:
    if offset + _FRAME.size > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, offset)
    end = offset + _FRAME.size + length
    if not 0 < length <= RECORD_BYTES_MAX or end > len(data):
        return None
    payload = data[offset + _FRAME.size : end]
    return payload if zlib.crc32(payload) == crc else None

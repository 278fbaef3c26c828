"""How far each voter's log is known to go: one that comes back with less is noticed.

A directory restored from an old copy, or a machine restored to an old state, looks like a voter
that is a little behind. It would vote, and count, without entries that it acknowledged before;
where the other voters that have them are gone, acknowledged writes would be lost (raft hazard
H26).

Two things never shrink under one voter's name: the committed entries that it holds, and its term.
So each voter remembers, for each other one, a `Mark`: the highest committed entry that it
acknowledged, or sent as the leader, and the highest term of its messages. A voter that connects
says how far its log goes, and is refused if that falls short. Entries beyond the mark may disappear
legally: a new leader replaces those that were never committed.
"""

import logging
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk, Disk
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

NOTE_NAME: Final = "log-marks"
"""Not in the log's directory, so that an old copy of that alone is noticed at once."""
NOTE_SECONDS: Final = 0.1
"""Shortest time between two notes."""
SYNC_SECONDS: Final = 5.0
"""Longest time for which a power cut may lose notes."""
NUMBER_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a voter's log goes."""

    index: int = 0
    """Index of a committed entry; in a claim, of the last entry."""
    entry_term: int = 0
    term: int = 0
    """The newest term that the voter took part in."""

    def falls_short_of(self, known: "Mark") -> bool:
        """Whether a log that ends here can't be the one that `known` describes.

        A log that holds the committed entry goes at least as far, and the term of its last entry is
        at least as new: a longer log with an older last term is another one.
        """
        return (
            self.index < known.index or self.entry_term < known.entry_term or self.term < known.term
        )

    def __str__(self) -> str:
        return f"entry {self.index} of term {self.entry_term}, term {self.term}"


UNSEEN: Final = Mark()


class Witness:
    """What this voter knows of the others, and has noted of itself."""

    def __init__(self, notes: Disk | None = None) -> None:
        """Begin with what was noted, if there is a disk for notes."""
        self._notes = notes
        self._marks: dict[VoterId, Mark] = {} if notes is None else _read(notes.read(NOTE_NAME))
        self._noted = dict(self._marks)
        self._noted_at = self._synced_at = float("-inf")

    def of(self, voter: VoterId) -> Mark:
        """How far a voter's log is known to go."""
        return self._marks.get(voter, UNSEEN)

    def saw_entry(self, voter: VoterId, index: int, entry_term: int | None) -> None:
        """Note that a voter has a committed entry; ignored if the entry's term is unknown."""
        known = self._marks.get(voter, UNSEEN)
        if entry_term is not None and index > known.index:
            self._marks[voter] = Mark(index, entry_term, known.term)

    def saw_term(self, voter: VoterId, term: int) -> None:
        """Note that a voter sent a message of a term."""
        known = self._marks.get(voter, UNSEEN)
        if term > known.term:
            self._marks[voter] = Mark(known.index, known.entry_term, term)

    def learn(self, marks: Iterable[tuple[VoterId, Mark]]) -> None:
        """Note the marks of voters that a leader sends."""
        for voter, mark in marks:
            self.saw_entry(voter, mark.index, mark.entry_term)
            self.saw_term(voter, mark.term)

    def marks(self, voters: Iterable[VoterId]) -> list[pb.VoterMark]:
        """The marks of these voters, as far as they are known."""
        return [
            mark_to_proto(voter, self._marks[voter]) for voter in voters if voter in self._marks
        ]

    # Kept across restarts.

    def may_note(self, now: float) -> bool:
        """Whether the last note is old enough."""
        return self._notes is not None and now - self._noted_at >= NOTE_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether the last note is old enough, and the marks have changed since."""
        return self.may_note(now) and self._marks != self._noted

    def note(self, voters: Iterable[VoterId], now: float) -> "Note | None":
        """The note of these voters' marks; those of others are forgotten."""
        if self._notes is None:
            return None
        kept = set(voters)
        self._marks = {voter: mark for voter, mark in self._marks.items() if voter in kept}
        self._noted = dict(self._marks)
        self._noted_at = now
        syncs = now - self._synced_at >= SYNC_SECONDS
        if syncs:
            self._synced_at = now
        return Note(self._notes, _encode(self._noted), syncs)


def open_notes(directory: Path) -> DirectoryDisk:
    """Open the directory of the note; a note that can't be read is set aside.

    It is only a guard: without it the node runs as if nothing had been noted.

    Raises:
        OSError: It can't be set aside.
    """
    notes = DirectoryDisk(directory)
    try:
        notes.read(NOTE_NAME)
    except OSError as error:
        aside = directory / f"{NOTE_NAME}.unreadable-{secrets.token_hex(4)}"
        (directory / NOTE_NAME).rename(aside)
        log.warning(
            "note of how far voters came is unreadable; set aside",
            extra={"path": str(aside), "error": repr(error)},
        )
    return notes


@dataclass(frozen=True, slots=True)
class Note:
    """Marks to be written, after the log that they describe."""

    disk: Disk
    data: bytes
    syncs: bool

    def write(self) -> None:
        """Write it; blocks, and may raise OSError."""
        self.disk.note(NOTE_NAME, self.data)
        if self.syncs:
            self.disk.sync(NOTE_NAME)


def mark_to_proto(voter: VoterId, mark: Mark) -> pb.VoterMark:
    """Encode a voter's mark."""
    return pb.VoterMark(voter=voter, index=mark.index, entry_term=mark.entry_term, term=mark.term)


def mark_from_proto(message: pb.VoterMark) -> Mark:
    """Decode a voter's mark."""
    return Mark(index=message.index, entry_term=message.entry_term, term=message.term)


def _encode(marks: dict[VoterId, Mark]) -> bytes:
    # The end of an older, longer note may follow it, and a crash may tear it.
    data = pb.AppendEntries(
        marks=[mark_to_proto(voter, mark) for voter, mark in sorted(marks.items())]
    ).SerializeToString()
    head = len(data).to_bytes(NUMBER_BYTES, "little")
    return head + zlib.crc32(data, zlib.crc32(head)).to_bytes(NUMBER_BYTES, "little") + data


def _read(note: bytes | None) -> dict[VoterId, Mark]:
    """The noted marks; none if the note is not whole, since it is only a guard."""
    note = note or b""
    head, crc, rest = (
        note[:NUMBER_BYTES],
        note[NUMBER_BYTES : 2 * NUMBER_BYTES],
        note[2 * NUMBER_BYTES :],
    )
    data = rest[: int.from_bytes(head, "little")]
    if zlib.crc32(data, zlib.crc32(head)).to_bytes(NUMBER_BYTES, "little") != crc:
        return {}
    try:
        marks = pb.AppendEntries.FromString(data).marks
    except DecodeError:
        return {}
    return {VoterId(mark.voter): mark_from_proto(mark) for mark in marks}

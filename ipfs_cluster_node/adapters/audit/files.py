"""The audit log of one node: lines of JSON in rotating files, written by a thread.

Allowed calls have two files of their own, so that a caller without permissions can't push them out.
Denials and failed joins have two smaller ones, and repeats are counted.

A line is escaped JSON, so nothing that a caller sends starts a new one. A call never waits for the
disk; records that come too fast are dropped, and their number is recorded. After a crash the last
moment's records may be missing, and a torn line is skipped.
"""

import asyncio
import errno
import heapq
import json
import logging
import math
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.config.files import open_regular, read_regular
from ipfs_cluster_node.core.audit import (
    ARGUMENTS_MAX,
    FIELD_CHARS_MAX,
    AuditObjectKind,
    AuditQuery,
    AuditRecord,
    Outcome,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of each of the two files of allowed calls; some 50,000 records."""
DENIED_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of each of the two files of denials."""
REPEATS_SECONDS: Final = 10.0
"""For so long after a denial, further ones of the same caller and method are only counted."""
REPEATS_MAX: Final = 1024
"""Pairs of caller and method counted at once; beyond that the oldest are written early."""
JOINER_CLASS: Final = "joiner"
WAITING_MAX: Final = 10_000
"""Records waiting to be written, of each kind; further ones are counted and dropped."""
CIDS_MAX: Final = 8
INTERVAL_SECONDS: Final = 0.2
STOP_SECONDS_MAX: Final = 5.0

_FIELDS: Final = frozenset(AuditRecord._fields)
_QUOTE: Final = json.encoder.encode_basestring_ascii
REPEATED: Final = slice(1, 1 + AuditRecord._fields.index("delegation_cids"))
"""The fields from `caller` to `delegation_cids`, which a caller's calls of a method share."""
BEGINNINGS_MAX: Final = 2048
"""Cached beginnings of lines, one per caller, method and connection."""


class _Turns:
    """Two rotating files, and the records waiting to be written to them."""

    def __init__(self, path: Path, bytes_max: int, has_room: Callable[[], bool]) -> None:
        self.path = path
        self._has_room = has_room
        self.old = path.with_suffix(f"{path.suffix}.1")
        self.bytes_max = bytes_max
        self.waiting: deque[AuditRecord] = deque()
        self.lost = 0

    def add(self, record: AuditRecord) -> None:
        if len(self.waiting) >= WAITING_MAX:
            self.lost += 1
        else:
            self.waiting.append(record)

    def take(self) -> list[AuditRecord]:
        """Take all waiting records, with one on how many were lost."""
        records = [self.waiting.popleft() for _ in range(len(self.waiting))]
        lost, self.lost = self.lost, 0
        if lost:
            records.append(_lost(lost, records[-1].at_ms if records else 0))
        return records

    def append(self, lines: Sequence[str]) -> None:
        data = "".join(lines).encode("ascii")
        try:
            if not self._has_room():
                raise OSError(errno.ENOSPC, "the free space is reserved for the log")
            self._append(data)
        except OSError as error:
            # The node continues: its log reports it, and so does the next record written.
            log.critical("audit log can't be written", extra={"error": repr(error)})
            self.lost += len(lines)

    def _append(self, data: bytes) -> None:
        descriptor = open_regular(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # A torn line ends here.
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        if size + len(data) >= self.bytes_max:
            self.path.replace(self.old)

    def check(self) -> None:
        for path in (self.path, self.old):
            if path.exists() and not (path.is_file() and os.access(path, os.R_OK)):
                raise ClusterError(
                    Reason.HOME_DAMAGED,
                    f"{path} is not a readable file; move it away, and start again",
                )

    def newest_first(self) -> Iterator[AuditRecord]:
        for path in (self.path, self.old):
            try:
                lines = read_regular(path).splitlines()
            except FileNotFoundError:
                continue
            for line in reversed(lines):
                record = _parsed(line)
                if record is not None:
                    yield record


class _Repeats:
    """Denials per caller and method: the first is written, further ones soon after are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: OrderedDict[tuple[str, str], tuple[float, int, AuditRecord]] = OrderedDict()
        """Start time, number after the first, and the last record."""

    def note(self, record: AuditRecord, now: float) -> list[AuditRecord]:
        """Note one; returns the records to write."""
        # Without a DID the caller is unknown: count by address.
        key = (record.caller or record.peer.rpartition(":")[0], record.method)
        with self._lock:
            known = self._counted.get(key)
            if known is not None and now - known[0] < REPEATS_SECONDS:
                self._counted[key] = (known[0], known[1] + 1, record)
                return []
            written = [] if known is None else self._record_of(*self._counted.pop(key)[1:])
            self._counted[key] = (now, 0, record)
            if len(self._counted) > REPEATS_MAX:
                written += self._record_of(*self._counted.popitem(last=False)[1][1:])
        return [*written, record]

    def over(self, now: float) -> list[AuditRecord]:
        """Return the counts whose time is over."""
        written: list[AuditRecord] = []
        with self._lock:
            while self._counted:
                key, (since, count, last) = next(iter(self._counted.items()))
                if now - since < REPEATS_SECONDS:
                    break
                del self._counted[key]
                written += self._record_of(count, last)
        return written

    @staticmethod
    def _record_of(count: int, last: AuditRecord) -> list[AuditRecord]:
        if count < 2:
            return [last] * count
        more = f" (and {count - 1} more within {REPEATS_SECONDS:.0f} s)"
        return [last._replace(reason=last.reason[: FIELD_CHARS_MAX - len(more)] + more)]


class FileAuditLog:
    """An `AuditLog` on disk."""

    def __init__(
        self, path: Path, has_room: Callable[[], bool] = lambda: True, *, clock: Clock
    ) -> None:
        """Append to the existing files at `path` and beside it; nothing is written before `start`.

        While the disk has no room, by `has_room`, records are counted and dropped.

        Raises:
            ClusterError: HOME_DAMAGED, if an existing file can't be read.
        """
        denied = path.with_stem(f"{path.stem}-denied")
        self._changes = _Turns(path, FILE_BYTES_MAX, has_room)
        self._denials = _Turns(denied, DENIED_FILE_BYTES_MAX, has_room)
        self._repeats = _Repeats()
        self._monotonic = clock.monotonic
        self._stopping = threading.Event()
        self._files = threading.Lock()
        """Held while files are written, rotated or read."""
        for turns in self._both:
            turns.check()
        self._sequence = next((record.sequence for record in self._newest_first()), 0)
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def record(self, record: AuditRecord) -> None:
        """Note a call. Neither waits nor raises."""
        if record.outcome is Outcome.ALLOWED or not _is_anybodys(record):
            self._changes.add(record)
        else:
            for each in self._repeats.note(record, self._monotonic()):
                self._denials.add(each)

    async def read(self, query: AuditQuery) -> Sequence[AuditRecord]:
        """The newest matching records, newest first; waiting records are written before."""
        return await asyncio.to_thread(self._read, query)

    async def stop(self) -> None:
        """Write the waiting records, and stop."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_SECONDS_MAX)

    def _work(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._write_waiting(self._monotonic())
        self._write_waiting(math.inf)

    def _write_waiting(self, now: float) -> None:
        with self._files:
            for record in self._repeats.over(now):
                self._denials.add(record)
            taken = [(record, turns) for turns in self._both for record in turns.take()]
            # Numbered by time, so that pages over both kinds, which go by number, are in order.
            taken.sort(key=lambda each: each[0].at_ms)
            lines: dict[_Turns, list[str]] = {turns: [] for turns in self._both}
            for record, turns in taken:
                self._sequence += 1
                lines[turns].append(_line(record, self._sequence))
            for turns, own in lines.items():
                if own:
                    turns.append(own)

    def _read(self, query: AuditQuery) -> list[AuditRecord]:
        if self._thread.is_alive():
            self._write_waiting(self._monotonic())
        found: list[AuditRecord] = []
        with self._files:
            for record in self._newest_first():
                if query.wants(record):
                    found.append(record)
                    if len(found) == query.size:
                        break
        return found

    @property
    def _both(self) -> tuple[_Turns, _Turns]:
        return self._changes, self._denials

    def _newest_first(self) -> Iterator[AuditRecord]:
        return heapq.merge(
            *(turns.newest_first() for turns in self._both),
            key=lambda record: record.sequence,
            reverse=True,
        )


def _is_anybodys(record: AuditRecord) -> bool:
    """Whether a caller without any permission can cause any number of these."""
    return record.outcome is Outcome.DENIED or (
        record.outcome is Outcome.FAILED and record.caller_class == JOINER_CLASS
    )


def _lost(count: int, at_ms: int) -> AuditRecord:
    return AuditRecord(
        at_ms=at_ms,
        caller="",
        caller_class="",
        peer="",
        method="",
        command="",
        outcome=Outcome.LOST,
        reason=f"{count} records could not be written",
    )


def _line(record: AuditRecord, sequence: int) -> str:
    """Format a line; the node's other threads wait meanwhile, so repeated parts are cached."""
    beginning = _beginning(record[REPEATED])
    line = f'{beginning},"at_ms":{record.at_ms},"sequence":{sequence}'
    if record.object_kind:
        name = _QUOTE(record.object_id[:FIELD_CHARS_MAX])
        line += f',"object_kind":"{record.object_kind.value}","object_id":{name}'
    if record.arguments:  # Not cached: those of one call are mostly not those of another.
        pairs = (
            f"{_QUOTE(name[:FIELD_CHARS_MAX])}:{_QUOTE(value[:FIELD_CHARS_MAX])}"
            for name, value in record.arguments[:ARGUMENTS_MAX]
        )
        line += f',"arguments":{{{",".join(pairs)}}}'
    if record.request_id:
        line += f',"request_id":{_QUOTE(record.request_id[:FIELD_CHARS_MAX])}'
    if record.reason:
        line += f',"reason":{_QUOTE(record.reason[:FIELD_CHARS_MAX])}'
    return line + "}\n"


@lru_cache(maxsize=BEGINNINGS_MAX)
def _beginning(repeated: tuple[Any, ...]) -> str:
    *texts, cids = repeated
    values: list[Any] = [text[:FIELD_CHARS_MAX] for text in texts]
    values.append([cid[:FIELD_CHARS_MAX] for cid in cids[:CIDS_MAX]])
    named = zip(AuditRecord._fields[REPEATED], values, strict=True)
    return json.dumps({name: value for name, value in named if value})[:-1]


def _parsed(line: bytes) -> AuditRecord | None:
    """Parse a record; None if the line is not one."""
    try:
        document: Any = json.loads(line)
        known = {name: value for name, value in document.items() if name in _FIELDS}
        kind = known.get("object_kind")
        empty = {"caller": "", "caller_class": "", "peer": "", "method": "", "command": ""}
        return AuditRecord(
            **empty
            | known
            | {
                "outcome": Outcome(known["outcome"]),
                "object_kind": AuditObjectKind(kind) if kind else None,
                "arguments": tuple(known.get("arguments", {}).items()),
                "delegation_cids": tuple(known.get("delegation_cids", ())),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None

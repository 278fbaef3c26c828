"""The audit log of one node: lines of JSON in two files that take turns, written by a thread.

A line is escaped JSON, so nothing that a caller sends begins a new one. A call never waits for the
disk; what comes faster than it is written is counted and said. After a crash the last moment's
records may be missing, and a torn line is passed over.
"""

import asyncio
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.core.audit import AuditQuery, AuditRecord, Outcome

log = logging.getLogger(__name__)

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of each of the two files; some 50,000 records."""
WAITING_MAX: Final = 10_000
"""Records that wait to be written; more are counted and lost."""
FIELD_CHARS_MAX: Final = 512
CIDS_MAX: Final = 8
INTERVAL_SECONDS: Final = 0.2
STOP_SECONDS_MAX: Final = 5.0

_FIELDS: Final = frozenset(AuditRecord._fields)
_QUOTE: Final = json.encoder.encode_basestring_ascii
BEGINNINGS_MAX: Final = 2048
"""Beginnings of lines that are kept: of as many callers, methods and connections."""


class FileAuditLog:
    """An `AuditLog` on disk."""

    def __init__(self, path: Path) -> None:
        """Go on behind what is there; nothing is written before `start`."""
        self._path = path
        self._old = path.with_suffix(f"{path.suffix}.1")
        self._waiting: deque[AuditRecord] = deque()
        self._lost = 0
        self._stopping = threading.Event()
        self._files = threading.Lock()
        """Held while files are written or take turns, and while they are read."""
        self._sequence = next((record.sequence for record in self._newest_first()), 0)
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def record(self, record: AuditRecord) -> None:
        """Note a call. Neither waits nor raises."""
        if len(self._waiting) >= WAITING_MAX:
            self._lost += 1
        else:
            self._waiting.append(record)

    async def read(self, query: AuditQuery) -> Sequence[AuditRecord]:
        """The newest records that are wanted, the newest first; what waits is written first."""
        return await asyncio.to_thread(self._read, query)

    async def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_SECONDS_MAX)

    def _work(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        with self._files:
            records = [self._waiting.popleft() for _ in range(len(self._waiting))]
            lost, self._lost = self._lost, 0
            if lost:
                at_ms = records[-1].at_ms if records else 0
                records.append(_lost(lost, at_ms))
            if not records:
                return
            lines = []
            for record in records:
                self._sequence += 1
                lines.append(_line(record, self._sequence))
            try:
                self._append("".join(lines).encode("ascii"))
            except OSError as error:
                # The node goes on: its log says so, and the next record that is written too.
                log.critical("audit log can't be written", extra={"error": repr(error)})
                self._lost += len(records)

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # A torn line ends here.
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        if size + len(data) >= FILE_BYTES_MAX:
            self._path.replace(self._old)

    def _read(self, query: AuditQuery) -> list[AuditRecord]:
        if self._thread.is_alive():
            self._write_waiting()
        found: list[AuditRecord] = []
        with self._files:
            for record in self._newest_first():
                if query.wants(record):
                    found.append(record)
                    if len(found) == query.size:
                        break
        return found

    def _newest_first(self) -> Iterator[AuditRecord]:
        for path in (self._path, self._old):
            try:
                lines = path.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            for line in reversed(lines):
                record = _parsed(line)
                if record is not None:
                    yield record


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
    """A line; the node's other threads wait while it is made, so what repeats is kept."""
    beginning = _beginning(
        record.caller,
        record.caller_class,
        record.peer,
        record.method,
        record.command,
        record.outcome,
        record.delegation_cids,
    )
    line = f'{beginning},"at_ms":{record.at_ms},"sequence":{sequence}'
    if record.request_id:
        line += f',"request_id":{_QUOTE(record.request_id[:FIELD_CHARS_MAX])}'
    if record.reason:
        line += f',"reason":{_QUOTE(record.reason[:FIELD_CHARS_MAX])}'
    return line + "}\n"


@lru_cache(maxsize=BEGINNINGS_MAX)
def _beginning(
    caller: str,
    caller_class: str,
    peer: str,
    method: str,
    command: str,
    outcome: str,
    cids: tuple[str, ...],
) -> str:
    document: dict[str, Any] = {
        "caller": caller[:FIELD_CHARS_MAX],
        "caller_class": caller_class,
        "peer": peer[:FIELD_CHARS_MAX],
        "method": method[:FIELD_CHARS_MAX],
        "command": command[:FIELD_CHARS_MAX],
        "outcome": outcome,
        "delegation_cids": [cid[:FIELD_CHARS_MAX] for cid in cids[:CIDS_MAX]],
    }
    return json.dumps({name: value for name, value in document.items() if value})[:-1]


def _parsed(line: bytes) -> AuditRecord | None:
    """A record; None for a line that is none."""
    try:
        document: Any = json.loads(line)
        known = {name: value for name, value in document.items() if name in _FIELDS}
        empty = {"caller": "", "caller_class": "", "peer": "", "method": "", "command": ""}
        return AuditRecord(
            **empty
            | known
            | {
                "outcome": Outcome(known["outcome"]),
                "delegation_cids": tuple(known.get("delegation_cids", ())),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None

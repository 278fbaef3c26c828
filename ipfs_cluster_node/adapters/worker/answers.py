"""Validates the frames that a handler's process sends.

Nothing from such a process is trusted: a handler may have written it. Every field has one type, one
range and one place, and an answer must belong to the attempt that is running; anything else is a
`ProtocolError`, after which the process is killed.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import CONTENT_TYPE_CHARS_MAX, MESSAGE_CHARS_MAX, NOTE_CHARS_MAX

FILE_CHARS_MAX: Final = 4096
NODES_REASONS: Final = frozenset({Reason.WORKER_LOST, Reason.TASK_CANCELLED, Reason.STALE_ATTEMPT})
"""Reasons that only a node may give: a lost attempt, for example, does not count as a failure."""


class ProtocolError(Exception):
    """A handler's process broke the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The attempt of a frame; the nonce distinguishes it from all others of the process."""

    task_id: str
    attempt: int
    nonce: str


@dataclass(frozen=True, slots=True)
class ProgressSaid:
    """The attempt's progress."""

    ratio: float
    note: str


@dataclass(frozen=True, slots=True)
class ResultSaid:
    """The attempt's result, as reported by its process."""

    data: bytes
    content_type: str
    file: str | None
    """A path beneath the attempt's scratch directory; not checked yet."""
    clean: bool


@dataclass(frozen=True, slots=True)
class FailureSaid:
    """The attempt's failure, as reported by its process."""

    reason: Reason
    message: str
    retryable: bool
    clean: bool


Said = ProgressSaid | ResultSaid | FailureSaid


def parse(header: bytes, body: bytes, asked: Identity) -> Said:
    """Check a frame; raises ProtocolError, if it is none of the attempt `asked`."""
    fields = _Fields(header)
    kind = fields.text("kind", 16)
    identity = Identity(
        task_id=fields.text("task_id", 256),
        attempt=fields.whole("attempt"),
        nonce=fields.text("nonce", 64),
    )
    if identity != asked:
        raise ProtocolError("it answered for another attempt")
    said: Said
    match kind:
        case "progress":
            said = ProgressSaid(fields.ratio("ratio"), fields.text("note", NOTE_CHARS_MAX))
        case "result":
            said = ResultSaid(
                body,
                fields.text("content_type", CONTENT_TYPE_CHARS_MAX),
                fields.text_or_none("file", FILE_CHARS_MAX),
                fields.flag("clean"),
            )
        case "failure":
            said = FailureSaid(
                fields.reason("reason"),
                fields.text("message", MESSAGE_CHARS_MAX),
                fields.flag("retryable"),
                fields.flag("clean"),
            )
        case _:
            raise ProtocolError("it sent a frame of an unknown kind")
    fields.end()
    if body and kind != "result":
        raise ProtocolError(f"it sent bytes with a {kind}")
    return said


class _Fields:
    """The fields of a header; each is read once, and none may be left over."""

    def __init__(self, header: bytes) -> None:
        try:
            found = json.loads(header, object_pairs_hook=_object, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("it sent a header that is not JSON") from error
        if not isinstance(found, dict):
            raise ProtocolError("it sent a header that is not a JSON object")
        self._found = found

    def text(self, name: str, chars_max: int) -> str:
        value = self._take(name)
        if type(value) is not str or len(value) > chars_max:
            raise ProtocolError(
                f"it sent a {name} that is not text of up to {chars_max} characters"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ProtocolError(f"it sent a {name} that is not Unicode") from error
        return value

    def text_or_none(self, name: str, chars_max: int) -> str | None:
        if self._found.get(name, "") is None:
            self._take(name)
            return None
        return self.text(name, chars_max)

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if type(value) is not bool:
            raise ProtocolError(f"it sent a {name} that is neither true nor false")
        return value

    def whole(self, name: str) -> int:
        value = self._take(name)
        if type(value) is not int:
            raise ProtocolError(f"it sent a {name} that is not a whole number")
        return value

    def ratio(self, name: str) -> float:
        value = self._take(name)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ProtocolError(f"it sent a {name} that is not a number from 0 to 1")
        return float(value)

    def reason(self, name: str) -> Reason:
        try:
            reason = Reason(self.text(name, 64))
        except ValueError as error:
            raise ProtocolError("it sent an unknown reason") from error
        if reason in NODES_REASONS:
            raise ProtocolError("it sent a reason that only a node may give")
        return reason

    def end(self) -> None:
        if self._found:
            raise ProtocolError("it sent an unknown field")

    def _take(self, name: str) -> Any:
        if name not in self._found:
            raise ProtocolError(f"it sent a frame without {name}")
        return self._found.pop(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate field")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

"""What a handler's process says, checked where the node reads it.

Nothing that comes from such a process is believed: a handler may have written it. Every field has
one type, one range and one place, the answer is to the attempt that was asked about, and whatever
is not so is a `ProtocolError`, after which the process is killed.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import (
    CONTENT_TYPE_CHARS_MAX,
    MESSAGE_CHARS_MAX,
    NOTE_CHARS_MAX,
)

FILE_CHARS_MAX: Final = 4096
NODES_REASONS: Final = frozenset({Reason.WORKER_LOST, Reason.TASK_CANCELLED, Reason.STALE_ATTEMPT})
"""The cluster acts on them: an attempt that was lost is no failure of its task's."""


class ProtocolError(Exception):
    """A handler's process said what it may not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which attempt a frame is about; the nonce tells it from all others of the process."""

    task_id: str
    attempt: int
    nonce: str


@dataclass(frozen=True, slots=True)
class ProgressSaid:
    """How far the attempt is."""

    ratio: float
    note: str


@dataclass(frozen=True, slots=True)
class ResultSaid:
    """The attempt's result, as its process tells it."""

    data: bytes
    content_type: str
    file: str | None
    """A path beneath the attempt's scratch directory; not looked at yet."""
    clean: bool


@dataclass(frozen=True, slots=True)
class FailureSaid:
    """Why the attempt failed, as its process tells it."""

    reason: Reason
    message: str
    retryable: bool
    clean: bool


Said = ProgressSaid | ResultSaid | FailureSaid


def parse(header: bytes, body: bytes, asked: Identity) -> Said:
    """Check a frame.

    Raises:
        ProtocolError: It is not what a handler's process says of the attempt `asked`.
    """
    fields = _Fields(header)
    kind = fields.text("kind", 16)
    identity = Identity(
        task_id=fields.text("task_id", 256),
        attempt=fields.whole("attempt"),
        nonce=fields.text("nonce", 64),
    )
    if identity != asked:
        raise ProtocolError("it answered for another attempt than it was asked about")
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
    """The fields of a header; each is taken once, and none may be left."""

    def __init__(self, header: bytes) -> None:
        try:
            found = json.loads(header, object_pairs_hook=_object, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("it sent a header that is not JSON") from error
        if not isinstance(found, dict):
            raise ProtocolError("it sent a header that is no JSON object")
        self._found = found

    def text(self, name: str, chars_max: int) -> str:
        value = self._take(name)
        if type(value) is not str or len(value) > chars_max:
            raise ProtocolError(
                f"it sent as {name} what is no text of up to {chars_max} characters"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ProtocolError(f"it sent as {name} what is not Unicode") from error
        return value

    def text_or_none(self, name: str, chars_max: int) -> str | None:
        if self._found.get(name, "") is None:
            self._take(name)
            return None
        return self.text(name, chars_max)

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if type(value) is not bool:
            raise ProtocolError(f"it sent as {name} what is neither true nor false")
        return value

    def whole(self, name: str) -> int:
        value = self._take(name)
        if type(value) is not int:
            raise ProtocolError(f"it sent as {name} what is no whole number")
        return value

    def ratio(self, name: str) -> float:
        value = self._take(name)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ProtocolError(f"it sent as {name} what is no number from 0 to 1")
        return float(value)

    def reason(self, name: str) -> Reason:
        try:
            reason = Reason(self.text(name, 64))
        except ValueError as error:
            raise ProtocolError("it sent a reason that is none") from error
        if reason in NODES_REASONS:
            raise ProtocolError("it sent a reason that only a node has")
        return reason

    def end(self) -> None:
        if self._found:
            raise ProtocolError("it sent a field that its frame has not")

    def _take(self, name: str) -> Any:
        if name not in self._found:
            raise ProtocolError(f"it sent a frame without {name}")
        return self._found.pop(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field comes twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

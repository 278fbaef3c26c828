"""Records of the audit log: who called what, by which delegation, with which outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol


class Outcome(StrEnum):
    """The outcome of a call."""

    ALLOWED = "allowed"
    """It was carried out."""
    FAILED = "failed"
    """It was allowed, but failed; with UNKNOWN_OUTCOME it may have changed something."""
    DENIED = "denied"
    LOST = "lost"
    """Not a call: earlier records could not be written; `reason` says how many."""


class AuditObjectKind(StrEnum):
    """What a call may be about."""

    TASK = "task"
    FILE = "file"
    NODE = "node"
    """A node or a client, by its PeerID."""
    NAMESPACE = "namespace"
    DELEGATION = "delegation"
    JOIN_TOKEN = "join_token"  # noqa: S105
    CERTIFICATE = "certificate"
    SETTING = "setting"


class Audited(NamedTuple):
    """What a call was about, and what it asked."""

    kind: AuditObjectKind | None
    """None: nothing in particular."""
    name: str
    """The object's id, or its name if that is its id."""
    arguments: tuple[tuple[str, str], ...]


ARGUMENTS_MAX: Final = 8
"""Most arguments of one call that are recorded."""
FIELD_CHARS_MAX: Final = 512
"""Longest text of a record; the rest is cut off before the record waits to be written."""
UNNAMED: Final = Audited(None, "", ())


class AuditRecord(NamedTuple):
    """One call that was denied, or would change something; made for each, so it is cheap."""

    at_ms: int
    """Milliseconds since 1970 (UTC)."""
    caller: str
    """A DID; empty if the caller was not authenticated."""
    caller_class: str
    peer: str
    """The caller's address, as gRPC spells it."""
    method: str
    command: str
    """Such as `/task/submit`; empty if the caller's class decides."""
    outcome: Outcome
    caller_name: str = ""
    """The caller's name in the cluster then; empty if it is not known."""
    delegation_cids: tuple[str, ...] = ()
    """The last link of each chain that allowed the call; for a denied one, the token that caused
    the denial, if one did."""
    object_kind: AuditObjectKind | None = None
    object_id: str = ""
    """What the call was about: of several, the first."""
    arguments: tuple[tuple[str, str], ...] = ()
    """The main ones of the request, by name; never a payload or a secret."""
    request_id: str = ""
    reason: str = ""
    """If it was not allowed: a name of errors.proto, and the message."""
    sequence: int = 0
    """Numbers the records of one node; assigned when written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """A filter of records; an empty field matches all."""

    since_ms: int = 0
    until_ms: int = 0
    caller: str = ""
    method: str = ""
    """The end of its name, such as `SubmitTask`."""
    outcome: str = ""
    before_sequence: int = 0
    size: int = 100

    def wants(self, record: AuditRecord) -> bool:
        """Whether a record matches."""
        return (
            record.at_ms >= self.since_ms
            and (not self.until_ms or record.at_ms < self.until_ms)
            and (not self.caller or record.caller == self.caller)
            and (not self.method or record.method.endswith(self.method))
            and (not self.outcome or record.outcome == self.outcome)
            and (not self.before_sequence or record.sequence < self.before_sequence)
        )


class AuditLog(Protocol):
    """Takes and returns records."""

    def record(self, record: AuditRecord) -> None:
        """Record a call. Neither waits nor raises."""

    async def read(self, query: AuditQuery) -> Sequence[AuditRecord]:
        """The newest matching records, newest first."""

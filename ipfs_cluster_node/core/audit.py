"""What the audit log holds: who asked for what, by which right, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol


class Outcome(StrEnum):
    """What became of a call."""

    ALLOWED = "allowed"
    """It changed what it asked to change."""
    FAILED = "failed"
    """It was let through, and failed; with UNKNOWN_OUTCOME it may have changed something."""
    DENIED = "denied"
    LOST = "lost"
    """Not a call: so many records before this one could not be written, as `reason` says."""


class AuditRecord(NamedTuple):
    """One call that was denied, or that would change something; made for each, so it is light."""

    at_ms: int
    """Milliseconds since 1970 (UTC)."""
    caller: str
    """A DID; empty where nobody was proved."""
    caller_class: str
    peer: str
    """From where, as gRPC spells it."""
    method: str
    command: str
    """Such as `/task/submit`; empty where the class of the caller decides."""
    outcome: Outcome
    delegation_cids: tuple[str, ...] = ()
    """The last link of each chain that the call was let through by; of a denied one, the token that
    did not hold, where one was the cause."""
    request_id: str = ""
    reason: str = ""
    """Where it was not allowed: a name of errors.proto, and the sentence."""
    sequence: int = 0
    """Counts the records of one node; given when it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which records are wanted; an empty field wants all."""

    since_ms: int = 0
    until_ms: int = 0
    caller: str = ""
    method: str = ""
    """The end of its name, such as `SubmitTask`."""
    outcome: str = ""
    before_sequence: int = 0
    size: int = 100

    def wants(self, record: AuditRecord) -> bool:
        """Whether a record is wanted."""
        return (
            record.at_ms >= self.since_ms
            and (not self.until_ms or record.at_ms < self.until_ms)
            and (not self.caller or record.caller == self.caller)
            and (not self.method or record.method.endswith(self.method))
            and (not self.outcome or record.outcome == self.outcome)
            and (not self.before_sequence or record.sequence < self.before_sequence)
        )


class AuditLog(Protocol):
    """Where records go."""

    def record(self, record: AuditRecord) -> None:
        """Note a call. Neither waits nor raises."""

    async def read(self, query: AuditQuery) -> Sequence[AuditRecord]:
        """The newest records that are wanted, the newest first."""

"""Answers to requests, stored so that a repeat gets the first one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.effects import Accepted, Answer, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.tables import Notes, OrderedTable, TableName

REQUESTS_DROPPED_MAX: Final = 1000
"""Most answers that one command evicts: there may be many after their limit was lowered."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The answer to one request, stored for its repeats."""

    caller: str
    request_id: str
    at_ms: int
    fingerprint: bytes
    ids: tuple[str, ...]


class RequestTable(OrderedTable[tuple[str, str], RequestRecord]):
    """Answers by caller and request id, oldest first."""

    def __init__(self, records: Iterable[RequestRecord] = (), notes: Notes | None = None) -> None:
        """Start from `records`, oldest first."""
        rows = (((record.caller, record.request_id), record) for record in records)
        super().__init__(TableName.REQUESTS, notes, rows)

    def answer(self, caller: str, request_id: str, fingerprint: bytes) -> Answer | None:
        """The answer to a repeat, or its rejection if it differs; None for a new request."""
        known = self.get((caller, request_id))
        if known is None:
            return None
        if known.fingerprint == fingerprint:
            return Accepted(known.ids)
        return Rejected(
            Reason.REQUEST_ID_REUSED,
            "this request id came before with other content; choose a new one",
        )

    def remember(self, record: RequestRecord, count_max: int) -> None:
        """Store an answer; beyond `count_max` the oldest are evicted."""
        self.put((record.caller, record.request_id), record)
        if len(self) > count_max:
            for _ in range(min(len(self) - count_max, REQUESTS_DROPPED_MAX)):
                self.drop_oldest()

    def expire(self, before_ms: int, count_max: int) -> bool:
        """Delete older answers, at most `count_max`; returns whether some may be left."""
        # Ordered by commit, which is close enough to `at_ms`.
        for _ in range(count_max):
            if not self or next(iter(self.values())).at_ms >= before_ms:
                return False
            self.drop_oldest()
        return True

    def forget_caller(self, caller: str) -> None:
        """Drop every answer to one caller."""
        for key in [key for key in self if key[0] == caller]:
            self.drop(key)

"""Limits on how many costly calls run at once.

Per caller, so that none crowds out the others; and in total, so that many callers together can't
overload the node.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did

RETRY_AFTER: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Share:
    """Calls that are counted together."""

    name: str
    each_max: int
    """Concurrent calls of one caller."""
    all_max: int


UPLOADS: Final = Share("uploads", each_max=32, all_max=128)
"""Each keeps some MiB, and syncs files to the disk that the log is on."""
DOWNLOADS: Final = Share("file reads", each_max=128, all_max=512)
SUBMISSIONS: Final = Share("submissions of many tasks", each_max=32, all_max=128)
WATCHES: Final = Share("watches", each_max=512, all_max=2048)
SEARCHES: Final = Share("lists and searches", each_max=32, all_max=128)
"""Calls that scan many records: lists, audit logs, explanations."""
STATE_WATCHES: Final = Share("watches of the state", each_max=64, all_max=1024)
TABLES: Final = Share("tables of the state", each_max=2, all_max=4)
"""Each keeps a whole encoded table until it is read."""

SHARES: Final[Mapping[str, Share]] = {
    "AuditService/ListAuditRecords": SEARCHES,
    "AuthorizationService/ExplainAccess": SEARCHES,
    "AuthorizationService/ListDelegations": SEARCHES,
    "CertificateService/ListCertificates": SEARCHES,
    "ContentService/AddContent": UPLOADS,
    "ContentService/GetBlocks": DOWNLOADS,
    "ContentService/GetContent": DOWNLOADS,
    "ContentService/ListContent": SEARCHES,
    "MembershipService/ListConfigVersions": SEARCHES,
    "MembershipService/ListJoiners": SEARCHES,
    "MembershipService/ListJoinTokens": SEARCHES,
    "StateDeltaService/GetSnapshot": TABLES,
    "StateDeltaService/Watch": STATE_WATCHES,
    "TaskDispatchService/ListTasks": SEARCHES,
    "TaskDispatchService/SubmitTasks": SUBMISSIONS,
    "TaskDispatchService/WatchTasks": WATCHES,
}
"""By method. Calls of other methods are not counted."""


class Shares:
    """The calls in progress."""

    def __init__(self) -> None:
        self._of_caller: Counter[tuple[str, Did]] = Counter()
        self._of_all: Counter[str] = Counter()

    @contextmanager
    def taken(self, share: Share | None, caller: Did) -> Iterator[None]:
        """Count a call while it runs; raises OVERLOADED, with when to try again."""
        if share is None:
            yield
            return
        key = (share.name, caller)
        if self._of_caller[key] >= share.each_max:
            raise ClusterError(
                Reason.OVERLOADED,
                f"you have {share.each_max} {share.name} under way at this node; wait until some "
                "have ended",
                retry_after=RETRY_AFTER,
            )
        if self._of_all[share.name] >= share.all_max:
            raise ClusterError(
                Reason.OVERLOADED,
                f"this node has {share.all_max} {share.name} under way; try again in a moment",
                retry_after=RETRY_AFTER,
            )
        self._of_caller[key] += 1
        self._of_all[share.name] += 1
        try:
            yield
        finally:
            self._of_all[share.name] -= 1
            self._of_caller[key] -= 1
            if not self._of_caller[key]:
                del self._of_caller[key]

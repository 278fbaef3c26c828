"""Which rows of the state changed last, so that a reader can be told what changed since."""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice, takewhile
from typing import Any, Final

from ipfs_cluster_node.core.tables import TableName, Touched

KEYS_KEPT_MAX: Final = 100_000
"""Keys of one table whose last change is remembered, or a tenth fewer: some 20 MB. What changed
before the oldest of them is compacted."""
ENTRIES_KEPT_MAX: Final = 20_000
"""Entries that are remembered as they came, some 10 MB, until somebody asks what changed. Sorting
their keys costs more than remembering them, and most masters have no watcher."""
SORTED_AT_ONCE: Final = 5_000
"""Keys that are sorted without a pause: some 2 ms."""
TERMS_KEPT_MAX: Final = 1_000
"""Changes of the term that are remembered; revisions before the oldest are compacted."""


class Changes:
    """The last revision at which each row changed, of the rows that changed last.

    A revision is the index of an entry of the log, and its term says of which history: two logs
    with the same term at an index are the same up to it.
    """

    def __init__(
        self, tables: Iterable[TableName], revision: int, keys_max: int = KEYS_KEPT_MAX
    ) -> None:
        """Begin at a revision: nothing is known of what changed before."""
        self._keys_max = keys_max
        self._begins = revision
        self._last: dict[TableName, dict[Any, int]] = {table: {} for table in tables}
        """By key, in the order of revisions."""
        self._floors = dict.fromkeys(self._last, revision)
        self._new: deque[tuple[int, Touched]] = deque()
        self._new_keys = 0
        self._terms: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """By the first revision that was seen of each, with the last one seen before."""
        self._term = -1
        self._seen = revision

    def note(self, revision: int, touched: Touched) -> None:
        """Note what changed; revisions must not shrink."""
        kept = {table: keys for table, keys in touched.items() if table in self._last}
        self._new.append((revision, kept))
        for keys in kept.values():
            self._new_keys += len(keys)
        while len(self._new) > ENTRIES_KEPT_MAX or self._new_keys > self._keys_max:
            self._begins, dropped = self._new.popleft()
            self._new_keys -= sum(map(len, dropped.values()))

    def sort(self, keys_max: float = SORTED_AT_ONCE) -> bool:
        """Sort what was noted by key, until so many keys are; returns whether some are left.

        Asking what changed sorts the rest at once.
        """
        left = keys_max
        while self._new and left > 0:
            revision, touched = self._new.popleft()
            for table, keys in touched.items():
                last = self._last[table]
                for key in keys:
                    if key in last:
                        del last[key]
                    last[key] = revision
                self._new_keys -= len(keys)
                left -= len(keys)
            left -= 1
        for table, last in self._last.items():
            if len(last) > self._keys_max:
                self._drop_oldest(table)
        return bool(self._new)

    def _drop_oldest(self, table: TableName) -> None:
        # A tenth more than must be: dropped one by one they would take ten times as long.
        items = iter(self._last[table].items())
        for _, revision in islice(items, len(self._last[table]) - self._keys_max * 9 // 10):
            self._floors[table] = revision
        self._last[table] = dict(items)

    def note_term(self, revision: int, term: int) -> None:
        """Note the term of an entry; revisions must not shrink."""
        before, self._seen = self._seen, revision
        if term != self._term:
            self._term = term
            self._terms[revision] = term, before
            while len(self._terms) > TERMS_KEPT_MAX:
                self._terms.popitem(last=False)
                self._begins = max(self._begins, next(iter(self._terms)))

    def term_of(self, revision: int) -> int | None:
        """The term of an entry; None if it is not known."""
        for first, (term, before) in reversed(self._terms.items()):
            if first <= revision:
                return term
            if before < revision:
                return None  # Of either: entries that change nothing of the state are not seen.
        return None

    def floor(self, table: TableName) -> int:
        """The oldest revision since which all changes of a table are known."""
        self.sort(math.inf)
        return max(self._floors[table], self._begins)

    def since(self, table: TableName, revision: int) -> list[Any] | None:
        """The keys of rows that changed after a revision; None if some are no longer known."""
        if revision < self.floor(table):
            return None
        newest = reversed(self._last[table].items())
        return [key for key, _ in takewhile(lambda item: item[1] > revision, newest)]

"""Which rows of the state changed last, so that a reader can be told what changed since."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import takewhile
from typing import Any, Final

from ipfs_cluster_node.core.tables import TableName

KEYS_KEPT_MAX: Final = 100_000
"""Keys of one table whose last change is remembered: some 20 MB. What changed before the oldest of
them is compacted."""
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
        self._last: Mapping[TableName, OrderedDict[Any, int]] = {
            table: OrderedDict() for table in tables
        }
        self._floors = dict.fromkeys(self._last, revision)
        self._terms: OrderedDict[int, int] = OrderedDict()
        """By the first revision that was seen of each."""
        self._term = -1

    def note(self, revision: int, touched: Mapping[TableName, AbstractSet[Any]]) -> None:
        """Note what changed; revisions must not shrink."""
        for table, keys in touched.items():
            last = self._last.get(table)
            if last is None:
                continue
            to_end = last.move_to_end
            for key in keys:
                last[key] = revision
                to_end(key)
            while len(last) > self._keys_max:
                _, self._floors[table] = last.popitem(last=False)

    def note_term(self, revision: int, term: int) -> None:
        """Note the term of an entry; revisions must not shrink."""
        if term != self._term:
            self._term = self._terms[revision] = term
            while len(self._terms) > TERMS_KEPT_MAX:
                self._terms.popitem(last=False)
                self._begins = next(iter(self._terms))

    def term_of(self, revision: int) -> int | None:
        """The term of an entry since the beginning, None if it is not known."""
        return next((t for first, t in reversed(self._terms.items()) if first <= revision), None)

    def floor(self, table: TableName) -> int:
        """The oldest revision since which all changes of a table are known."""
        return max(self._floors[table], self._begins)

    def since(self, table: TableName, revision: int) -> list[Any] | None:
        """The keys of rows that changed after a revision; None if some are no longer known."""
        if revision < self.floor(table):
            return None
        newest = reversed(self._last[table].items())
        return [key for key, _ in takewhile(lambda item: item[1] > revision, newest)]

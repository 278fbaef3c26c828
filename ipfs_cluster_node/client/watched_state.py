"""Tables that follow a watch of the state."""

from collections.abc import Iterator, Mapping
from typing import Any

from ipfs_cluster_node.core.schemas import ROW_KEYS
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Reset,
    ResetCause,
    Rows,
    StateEvent,
)

RowKey = tuple[Any, ...]
"""The values of the columns that identify a row."""


class WatchedState:
    """Tables kept up to date from the events of `Client.watch_state`.

    After each bookmark they equal the state at `revision`, of what the caller may read.
    """

    def __init__(self) -> None:
        """Start with empty tables, at revision 0."""
        self.revision = 0
        self.resume_token = b""
        """Goes on after the last bookmark; for the same tables."""
        self._tables: dict[str, dict[str, dict[RowKey, dict[str, Any]]]] = {}
        self._schemas: dict[str, Any] = {}

    def apply(self, event: StateEvent) -> bool:
        """Take the next event; returns whether it was a bookmark.

        Raises:
            ValueError: A revision that is smaller than the last.
        """
        match event:
            case Rows(table, _, rows):
                self._schemas[table] = rows.schema
                of_key = self._tables.setdefault(table, {})
                names = ROW_KEYS[table]
                for row in rows.to_pylist():
                    key = tuple(row[name] for name in names)
                    of_key.setdefault(key[0], {})[key] = row
            case Deletions(table, keys):
                of_key = self._tables.setdefault(table, {})
                for each in keys:
                    of_key.pop(each, None)
            case Reset(cause, _):
                self._tables = {}
                if cause is ResetCause.OTHER_CLUSTER:
                    self.revision = 0
            case Bookmark(revision, resume_token, _):
                if revision < self.revision:
                    raise ValueError(f"revision {revision} came after {self.revision}")
                self.revision, self.resume_token = revision, resume_token
                return True
        return False

    def rows(self, table: str) -> Iterator[Mapping[str, Any]]:
        """The rows of a table, in no order; none of one that is not watched."""
        for of_key in self._tables.get(table, {}).values():
            yield from of_key.values()

    def get(self, table: str, key: str) -> list[Mapping[str, Any]]:
        """The rows of a key: one, or one for each holder of a file; none if there is none."""
        return list(self._tables.get(table, {}).get(key, {}).values())

    def table(self, table: str) -> Any:
        """A copy as a `pyarrow.Table`; None if no row of it ever came."""
        import pyarrow as pa  # Heavy.

        schema = self._schemas.get(table)
        return None if schema is None else pa.Table.from_pylist(list(self.rows(table)), schema)

"""What a watch of the state is made of."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class RowsKind(StrEnum):
    """Where rows come from."""

    SNAPSHOT = "snapshot"
    """Of a whole table, after nothing or a reset."""
    UPSERTS = "upserts"
    """Added, or changed."""


class ResetCause(StrEnum):
    """Why what changed can't be told."""

    COMPACTED = "compacted"
    """The master no longer knows every row that changed since."""
    RIGHTS_CHANGED = "rights_changed"
    """The caller may read other rows, or only some, and the master does not know which it has."""
    OTHER_CLUSTER = "other_cluster"
    """The token is of another cluster, or of entries that the cluster lost when recovered."""
    OTHER_TABLES = "other_tables"
    """The token is of other tables, columns or rows, or of another release's."""


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """A table that is watched, or a part of it."""

    name: str
    columns: tuple[str, ...] = ()
    """Those of the row key among them; empty: all."""
    key_prefix: str = ""
    """Only rows whose first key column begins so."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows, each in the place of one with the same row key."""

    table: str
    kind: RowsKind
    rows: Any
    """A `pyarrow.RecordBatch`; in a node its encoding, a payload in bytes."""


@dataclass(frozen=True, slots=True)
class Deletions:
    """Rows that were deleted, or whose rows come again after this."""

    table: str
    keys: tuple[str, ...]
    """Values of the first key column."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """The tables equal the state at this revision."""

    revision: int
    """The index in the log of the last entry that they contain."""
    resume_token: bytes
    age_ms: int
    """At most so much older than the leader's."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The reader drops all rows of all tables; a snapshot follows."""

    cause: ResetCause
    oldest_revision: int
    """The oldest that can be resumed at that master."""


StateEvent = Rows | Deletions | Bookmark | Reset

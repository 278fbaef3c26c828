"""Tables of the replicated state: rows by key, which note what a command changes."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class TableName(StrEnum):
    """Every replicated table, by its field of `StateData`; `KEY_OF` says how its rows are keyed."""

    CLUSTER = "cluster"
    """Single values. Not a field: its keys are names of fields, such as `authority`."""
    PRINCIPALS = "principals"
    TOKENS = "tokens"
    SETTINGS = "settings"
    CONFIG_VERSIONS = "config_versions"
    TASKS = "tasks"
    REQUESTS = "requests"
    CONTENTS = "contents"
    DELEGATIONS = "delegations"
    REVOCATIONS = "revocations"
    CERTIFICATES = "certificates"
    CERTIFICATE_REVOCATIONS = "certificate_revocations"


Touched = Mapping[TableName, AbstractSet[Any]]
"""The keys whose rows were added, replaced or dropped; no entry for a table without any. A row
that one command changes twice may be as it was before."""


class _Keys(list[Any]):
    """The keys of one table that were touched."""

    def __init__(self, name: TableName) -> None:
        super().__init__()
        self.name = name


class Notes:
    """The keys that all tables of a state have touched since they were last taken."""

    def __init__(self) -> None:
        self._tables = [_Keys(name) for name in TableName]

    def of(self, name: TableName) -> list[Any]:
        """The list to which a table adds the keys it touches; always the same one."""
        return next(keys for keys in self._tables if keys.name is name)

    def take(self) -> Touched:
        """Return them, and start again empty."""
        touched = {}
        for keys in filter(None, self._tables):
            touched[keys.name] = set(keys)
            keys.clear()
        return touched


class Table(dict[K, V]):
    """Rows by key. Changed only by its own methods, which note the key."""

    def __init__(
        self, name: TableName, notes: Notes | None = None, rows: Iterable[tuple[K, V]] = ()
    ) -> None:
        """Start from `rows`, without noting them."""
        super().__init__(rows)
        self._touched = (Notes() if notes is None else notes).of(name)

    def put(self, key: K, row: V) -> None:
        """Add a row, or replace one from which it differs."""
        self[key] = row
        self._touched.append(key)

    def put_if_new(self, key: K, row: V) -> None:
        """Add or replace a row; an equal one stays, and nothing is noted."""
        if self.get(key) != row:
            self.put(key, row)

    def put_all(self, rows: Mapping[K, V]) -> None:
        """Do `put` of each row, with fewer steps."""
        self.update(rows)
        self._touched += rows

    def drop(self, key: K) -> V:
        """Remove an existing row, and return it."""
        self._touched.append(key)
        return self.pop(key)


class OrderedTable(Table[K, V], OrderedDict[K, V]):
    """A table whose oldest row is dropped in constant time."""

    def drop_oldest(self) -> V:
        """Remove the oldest row, and return it."""
        return self.drop(next(iter(self)))

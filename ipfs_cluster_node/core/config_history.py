"""The versions of the cluster's settings: who changed what and when, and the way back."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ipfs_cluster_node.core.settings import ClusterConfig
from ipfs_cluster_node.core.tables import Notes, Table, TableName

VERSIONS_MAX: Final = 1000
"""Versions kept; the oldest is dropped."""
VERSIONS_CHARS_MAX: Final = 4 * 1024 * 1024
"""Characters of keys and values in all versions; the oldest are dropped, never the newest."""


class ConfigVersion(NamedTuple):
    """What one committed proposal changed."""

    number: int
    """From 1, one more than that of the version before."""
    at_ms: int
    """When its leader proposed it, in milliseconds since 1970 (UTC)."""
    by: str
    """The DID of its proposer."""
    before: Mapping[str, str]
    """The values that were set before, by the keys that changed; empty if none was set."""
    after: Mapping[str, str]
    """The new values, by the same keys; empty if none is set any longer."""

    @property
    def stored_chars(self) -> int:
        """Characters of its keys and values."""
        return _stored_chars(self.before, self.after)


def _stored_chars(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    join = "".join
    return len(join(after)) + len(join(after.values())) + len(join(before.values()))


class ConfigHistory(Table[int, ConfigVersion]):
    """The newest versions by number, oldest first."""

    def __init__(self, versions: Iterable[ConfigVersion] = (), notes: Notes | None = None) -> None:
        """Start from `versions`, oldest first."""
        rows = {each.number: each for each in versions}
        super().__init__(TableName.CONFIG_VERSIONS, notes, rows.items())
        self._sizes = deque(each.stored_chars for each in rows.values())
        self._chars = sum(self._sizes)
        self.newest = next(reversed(rows), 0)
        """The number of the newest version; 0 before the first one."""

    def record(
        self, at_ms: int, by: str, before: Mapping[str, str], after: Mapping[str, str]
    ) -> None:
        """Add a version; beyond the bounds the oldest are dropped."""
        self.newest = number = self.newest + 1
        self.put(number, ConfigVersion(number, at_ms, by, before, after))
        sizes = self._sizes
        sizes.append(chars := _stored_chars(before, after))
        self._chars += chars
        while len(sizes) > VERSIONS_MAX or (self._chars > VERSIONS_CHARS_MAX and len(sizes) > 1):
            self.drop(number - len(sizes) + 1)
            self._chars -= sizes.popleft()

    @property
    def oldest_reachable(self) -> int:
        """The oldest version whose settings are known: the one before the oldest that is kept."""
        return self.newest - len(self)

    def way_back(self, number: int, config: ClusterConfig) -> dict[str, str]:
        """The changes that bring today's settings back to those right after a version.

        Args:
            number: The version, `oldest_reachable` to `newest`; 0 is before the first one.
            config: Today's settings.

        Returns:
            A value for each key that differs, as `ClusterConfig.change` takes it.

        Raises:
            LookupError: There is no such version any longer, or not yet; the message says which.
        """
        if not self.oldest_reachable <= number <= self.newest:
            raise LookupError(
                f"there is no version {number}; one can go back to {self.oldest_reachable} to "
                f"{self.newest}"
            )
        then: dict[str, str] = {}
        for each in range(self.newest, number, -1):
            then |= self[each].before
        now = config.changed
        return {key: then[key] for key in sorted(then) if now.get(key, "") != then[key]}

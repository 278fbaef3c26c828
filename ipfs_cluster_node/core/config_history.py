"""The versions of the cluster's settings: who changed what and when, and the way back."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from ipfs_cluster_node.core.settings import DELETION_PAUSED, SETTINGS, ClusterConfig
from ipfs_cluster_node.core.tables import Notes, Table, TableName

VERSIONS_MAX: Final = 1000
"""Versions kept; the oldest is dropped."""
VERSIONS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of all versions, about; beyond, the oldest are dropped, never the newest."""
KEY_BYTES: Final = 64
"""Counted for each key of a version, besides the characters of it and of its two values."""


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
    def stored_bytes(self) -> int:
        """What it takes of `VERSIONS_BYTES_MAX`."""
        return _stored_bytes(self.before, self.after)


def _stored_bytes(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    if len(after) == 1:
        [(key, value)] = after.items()
        return len(key) + len(value) + len(before[key]) + KEY_BYTES
    return len("".join([*after, *after.values(), *before.values()])) + KEY_BYTES * len(after)


class ConfigHistory(Table[int, ConfigVersion]):
    """The newest versions by number, oldest first."""

    def __init__(self, versions: Iterable[ConfigVersion] = (), notes: Notes | None = None) -> None:
        """Start from `versions`, oldest first."""
        rows = {each.number: each for each in versions}
        super().__init__(TableName.CONFIG_VERSIONS, notes, rows.items())
        self._sizes = deque(each.stored_bytes for each in rows.values())
        self._bytes = sum(self._sizes)
        self.newest = next(reversed(rows), 0)
        """The number of the newest version; 0 before the first one."""

    def record(
        self, at_ms: int, by: str, before: Mapping[str, str], after: Mapping[str, str]
    ) -> None:
        """Add a version; beyond the bounds the oldest are dropped."""
        # Inline, what `put` and `drop` do: it is done for each of a thousand proposals a second.
        touched, sizes = self._touched, self._sizes
        self.newest = number = self.newest + 1
        self[number] = ConfigVersion(number, at_ms, by, before, after)
        touched.append(number)
        sizes.append(size := _stored_bytes(before, after))
        self._bytes += size
        while len(sizes) > VERSIONS_MAX or (self._bytes > VERSIONS_BYTES_MAX and len(sizes) > 1):
            oldest = number - len(sizes) + 1
            del self[oldest]
            touched.append(oldest)
            self._bytes -= sizes.popleft()

    @property
    def kept(self) -> range:
        """The versions whose settings are known, with the one before the oldest that is kept."""
        return range(self.newest - len(self), self.newest + 1)

    def newest_first(self, before: int | None = None) -> Iterator[ConfigVersion]:
        """The versions below this number, or all; others may come and go meanwhile."""
        number = self.newest if before is None else min(self.newest, before - 1)
        while (version := self.get(number)) is not None:
            yield version
            number -= 1

    def way_back(self, number: int, config: ClusterConfig) -> dict[str, str]:
        """The changes that bring today's settings back to those right after a version.

        But for a pause of deletion, as after a recovery: only whoever names it ends it.

        Args:
            number: The version, one of `kept`; 0 is before the first one.
            config: Today's settings.

        Returns:
            A value for each key that differs, as `ClusterConfig.change` takes it.

        Raises:
            LookupError: There is no such version any longer, or not yet; the message says which.
        """
        kept = self.kept
        if number not in kept:
            raise LookupError(
                f"there is no version {number}; one can go back to {kept[0]} to {kept[-1]}"
            )
        then: dict[str, str] = {}
        for each in range(self.newest, number, -1):
            then |= self[each].before
        now = config.changed
        changes = {key: then[key] for key in sorted(then) if now.get(key, "") != then[key]}
        if config[DELETION_PAUSED]:
            changes.pop(DELETION_PAUSED, None)
        return changes


class PlannedChange(NamedTuple):
    """What a proposal would do to one key."""

    key: str
    value: str
    """Today's; empty for a user's key that is not set."""
    new_value: str
    """As it would be stored; empty if none would be set."""
    default_value: str
    """In effect where none is set; empty for a user's key."""
    changes: bool
    """Whether the stored value would change."""


def plan(
    config: ClusterConfig, values: Mapping[str, str], if_values: Mapping[str, str]
) -> list[PlannedChange]:
    """What `ClusterConfig.change` would do, by key; `config` stays as it is.

    Raises:
        ValueError: As `ClusterConfig.change` does.
        ConfigChangedError: Likewise.
    """
    _, after = ClusterConfig(config.changed).change(values, if_values)
    return [
        PlannedChange(
            key,
            config.text(key),
            values[key],
            SETTINGS[key].default if key in SETTINGS else "",
            key in after,
        )
        for key in sorted(values)
    ]

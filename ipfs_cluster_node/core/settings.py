"""Cluster-wide settings: replicated through the log, the same on every node."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.tables import Notes, Table, TableName

USER_KEY: Final = re.compile(r"user\.[A-Za-z0-9][A-Za-z0-9._-]{0,57}")
"""Users' own keys, which the cluster ignores."""
KEY_CHARS_MAX: Final = 63
"""Longest key: `user.` and 58 more."""
USER_KEYS_MAX: Final = 1000
USER_VALUE_CHARS_MAX: Final = 1024
CHANGES_MAX: Final = 1000
"""Most changes in one proposal."""

_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_DURATION_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its default and range, in milliseconds for a duration."""

    key: str
    default: str
    minimum: str
    maximum: str
    description: str

    def parse(self, text: str) -> int:
        """Read a value: a duration gives milliseconds, a count gives itself.

        Raises:
            ValueError: Not a value of this kind, or out of range; the message says the range.
        """
        value = _read(text, like=self.default)
        if (
            not _read(self.minimum, like=self.default)
            <= value
            <= _read(self.maximum, like=self.default)
        ):
            raise ValueError(f"{self.key} goes from {self.minimum} to {self.maximum}")
        return value


def _read(text: str, *, like: str) -> int:
    if like.isdigit():
        if not (text.isascii() and text.isdigit()) or len(text) > 12:
            raise ValueError(f"{text[:32]!r} is not a whole number")
        return int(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:32]!r} is not a duration such as 5s, 10m or 7d")
    return int(match[1]) * _DURATION_MS[match[2]]


SETTINGS: Final[Mapping[str, Setting]] = {
    setting.key: setting
    for setting in (
        Setting("certificate_lifetime", "24h", "1h", "7d", "how long a new certificate is valid"),
        Setting("node_lease", "5s", "1s", "5m", "a node not heard for so long is dead"),
        Setting("request_count_max", "100000", "1000", "1000000", "answers kept for repeats"),
        Setting("request_retention", "24h", "1m", "30d", "how long answers are kept for repeats"),
        Setting(
            "task_bytes_max",
            "268435456",
            "1048576",
            "8589934592",
            "bytes of payloads and inline results that the cluster holds; up to half of them are "
            "those of ended tasks, which make no room",
        ),
        Setting(
            "task_count_max",
            "200000",
            "1",
            "2000000",
            "tasks the cluster holds; ended ones make room for new ones, the oldest first",
        ),
        Setting(
            "task_ended_keep_min",
            "10000",
            "0",
            "1000000",
            "so many of the newest ended tasks make no room for new ones, but at most half of "
            "task_count_max",
        ),
        Setting(
            "task_retention",
            "7d",
            "1m",
            "90d",
            "how long an ended task is kept, unless new ones need its room",
        ),
    )
}


class ConfigChangedError(Exception):
    """A current value differs from the one that a change expects."""


class ClusterConfig:
    """The values in effect: those set, else the defaults."""

    def __init__(
        self, changed: Mapping[str, str] | None = None, notes: Notes | None = None
    ) -> None:
        self.changed: Table[str, str] = Table(TableName.SETTINGS, notes, (changed or {}).items())
        self._values = {
            key: setting.parse(self.changed.get(key, setting.default))
            for key, setting in SETTINGS.items()
        }

    def __getitem__(self, key: str) -> int:
        """The value of `key`: milliseconds for a duration, else a count."""
        return self._values[key]

    def text(self, key: str) -> str:
        """The value of `key` as text; empty for a user's key that is not set."""
        setting = SETTINGS.get(key)
        return self.changed.get(key, setting.default if setting is not None else "")

    def keys(self) -> list[str]:
        """Every setting, and every user's key that is set, in order."""
        return sorted(SETTINGS.keys() | self.changed.keys())

    def change(self, values: Mapping[str, str], if_values: Mapping[str, str]) -> None:
        """Set all of these values, or none; an empty one removes a user's key.

        Raises:
            ValueError: An unknown key, or a value that is not one of its kind.
            ConfigChangedError: A current value is not what `if_values` expects.
        """
        for key, expected in if_values.items():
            present = self.text(key)
            if present != expected:
                raise ConfigChangedError(
                    f"{key[:64]} is {present[:64]!r}, not {expected[:64]!r}; read it again"
                )
        # Most proposals set users' keys again, up to a thousand at once.
        again = self.changed.keys() >= values.keys() and SETTINGS.keys().isdisjoint(values)
        fits = again and max(map(len, values.values()), default=0) <= USER_VALUE_CHARS_MAX
        parsed = {} if fits else self._parsed(values)
        empty = [key for key, value in values.items() if not value] if "" in values.values() else []
        self._values |= parsed
        self.changed.put_all_new({k: v for k, v in values.items() if v} if empty else values)
        for key in empty:
            if key in self.changed:
                self.changed.drop(key)

    def _parsed(self, values: Mapping[str, str]) -> dict[str, int]:
        """Check new values; returns those of settings, as `__getitem__` gives them."""
        parsed: dict[str, int] = {}
        for key, value in values.items():
            setting = SETTINGS.get(key)
            if setting is not None:
                parsed[key] = setting.parse(value)
            elif key not in self.changed and not USER_KEY.fullmatch(key):
                raise ValueError(
                    f"{key[:64]!r} is not a setting; there are {', '.join(SETTINGS)}, and your own "
                    "under user., of at most 63 characters of A-Z a-z 0-9 . _ -"
                )
            elif len(value) > USER_VALUE_CHARS_MAX:
                raise ValueError(f"a value has at most {USER_VALUE_CHARS_MAX} characters")
        gone_count = sum(not value and key in self.changed for key, value in values.items())
        added = [key for key, value in values.items() if value and key not in self.changed]
        room = USER_KEYS_MAX - len(self.changed) + gone_count
        if len(added) > room and not SETTINGS.keys() >= set(added):
            raise ValueError(f"there are at most {USER_KEYS_MAX} keys; remove some")
        return parsed

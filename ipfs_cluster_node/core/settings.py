"""Cluster-wide settings: replicated through the log, the same on every node."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
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
DELETION_PAUSED: Final = "block_deletion_paused"
"""While it is not 0 no master deletes a block: recoveries set it, operators end it."""

_UNITS: Final[Mapping[str, int]] = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
}
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
"""How a duration is stored."""
_DURATION_PART: Final = re.compile(r"([0-9]{1,9})(\.[0-9]{1,9})?(ms|s|m|h|d|w)")
_DURATION_GIVEN: Final = re.compile(rf"(?:{_DURATION_PART.pattern}){{1,6}}")
_SIZE_GIVEN: Final = re.compile(r"([0-9]{1,9})(\.[0-9]{1,9})?(B|KiB|MiB|GiB|TiB)")
_SIZES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_COUNT_DIGITS_MAX: Final = 12


class SettingKind(StrEnum):
    """What the values of a setting are."""

    DURATION = "duration"
    """Such as `5s`; its number is milliseconds."""
    BYTES = "bytes"
    """A number of bytes."""
    COUNT = "count"
    """A whole number."""
    TEXT = "text"
    """Of a user's key."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its kind, default and range."""

    key: str
    kind: SettingKind
    default: str
    minimum: str
    maximum: str
    description: str

    def parse(self, text: str) -> int:
        """Read a value as it is stored: a duration gives milliseconds, others give themselves.

        Raises:
            ValueError: Not a value of this kind, or out of range; the message names the key.
        """
        value = self._read(text)
        if not self._read(self.minimum) <= value <= self._read(self.maximum):
            raise ValueError(f"{self.key} goes from {self.minimum} to {self.maximum}")
        return value

    def _read(self, text: str) -> int:
        if self.kind is not SettingKind.DURATION:
            if not (text.isascii() and text.isdigit()) or len(text) > _COUNT_DIGITS_MAX:
                such = " or a size such as 256MiB" if self.kind is SettingKind.BYTES else ""
                raise ValueError(f"{self.key}: {text[:32]!r} is not a whole number{such}")
            return int(text)
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{self.key}: {text[:32]!r} is not a duration such as 500ms, 5s, 1h30m or 7d"
            )
        return int(match[1]) * _UNITS[match[2]]

    def stored(self, text: str) -> str:
        """A value as it is stored: `1h30m`, `1.5h` as `90m`, and `256MiB` as its number of bytes.

        What is no such value stays as it is: `parse` refuses it.
        """
        if self.kind is SettingKind.BYTES and (size := _SIZE_GIVEN.fullmatch(text)):
            count = _scaled(size[1], size[2], _SIZES[size[3]])
            return text if count is None else str(count)
        if (
            self.kind is SettingKind.DURATION
            and not _DURATION.fullmatch(text)
            and _DURATION_GIVEN.fullmatch(text)
        ):
            units = {**_UNITS, "w": 7 * _UNITS["d"]}
            parts = [
                _scaled(n, rest, units[unit]) for n, rest, unit in _DURATION_PART.findall(text)
            ]
            if None not in parts:
                return _duration_text(sum(part for part in parts if part is not None))
        return text


def _scaled(whole: str, fraction: str | None, unit: int) -> int | None:
    """A decimal number of units; None if it is not a whole number of the smallest one."""
    digits = (fraction or "").removeprefix(".")
    scaled, rest = divmod(int(whole + digits) * unit, 10 ** len(digits))
    return None if rest else scaled


def _duration_text(value_ms: int) -> str:
    """A duration in the largest unit of which it is a whole number."""
    unit = max((u for u in _UNITS if value_ms % _UNITS[u] == 0), key=_UNITS.__getitem__)
    return f"{value_ms // _UNITS[unit]}{unit}"


def stored_values(values: Mapping[str, str]) -> Mapping[str, str]:
    """Values by key, each as it is stored: see `Setting.stored`."""
    if SETTINGS.keys().isdisjoint(values):
        return values
    return {
        key: value if (setting := SETTINGS.get(key)) is None else setting.stored(value)
        for key, value in values.items()
    }


SETTINGS: Final[Mapping[str, Setting]] = {
    setting.key: setting
    for setting in (
        Setting(
            DELETION_PAUSED,
            SettingKind.COUNT,
            "0",
            "0",
            "1",
            "1 while masters delete no block, as after a recovery",
        ),
        Setting(
            "certificate_lifetime",
            SettingKind.DURATION,
            "24h",
            "1h",
            "7d",
            "how long a new certificate is valid",
        ),
        Setting(
            "node_lease",
            SettingKind.DURATION,
            "5s",
            "1s",
            "5m",
            "a node not heard for so long is dead",
        ),
        Setting(
            "request_count_max",
            SettingKind.COUNT,
            "100000",
            "1000",
            "1000000",
            "answers kept for repeats",
        ),
        Setting(
            "request_retention",
            SettingKind.DURATION,
            "24h",
            "1m",
            "30d",
            "how long answers are kept for repeats",
        ),
        Setting(
            "task_bytes_max",
            SettingKind.BYTES,
            "268435456",
            "1048576",
            "8589934592",
            "bytes of payloads and inline results that the cluster holds; up to half of them are "
            "those of ended tasks, which make no room",
        ),
        Setting(
            "task_count_max",
            SettingKind.COUNT,
            "200000",
            "1",
            "2000000",
            "tasks the cluster holds; ended ones make room for new ones, the oldest first",
        ),
        Setting(
            "task_ended_keep_min",
            SettingKind.COUNT,
            "10000",
            "0",
            "1000000",
            "so many of the newest ended tasks make no room for new ones, but at most half of "
            "task_count_max",
        ),
        Setting(
            "task_retention",
            SettingKind.DURATION,
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

    def change(
        self, values: Mapping[str, str], if_values: Mapping[str, str], *, resets: bool = True
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Set all of these values, or none.

        Args:
            values: By key. An empty one removes a user's key, and returns a setting of the cluster
                to its default.
            if_values: The required current values.
            resets: Whether an empty value does the latter; otherwise it is refused.

        Returns:
            The set values before and after of the keys that changed; empty for one that is not set.

        Raises:
            ValueError: An unknown key, or a value that is not one of its kind; the message names
                the key.
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
        parsed = {} if fits else self._parsed(values, resets=resets)
        get = self.changed.get
        after = {key: value for key, value in values.items() if get(key, "") != value}
        before = {key: get(key, "") for key in after}
        removed = [key for key, value in after.items() if not value] if "" in after.values() else []
        if parsed:
            self._values |= parsed
        self.changed.put_all({k: v for k, v in after.items() if v} if removed else after)
        for key in removed:
            self.changed.drop(key)
        return before, after

    def _parsed(self, values: Mapping[str, str], *, resets: bool) -> dict[str, int]:
        """Check new values; returns those of settings, as `__getitem__` gives them."""
        parsed: dict[str, int] = {}
        for key, value in values.items():
            setting = SETTINGS.get(key)
            if setting is not None:
                parsed[key] = setting.parse(value or setting.default if resets else value)
            elif key not in self.changed and not USER_KEY.fullmatch(key):
                raise ValueError(_unknown(key))
            elif len(value) > USER_VALUE_CHARS_MAX:
                raise ValueError(f"{key}: a value has at most {USER_VALUE_CHARS_MAX} characters")
        gone_count = sum(not value and key in self.changed for key, value in values.items())
        added = [key for key, value in values.items() if value and key not in self.changed]
        room = USER_KEYS_MAX - len(self.changed) + gone_count
        if len(added) > room and not SETTINGS.keys() >= set(added):
            raise ValueError(f"{max(added)}: there are at most {USER_KEYS_MAX} keys; remove some")
        return parsed


def _unknown(key: str) -> str:
    own = f"user.{key}"
    near = get_close_matches(key.lower().replace("-", "_"), SETTINGS, n=1)
    if not near and USER_KEY.fullmatch(own) and not key.startswith("user."):
        near = [own]
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTINGS)}."
    return (
        f"{key[:64]!r} is not a setting; {meant} Keys of your own begin with `user.` and have at "
        f"most {KEY_CHARS_MAX} characters of A-Z a-z 0-9 . _ -"
    )

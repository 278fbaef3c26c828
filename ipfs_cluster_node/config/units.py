"""Durations, sizes and strings in the notation of TOML and the command line."""

import re
from datetime import timedelta
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
DURATION_MAX: Final = timedelta(days=36_500)
_SIZE: Final = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_duration(text: str) -> timedelta:
    """Read `30s`, `100ms`, `7d`, up to `DURATION_MAX`; raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a duration; write it like 30s, 100ms or 7d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > DURATION_MAX.total_seconds():
        raise ValueError(f"{text} is too long; the maximum is {DURATION_MAX.days}d")
    return timedelta(seconds=seconds)


def parse_size(text: str) -> int:
    """Read `64MiB`; returns bytes. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size; write it like 64MiB or 2GiB")
    return int(match[1]) * _BYTES[match[2]]


def toml_text(text: str) -> str:
    """Write any text as a basic string of TOML."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
    return '"' + "".join(plain) + '"'


def bytes_text(size_bytes: int) -> str:
    """A size for people: `0 B`, `12.5 MiB`, with the largest unit of which it has one or more."""
    unit, factor = max(
        ((unit, factor) for unit, factor in _BYTES.items() if size_bytes >= factor),
        key=lambda each: each[1],
        default=("B", 1),
    )
    return f"{size_bytes / factor:.1f} {unit}" if factor > 1 else f"{size_bytes} {unit}"

"""Times and durations for people: local, and as long as they need to be."""

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
SECONDS_WITH_FRACTION_MAX: Final = 10.0


def local_time_text(at_ms: int) -> str:
    """A time to the second, in the time zone of this machine, which it names."""
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC).astimezone():%F %T %Z}"


def duration_text(duration_ms: int) -> str:
    """A duration in its two largest units: `2 h 5 min`; below 10 s with a fraction."""
    seconds = max(0, duration_ms) / 1000
    if seconds < SECONDS_WITH_FRACTION_MAX:
        return f"{seconds:.2g} s" if seconds >= 1 or not seconds else f"{duration_ms} ms"
    rest, parts = round(seconds), list[str]()
    for length, name in _UNITS:
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
        if len(parts) == len(_UNITS[:2]):
            break
    return " ".join(filter(None, parts))

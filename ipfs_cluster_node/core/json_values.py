"""The one rule by which values of rows and results become JSON: exactly, or as text. Pure."""

import base64
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

EXACT_INTEGER_MAX: Final = 2**53
"""The largest that a double holds with all below it; readers take numbers of JSON for doubles."""


def json_value(value: Any) -> Any:
    """The JSON form of a value, as docs/json.md describes it.

    Raises:
        TypeError: A type without one.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= EXACT_INTEGER_MAX else str(value)
        case float():
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case Decimal():
            return str(value)
        case datetime():
            return _time_text(value.astimezone(UTC))
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): json_value(inner) for key, inner in value.items()}
        case list() | tuple():
            return [json_value(inner) for inner in value]
        case _:
            raise TypeError(f"no JSON form of {type(value).__name__}")


def _time_text(time: datetime) -> str:
    microseconds = time.microsecond
    digits = "microseconds" if microseconds % 1000 else "milliseconds"
    text = time.isoformat(timespec=digits if microseconds else "seconds")
    return text.replace("+00:00", "Z")

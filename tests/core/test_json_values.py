"""Numbers in JSON: exact, or text."""

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from ipfs_cluster_node.core.json_values import json_value

BEFORE_NOON = datetime(2026, 3, 1, 11, tzinfo=timezone(timedelta(hours=-1)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**53, 2**53),
        (-(2**53), -(2**53)),
        (2**53 + 1, "9007199254740993"),
        (-(2**63), "-9223372036854775808"),
        (True, True),
        (None, None),
        (Decimal("12.50"), "12.50"),
        (0.1, 0.1),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (b"\xff", "/w=="),
        (BEFORE_NOON, "2026-03-01T12:00:00Z"),
        (datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC), "2026-03-01T12:00:00.123Z"),
        (datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC), "2026-03-01T12:00:00.000001Z"),
        ({"a": [2**60, (math.nan,)]}, {"a": [str(2**60), ["NaN"]]}),
    ],
)
def test_a_value_is_exact_or_text(value: Any, shown: Any) -> None:
    assert json_value(value) == shown
    assert type(json_value(value)) is type(shown)


def test_what_has_no_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="set"):
        json_value({"a": set()})

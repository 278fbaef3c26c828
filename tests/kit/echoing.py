"""A module with functions that kits register as handlers."""

from typing import Any


def doubled(payload: dict[str, Any]) -> dict[str, Any]:
    """Twice the number."""
    return {"number": 2 * payload["number"]}


alias = lambda payload: payload  # noqa: E731

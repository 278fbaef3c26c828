"""A module with functions that kits register as handlers."""

from collections.abc import Iterator
from typing import Any


def doubled(payload: dict[str, Any]) -> dict[str, Any]:
    """Twice the number."""
    return {"number": 2 * payload["number"]}


alias = lambda payload: payload  # noqa: E731


def doubled_or(payload: dict[str, Any], default: int = 1) -> dict[str, Any]:
    """Twice the number, or the default."""
    return {"number": 2 * payload.get("number", default)}


def of_two(payload: dict[str, Any], context: object) -> dict[str, Any]:
    """No handler: nobody gives it a context."""
    assert context
    return payload


def of_none() -> dict[str, Any]:
    """No handler: it takes nothing."""
    return {}


def by_keyword(*, payload: dict[str, Any]) -> dict[str, Any]:
    """No handler: the payload has no name."""
    return payload


async def later(payload: dict[str, Any]) -> dict[str, Any]:
    """No handler: nobody awaits it."""
    return payload


def each(payload: dict[str, Any]) -> Iterator[str]:
    """No handler: nobody asks it for the next one."""
    yield from payload

"""A module that imports what the processes of handlers do not have."""

from typing import Any

import no_such_module  # type: ignore[import-not-found]


def doubled(payload: dict[str, Any]) -> dict[str, Any]:
    """Twice the number."""
    assert no_such_module
    return {"number": 2 * payload["number"]}

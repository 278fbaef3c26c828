"""A process that ends at any of its operations on files."""

from collections.abc import Callable
from typing import Any

import pytest


class CrashError(Exception):
    """The process ended."""


class Crash:
    """Ends the process before or after its n-th operation on files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *operations: tuple[Any, str]) -> None:
        self._count = 0
        self._at = 0
        for owner, name in operations:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def ends(self, point: int, action: Callable[[], Any]) -> bool:
        """Run an action; returns whether it ended at this point, the first being 1."""
        self._count, self._at = 0, point
        try:
            action()
        except CrashError:
            return True
        finally:
            self._at = 0
        return False

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self._step()
            result = operation(*args, **options)
            self._step()
            return result

        return run

    def _step(self) -> None:
        self._count += 1
        if self._count == self._at:
            raise CrashError

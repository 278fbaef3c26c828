"""A part of a node."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

Loop = Callable[[], Awaitable[None]]
"""Runs until it is cancelled. Its end stops the node: none may fail silently."""

STOP_GRACE_SECONDS: Final = 2.0
"""For calls in progress when a port is closed."""
NO_LOOPS: Final[Mapping[str, Loop]] = MappingProxyType({})


class Part:
    """What a node starts and stops together. Its constructor takes what it needs.

    In this order: `attach`, `bind`, `prepare`, `begin`, then `loops` run, `leave`, `close`. In a
    node that runs, a part is attached last, and detached first: it can't be used before it works.
    """

    loops: Mapping[str, Loop] = NO_LOOPS

    def attach(self) -> None:
        """Have the other parts use this one; must not fail."""

    def bind(self) -> None:
        """Bind further ports; raises PORT_IN_USE."""

    async def prepare(self) -> None:
        """Prepare what callers rely on. The node does not answer yet."""

    async def begin(self) -> None:
        """Start once the node answers, but before it votes or works."""

    async def leave(self) -> None:
        """Return what others wait for; every loop still runs."""

    def detach(self) -> None:
        """Have the other parts use this one no longer, once its loops have ended."""

    async def close(self) -> None:
        """Clean up after the loops, or after what failed before they ran."""

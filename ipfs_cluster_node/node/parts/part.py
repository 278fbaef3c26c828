"""A part of a node."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from ipfs_cluster_node.services.gate import Gate

Loop = Callable[[], Awaitable[None]]
"""Runs until it is cancelled. Its end stops the node: none may fail silently."""

STOP_GRACE_SECONDS: Final = 2.0
"""For calls in progress when a port is closed."""
NO_LOOPS: Final[Mapping[str, Loop]] = MappingProxyType({})


class Part:
    """What a node starts and stops together. Its constructor takes what it needs.

    In this order: `serve`, `bind`, `prepare`, `begin`, then `loops` run, `leave`, `close`.
    """

    loops: Mapping[str, Loop] = NO_LOOPS

    def serve(self, gate: Gate) -> None:
        """Add services to the port for members."""

    def bind(self) -> None:
        """Bind further ports; raises PORT_IN_USE."""

    async def prepare(self) -> None:
        """Prepare what callers rely on. The node does not answer yet."""

    async def begin(self) -> None:
        """Start once the node answers, but before it votes or works."""

    async def leave(self) -> None:
        """Return what others wait for; every loop still runs."""

    async def close(self) -> None:
        """Clean up after the loops; the node no longer answers."""

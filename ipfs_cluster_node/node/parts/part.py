"""A part of a node."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from ipfs_cluster_node.services.gate import Gate

Loop = Callable[[], Awaitable[None]]
"""Runs until it is cancelled. The end of one ends the node: none may fail in silence."""

STOP_GRACE_SECONDS: Final = 2.0
"""For calls that run when a port is closed."""
NO_LOOPS: Final[Mapping[str, Loop]] = MappingProxyType({})


class Part:
    """What a node starts and stops together. It takes what it needs in its constructor.

    In this order: `serve`, `bind`, `prepare`, `begin`, then `loops` run, `leave`, `close`.
    """

    loops: Mapping[str, Loop] = NO_LOOPS

    def serve(self, gate: Gate) -> None:
        """Add services to the port for members."""

    def bind(self) -> None:
        """Take further ports; raises PORT_IN_USE."""

    async def prepare(self) -> None:
        """Make ready what callers rely on. The node answers nobody yet."""

    async def begin(self) -> None:
        """Go on once the node answers, before anything of it votes or works."""

    async def leave(self) -> None:
        """Give back what others wait for; every loop still runs."""

    async def close(self) -> None:
        """End what the loops leave behind; the node answers nobody any longer."""

"""Stores that are measured beside each other: three members on this machine, over mutual TLS."""

from pathlib import Path
from typing import Final, Protocol

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.core.ids import NodeId

MEMBERS: Final = 3
KEYS: Final = 256
"""How many keys are written, over and over."""


class Store(Protocol):
    """Three members, numbered from 0, each a process of its own."""

    name: str
    addresses: list[str]
    hosts: list[NodeId | None]
    """Who must answer there; None where the address is in the certificate."""
    tls: ClientTls
    put_method: str
    batch_method: str

    async def start(self, root: Path) -> None:
        """Start all members in a new directory; returns once one leads."""

    async def stop(self) -> None:
        """Stop all members."""

    async def leader(self) -> int:
        """Which member leads."""

    async def kill(self, member: int) -> None:
        """End a member's process with SIGKILL."""

    async def restart(self, member: int) -> None:
        """Start a killed member again; returns once it takes part."""

    def put(self, number: int) -> bytes:
        """A request that writes one key."""

    def batch(self, number: int, count: int) -> bytes:
        """A request that writes so many keys, all or none."""

    def check(self, answer: bytes) -> None:
        """Raise AssertionError where an answer to a request does not say that it was done."""


def text_field(number: int, value: bytes) -> bytes:
    """A field of a protobuf message: bytes, text or another message."""
    length, size = b"", len(value)
    while size > 127:
        length += bytes((size & 127 | 128,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + value

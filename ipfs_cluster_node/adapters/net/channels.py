"""Channels to several nodes with one certificate, which may be renewed meanwhile."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import grpc

from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.core.ids import NodeId

READY_SECONDS_MAX: Final = 5.0
OLD_CALLS_SECONDS_MAX: Final = 6 * 3600.0
"""How long calls may continue on a channel that was put aside."""

Target = tuple[str, NodeId | None]
"""An address, and the node that must answer there."""


class Channels:
    """One channel per target, created on first use."""

    def __init__(self, tls: Callable[[], ClientTls | None]) -> None:
        """Present the credentials that `tls` returns at the time."""
        self._tls = tls
        self._channels: dict[Target, grpc.aio.Channel] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def get(self, target: Target) -> grpc.aio.Channel:
        """The channel to one node."""
        channel = self._channels.get(target)
        if channel is None:
            channel = self._channels[target] = self._open(target)
        return channel

    def put_aside(self, target: Target) -> None:
        """Stop using this channel; calls in progress on it finish first."""
        channel = self._channels.pop(target, None)
        if channel is not None:
            self._retire(channel)

    async def renew(self) -> None:
        """Replace the channels once new ones are ready; calls in progress finish on the old."""
        for target, old in list(self._channels.items()):
            new = self._open(target)
            # The next call connects again to a target that does not answer.
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS_MAX):
                    await new.channel_ready()
            if self._channels.get(target) is not old:
                await new.close()
                continue
            self._channels[target] = new
            self._retire(old)

    async def close(self) -> None:
        """Close every channel."""
        for ending in list(self._ending):
            ending.cancel()
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))

    def _open(self, target: Target) -> grpc.aio.Channel:
        address, node_id = target
        return open_channel(address, tls=self._tls(), node_id=node_id)

    def _retire(self, channel: grpc.aio.Channel) -> None:
        ending = asyncio.create_task(channel.close(OLD_CALLS_SECONDS_MAX), name="old-channel")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

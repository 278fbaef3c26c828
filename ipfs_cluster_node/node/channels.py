"""Channels to other nodes, by this node's certificate, which is renewed under them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import grpc

from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.client.connection import OLD_CALLS_SECONDS_MAX, READY_SECONDS_MAX
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.peers import PeerBook


class PeerChannels:
    """One channel to each node for bulk traffic; those of the log are its links' own."""

    def __init__(self, peers: PeerBook, tls: Callable[[], ClientTls]) -> None:
        """Open by what `tls` gives, where `peers` says."""
        self._peers = peers
        self._tls = tls
        self._channels: dict[NodeId, tuple[str, grpc.aio.Channel]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def bulk(self, node_id: NodeId) -> grpc.aio.Channel | None:
        """The channel for content, apart from the log's; None where no address is known."""
        endpoints = self._peers.endpoints(node_id)
        known = self._channels.get(node_id)
        if known is not None and known[0] in endpoints:
            return known[1]
        if not endpoints:
            return None
        channel = open_channel(endpoints[0], tls=self._tls(), node_id=node_id)
        self._channels[node_id] = (endpoints[0], channel)
        if known is not None:
            self._retire(known[1])
        return channel

    def dial_raft(self, node_id: NodeId) -> grpc.aio.Channel | None:
        """A new channel with a connection of its own, for the caller to close."""
        endpoints = self._peers.endpoints(node_id)
        if not endpoints:
            return None
        return open_channel(endpoints[0], tls=self._tls(), node_id=node_id, own_connection=True)

    async def renew(self, tls: ClientTls) -> None:
        """Show the new certificate to other nodes; what is under way goes on as it began."""
        for node_id, known in list(self._channels.items()):
            address, old = known
            new = open_channel(address, tls=tls, node_id=node_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS_MAX):
                    await new.channel_ready()
            if self._channels.get(node_id) is not known:
                await new.close()  # It moved meanwhile, and was called with the new certificate.
                continue
            self._channels[node_id] = (address, new)
            self._retire(old)

    def _retire(self, channel: grpc.aio.Channel) -> None:
        ending = asyncio.create_task(channel.close(OLD_CALLS_SECONDS_MAX), name="old-channel")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Close every channel."""
        for ending in list(self._ending):
            ending.cancel()
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for _, channel in channels))

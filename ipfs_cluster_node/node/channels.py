"""Channels to other nodes, at their current addresses."""

from collections.abc import Callable

import grpc

from ipfs_cluster_node.adapters.net.channels import Channels
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.core.ids import NodeId


class PeerChannels(Channels):
    """One channel to each node for bulk traffic; the log's links have their own."""

    def __init__(self, peers: PeerBook, tls: Callable[[], ClientTls]) -> None:
        """Open with the credentials of `tls`, at the addresses of `peers`."""
        super().__init__(tls)
        self._peers = peers
        self._addresses: dict[NodeId, str] = {}

    def bulk(self, node_id: NodeId) -> grpc.aio.Channel | None:
        """The channel for content, apart from the log's; None if no address is known."""
        endpoints = self._peers.endpoints(node_id)
        if not endpoints:
            return None
        known = self._addresses.get(node_id)
        if known not in endpoints:
            if known is not None:
                self.put_aside((known, node_id))
            known = self._addresses[node_id] = endpoints[0]
        return self.get((known, node_id))

    def dial_raft(self, node_id: NodeId) -> grpc.aio.Channel | None:
        """A new channel with its own connection, for the caller to close."""
        endpoints = self._peers.endpoints(node_id)
        if not endpoints:
            return None
        return open_channel(endpoints[0], tls=self._tls(), node_id=node_id, own_connection=True)

"""Channels to peers that move, and revocations that are passed on."""

import asyncio
from pathlib import Path

import grpc
import pytest

from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.channels import PeerChannels
from ipfs_cluster_node.worker.v1 import node_pb2
from tests.support.tls import enrol, make_ca


@pytest.mark.asyncio
async def test_the_channel_to_where_a_node_was_is_closed(tmp_path: Path) -> None:
    """Once it stayed open, and a renewal could put the old address back."""
    member = enrol(make_ca())
    node_id: NodeId = member.identity.node_id
    peers = PeerBook(tmp_path / "masters.json")
    where = ["127.0.0.1:1"]
    peers.lookup = lambda _node: tuple(where)
    channels = PeerChannels(peers, lambda: member.tls)
    before = channels.bulk(node_id)
    assert before is not None
    assert channels.bulk(node_id) is before
    where[:] = ["127.0.0.1:2"]
    after = channels.bulk(node_id)
    assert after is not None
    assert after is not before
    async with asyncio.timeout(5):
        while before.get_state() is not grpc.ChannelConnectivity.SHUTDOWN:
            await asyncio.sleep(0.01)
    assert channels.bulk(node_id) is after
    where.clear()
    assert channels.bulk(node_id) is None
    await channels.close()


def test_whoever_watches_streams_is_told_what_the_leader_tells() -> None:
    revocations, told = Revocations(), []
    revocations.on_change = lambda: told.append(revocations.version)
    revocations.take(node_pb2.Revocations(version=7))
    assert told == [7]

"""A link's attempts to connect."""

import asyncio

import pytest

from ipfs_cluster_node.adapters.raft import link as links
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.link import Link
from ipfs_cluster_node.core.ids import VoterId


@pytest.mark.asyncio
async def test_a_peer_that_is_heard_in_the_moment_of_a_timeout_harms_nothing() -> None:
    link = Link(
        own=VoterId("a.1"),
        peer=VoterId("b.1"),
        dial=lambda _node: None,
        config=RaftConfig(),
        on_change=lambda _peer, _up: None,
    )
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as attempt:
            link._attempt = attempt
            link._attempt_began = -links.HURRY_SECONDS
            attempt.reschedule(loop.time())
            loop.call_soon(link.hurry)
            await asyncio.sleep(1)
    assert link._attempt is None

"""A link's attempts to connect."""

import asyncio

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.link import Link
from ipfs_cluster_node.adapters.raft.witness import Mark
from ipfs_cluster_node.core.ids import VoterId


def a_link() -> Link:
    return Link(
        own=VoterId("a.1"),
        peer=VoterId("b.1"),
        dial=lambda _node: None,
        config=RaftConfig(),
        on_change=lambda _peer, _up: None,
        boot=1,
        claim=Mark,
        on_refused=lambda _peer, _error: None,
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(("age", "outcome"), [(0.1, "went on"), (1.0, "began anew")])
async def test_an_old_attempt_begins_anew_once_the_peer_is_heard(age: float, outcome: str) -> None:
    link, came = a_link(), ""
    try:
        async with asyncio.timeout(None) as link._attempt:
            link._attempt_began = now() - age
            link.hurry()
            await asyncio.sleep(0.01)
            came = "went on"
    except TimeoutError:
        came = "began anew"
    assert came == outcome


@pytest.mark.asyncio
async def test_a_peer_that_is_heard_in_the_moment_of_a_timeout_harms_nothing() -> None:
    link, loop = a_link(), asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as attempt:
            link._attempt, link._attempt_began = attempt, now() - 1.0
            attempt.reschedule(loop.time())
            loop.call_soon(link.hurry)
            await asyncio.sleep(1)
    assert link._attempt is None

"""A blocked loop is measured, and its own pause is not taken for the silence of others."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.core.commands import SetLiveness
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.listening import LISTENED_STEP_SECONDS_MAX, ListenedTime
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.node.loop_gaps import DEGRADED_SECONDS, STEP_SECONDS, LoopGaps
from tests.support.virtual_time import loop_clock, virtual_loop, virtual_time

LEADER, WORKER = NodeId("12D3KooWleader"), NodeId("12D3KooWworker")
LEASE_SECONDS = 5.0


@given(st.lists(st.floats(0, 20), max_size=50))
def test_listened_time_never_goes_back_or_ahead_of_the_clock(steps: list[float]) -> None:
    time, now = ListenedTime(), 0.0
    for step in steps:
        before = time.at(now)
        now += step
        assert before <= time.at(now) <= now
        assert time.at(now) - before <= LISTENED_STEP_SECONDS_MAX + 1e-9
        time = time.after(now)


def test_a_clock_that_goes_back_takes_nothing_of_what_was_listened() -> None:
    time = ListenedTime(moment=5.0, listened=2.0)
    assert time.at(4.0) == 2.0
    assert time.after(4.0) == ListenedTime(4.0, 2.0)


def test_a_gap_costs_no_more_than_a_small_part_of_a_lease() -> None:
    """Otherwise a leader that stood still a few times would find a node silent that was not."""
    assert 5 * STEP_SECONDS < LISTENED_STEP_SECONDS_MAX <= LEASE_SECONDS / 20


@virtual_time
async def test_measuring_that_begins_again_goes_on_with_what_was_listened() -> None:
    gaps = LoopGaps(clock=loop_clock())
    for run in (1, 2):
        task = asyncio.create_task(gaps.run())
        await asyncio.sleep(1)
        task.cancel()
        assert gaps.listened_seconds() == pytest.approx(run, abs=0.1)
        await asyncio.sleep(30)


@virtual_time
async def test_the_longest_gap_of_the_last_minute_is_told() -> None:
    gaps = LoopGaps(clock=loop_clock())
    task = asyncio.create_task(gaps.run())
    await asyncio.sleep(1)
    assert gaps.longest_seconds() < 0.01
    virtual_loop().advance(0.7)
    assert gaps.longest_seconds() == pytest.approx(0.7, abs=0.05)  # Under way.
    await asyncio.sleep(1)
    virtual_loop().advance(0.3)
    await asyncio.sleep(1)
    assert gaps.longest_seconds() == pytest.approx(0.7, abs=0.05)
    assert gaps.check().degraded
    await asyncio.sleep(60 - 1.5)
    assert gaps.longest_seconds() == pytest.approx(0.3, abs=0.05)
    assert gaps.longest_seconds() < DEGRADED_SECONDS
    assert not gaps.check().degraded
    await asyncio.sleep(2)
    assert gaps.longest_seconds() < 0.01
    task.cancel()


@virtual_time
async def test_what_passes_before_measuring_begins_is_no_gap() -> None:
    """A node's start takes seconds, and would be reported as a blocked loop."""
    gaps = LoopGaps(clock=loop_clock())
    virtual_loop().advance(3)
    task = asyncio.create_task(gaps.run())
    await asyncio.sleep(1)
    assert gaps.longest_seconds() < 0.01
    task.cancel()


class _Cluster:
    """A leader's view of one worker."""

    def __init__(self, gaps: LoopGaps) -> None:
        self.proposed: list[Any] = []
        nodes = {
            node_id: SimpleNamespace(node_id=node_id, liveness=Liveness.ALIVE)
            for node_id in (LEADER, WORKER)
        }
        state = SimpleNamespace(
            members=SimpleNamespace(node=nodes.get, nodes=nodes.values),
            settings={"node_lease": int(LEASE_SECONDS * 1000)},
        )

        async def propose(body: Any) -> tuple[str, ...]:
            self.proposed.append(body)
            return ()

        consensus: Any = SimpleNamespace(
            node_id=LEADER,
            is_leader=True,
            leader_state=lambda: state,
            state=lambda: state,
            propose=propose,
        )
        self.members = Members(
            consensus, Observations(gaps.listened_seconds), cast("Any", None), clock=loop_clock()
        )
        self.members.on_leadership(True)

    @property
    def dead(self) -> list[NodeId]:
        return [n for body in self.proposed if isinstance(body, SetLiveness) for n in body.dead]


@virtual_time
async def test_a_leader_that_stood_still_gives_silent_nodes_the_rest_of_their_lease() -> None:
    """It judged leases by times from before it was blocked, and declared every node dead."""
    gaps = LoopGaps(clock=loop_clock())
    cluster = _Cluster(gaps)
    tasks = [asyncio.create_task(gaps.run()), asyncio.create_task(cluster.members.run())]
    for _ in range(3):
        await asyncio.sleep(1)
        cluster.members.heartbeat(WORKER)
    await asyncio.sleep(1)
    virtual_loop().advance(2 * LEASE_SECONDS)
    await asyncio.sleep(1)
    assert not cluster.dead
    cluster.members.heartbeat(WORKER)
    await asyncio.sleep(LEASE_SECONDS - 1)
    assert not cluster.dead
    await asyncio.sleep(2)
    assert cluster.dead[0] == WORKER
    for task in tasks:
        task.cancel()


@virtual_time
async def test_a_leader_that_listens_finds_a_silent_node_within_its_lease() -> None:
    gaps = LoopGaps(clock=loop_clock())
    cluster = _Cluster(gaps)
    tasks = [asyncio.create_task(gaps.run()), asyncio.create_task(cluster.members.run())]
    await asyncio.sleep(LEASE_SECONDS - 0.5)
    assert not cluster.dead
    await asyncio.sleep(1.5)
    assert cluster.dead[0] == WORKER
    assert cluster.members.node_lease() == timedelta(seconds=LEASE_SECONDS)
    for task in tasks:
        task.cancel()

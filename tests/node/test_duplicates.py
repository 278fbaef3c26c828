"""Two processes of one identity: the one that runs keeps its place, the other one says why."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ipfs_cluster_node.adapters.net.tls import SERVER_OPTIONS
from ipfs_cluster_node.cluster.members import Members
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.sessions import hello_to_proto
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.boots import UNKNOWN, Boots
from ipfs_cluster_node.core.commands import RegisterNode
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.node.node import Node
from ipfs_cluster_node.node.uplink import RUNS_TWICE_SECONDS_MAX, Uplink
from ipfs_cluster_node.worker.v1 import node_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.dispatch import MemoryCall, MemoryConsensus
from tests.support.survivors import home_of_three
from tests.support.virtual_time import loop_clock, monotonic, virtual_time
from tests.support.worlds import WORKER, World

FIRST, COPY = 5, 6


class Leader:
    def __init__(self) -> None:
        consensus: Any = MemoryConsensus(World().state)
        observations = Observations(monotonic)
        self.sessions = WorkerSessions(
            consensus, Tasks(consensus, observations), observations, clock=loop_clock()
        )

    async def hello(self, boot: int) -> tuple[MemoryCall, bool]:
        """Begin a session; returns whether it was welcomed."""
        call = MemoryCall(lambda requests: self.sessions.worker_session(WORKER, requests))
        await call.write(pb.WorkerSessionRequest(hello=hello_to_proto((), boot)))
        try:
            return call, isinstance(await call.read(), pb.WorkerSessionResponse)
        except Exception as error:
            assert error_from_rpc(error).reason is Reason.MEMBER_RUNS_TWICE  # type: ignore[arg-type]
            return call, False


@virtual_time
async def test_a_copied_worker_gets_no_session_and_the_first_one_keeps_its_own() -> None:
    """They displaced each other, and ran nothing."""
    leader = Leader()
    first, welcomed = await leader.hello(FIRST)
    assert welcomed
    for _ in range(3):
        assert not (await leader.hello(COPY))[1]
    reading = asyncio.ensure_future(first.read())
    await asyncio.sleep(1)
    assert not reading.done()
    reading.cancel()


@virtual_time
async def test_the_same_worker_may_begin_anew_and_another_one_once_it_is_gone() -> None:
    leader = Leader()
    first, _ = await leader.hello(FIRST)
    again, welcomed = await leader.hello(FIRST)
    assert welcomed
    for call in (first, again):
        call.cancel()
    await asyncio.sleep(0.1)
    assert (await leader.hello(COPY))[1]


class Registry:
    """Members of a leader, with one worker that has a connection open."""

    def __init__(self) -> None:
        self.registered: list[RegisterNode] = []
        node = SimpleNamespace(role=Role.WORKER, incarnation=0, liveness=Liveness.ALIVE)
        state = SimpleNamespace(
            members=SimpleNamespace(node=lambda _node_id: node), settings={"node_lease": 5000}
        )

        async def propose(body: Any) -> tuple[str, ...]:
            self.registered.append(body)
            return ()

        consensus: Any = SimpleNamespace(
            leader_state=lambda: state, state=lambda: state, propose=propose, replica=None
        )
        self.members = Members(
            consensus, Observations(monotonic), cast("Any", None), clock=loop_clock()
        )
        self.members.boots = Boots()
        self.members.boots.joined(WORKER, FIRST)

    async def register(self, boot: int) -> None:
        body = RegisterNode(node_id=WORKER, endpoints=(), task_types=(), slot_count=1, version="1")
        await self.members.register_node(body, incarnation=0, boot=boot)


@pytest.mark.asyncio
async def test_a_copy_neither_registers_nor_renews_the_lease() -> None:
    """Otherwise the addresses and task types of the copy would take the place of the first one's."""
    registry = Registry()
    with pytest.raises(ClusterError) as raised:
        await registry.register(COPY)
    assert raised.value.reason is Reason.MEMBER_RUNS_TWICE
    assert registry.registered == []
    with pytest.raises(ClusterError):
        registry.members.heartbeat(WORKER, boot=COPY)
    await registry.register(FIRST)
    registry.members.heartbeat(WORKER, boot=FIRST)
    assert len(registry.registered) == 1


class TwiceConnection:
    """A leader that refuses for so long."""

    def __init__(self, seconds: float) -> None:
        self.calls: list[Any] = []
        self.refuse(Reason.MEMBER_RUNS_TWICE, seconds)

    def refuse(self, reason: Reason, seconds: float) -> None:
        self._reason, self._until = reason, monotonic() + seconds

    async def unary(self, request: Any, **_: Any) -> Any:
        self.calls.append(request)
        if monotonic() < self._until:
            raise ClusterError(self._reason, "runs already")
        response = node_pb2.HeartbeatResponse()
        response.node_lease.FromSeconds(5)
        return response

    def learn(self, _targets: Any) -> None:
        """Nothing."""


def uplink_to(connection: TwiceConnection, *, votes_alone: bool = False) -> Uplink:
    peers: Any = SimpleNamespace(leader=None, learn=lambda *_: None, targets=list)
    revocations: Any = SimpleNamespace(version=0, take=lambda _news: None)
    as_connection: Any = connection
    return Uplink(
        connection=as_connection,
        peers=peers,
        registration=node_pb2.RegisterNodeRequest(boot=COPY),
        revocations=revocations,
        room_bytes=lambda: 0,
        content_bytes=lambda: 0,
        votes_alone=lambda: votes_alone,
        clock=loop_clock(),
    )


@virtual_time
async def test_a_copy_ends_and_says_why_once_it_was_refused_for_long() -> None:
    uplink = uplink_to(TwiceConnection(1e9))
    began = monotonic()
    with pytest.raises(ClusterError, match="runs already"):
        await uplink.run()
    assert RUNS_TWICE_SECONDS_MAX < monotonic() - began < RUNS_TWICE_SECONDS_MAX + 1
    assert uplink.last_error == "runs already"


@virtual_time
async def test_the_only_voter_ends_at_once() -> None:
    """Until then it acknowledged what the process that leads never got."""
    connection = TwiceConnection(1e9)
    uplink = uplink_to(connection, votes_alone=True)
    began = monotonic()
    with pytest.raises(ClusterError, match="runs already"):
        await uplink.run()
    assert monotonic() == began
    assert len(connection.calls) == 1


@virtual_time
async def test_a_node_waits_for_a_connection_of_its_own_that_is_found_dead_later() -> None:
    connection = TwiceConnection(RUNS_TWICE_SECONDS_MAX - 1)
    running = asyncio.ensure_future(uplink_to(connection).run())
    await asyncio.sleep(2 * RUNS_TWICE_SECONDS_MAX)
    assert not running.done()
    assert {each.boot for each in connection.calls} == {COPY}
    running.cancel()


@virtual_time
async def test_refusals_before_and_after_a_leader_was_away_are_not_counted_together() -> None:
    """A leader that was blocked has not found the former connection dead yet."""
    connection = TwiceConnection(1.0)
    running = asyncio.ensure_future(uplink_to(connection).run())
    await asyncio.sleep(0.5)
    connection.refuse(Reason.NO_LEADER, seconds=2 * RUNS_TWICE_SECONDS_MAX)
    await asyncio.sleep(2 * RUNS_TWICE_SECONDS_MAX)
    connection.refuse(Reason.MEMBER_RUNS_TWICE, seconds=RUNS_TWICE_SECONDS_MAX - 1)
    await asyncio.sleep(RUNS_TWICE_SECONDS_MAX)
    assert not running.done()
    running.cancel()


@virtual_time
async def test_refusals_before_and_after_a_heartbeat_that_was_taken_are_not_counted_together() -> (
    None
):
    connection = TwiceConnection(RUNS_TWICE_SECONDS_MAX - 1)
    running = asyncio.ensure_future(uplink_to(connection).run())
    await asyncio.sleep(RUNS_TWICE_SECONDS_MAX + 2)
    connection.refuse(Reason.MEMBER_RUNS_TWICE, seconds=RUNS_TWICE_SECONDS_MAX - 1)
    await asyncio.sleep(RUNS_TWICE_SECONDS_MAX)
    assert not running.done()
    running.cancel()


def test_a_dead_connection_is_found_long_before_a_node_takes_its_process_for_another_one() -> None:
    options = dict(SERVER_OPTIONS)
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms")
    assert 2 * sum(int(options[name]) for name in names) < 1000 * RUNS_TWICE_SECONDS_MAX


@pytest.mark.asyncio
async def test_a_node_is_one_process_to_all_that_keeps_connections(tmp_path: Path) -> None:
    """Otherwise a copy that is refused here would be let in there, beside the one that runs."""
    home = home_of_three(tmp_path)
    node = Node(home, load_settings(home.config), clock=loop_clock())
    replica = node._member.consensus.replica
    assert replica is not None
    assert node._member.members.boots is node._member.sessions.boots is replica._boots
    boots = {node._member.uplink.boot, replica._boot, node._common.boot}
    assert boots != {UNKNOWN}
    assert len(boots) == 1
    with pytest.raises(ClusterError):
        node._common.boots.check(node.node_id, node._common.boot + 2)
    other = Node(home, load_settings(home.config), clock=loop_clock())
    assert other._common.boot != node._common.boot
    await other._stop()
    await node._stop()

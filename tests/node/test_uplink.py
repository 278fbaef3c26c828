"""A node's uplink to the leader: what each heartbeat says, and what its answer changes."""

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access.identify import REMOVED_KEY
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.uplink import (
    CALL_SECONDS_MAX,
    HEARTBEAT_ATTEMPT_SECONDS_MAX,
    HEARTBEAT_SECONDS_MAX,
    HEARTBEATS_PER_LEASE,
    RETRY_SECONDS,
    Uplink,
)
from ipfs_cluster_node.worker.v1 import node_pb2 as pb
from tests.support.virtual_time import loop_clock, monotonic, now_ms, virtual_time

BOOT = 7
LEADER = NodeId("12D3KooWleader")
NO_LEADER = ClusterError(Reason.NO_LEADER, "nobody leads")


class Leader:
    """Answers as it is told, in `seconds`; notes what it was asked and when."""

    def __init__(self) -> None:
        self.registered: list[float] = []
        self.heartbeats: list[tuple[float, pb.HeartbeatRequest]] = []
        self.error: Callable[[], ClusterError | None] = lambda: None
        self.lease_seconds, self.seconds = 5.0, 0.0
        self.answer = pb.HeartbeatResponse(certificate_epoch=9)
        self.answer.masters.add(node_id=LEADER, endpoints=["h:1"], leader=True)
        self.targets: list[Any] = []

    async def unary(self, request: Any, **options: Any) -> Any:
        if isinstance(request, pb.RegisterNodeRequest):
            assert options == {"timeout": CALL_SECONDS_MAX}
            self.registered.append(monotonic())
        else:
            # One that does not answer must not use up the lease.
            assert options["attempt_timeout"] == HEARTBEAT_ATTEMPT_SECONDS_MAX
            assert options["timeout"] == CALL_SECONDS_MAX
            self.heartbeats.append((monotonic(), request))
        error = self.error()
        if error is not None:
            raise error
        await asyncio.sleep(self.seconds)
        self.answer.time.FromMilliseconds(now_ms())
        self.answer.node_lease.FromMilliseconds(round(1000 * self.lease_seconds))
        return self.answer

    def learn(self, targets: Any) -> None:
        self.targets.append(targets)


class Line:
    """An uplink, and all around it that it tells or asks."""

    def __init__(self) -> None:
        self.leader = Leader()
        peers: Any = SimpleNamespace(leader=None, learn=self._learn, targets=lambda: "the targets")
        self.peers = peers
        self.revoked: list[Any] = []
        self.times: list[tuple[NodeId, float, float]] = []
        self.wanted: list[int] = []
        self.uplink = Uplink(
            connection=self.leader,  # type: ignore[arg-type]
            peers=self.peers,
            registration=pb.RegisterNodeRequest(boot=BOOT),
            room_bytes=lambda: 4,
            content_bytes=lambda: 7,
            votes_alone=lambda: False,
            revocations=SimpleNamespace(version=5, take=self.revoked.append),  # type: ignore[arg-type]
            clock=loop_clock(),
        )
        self.uplink.certificate_epoch = lambda: 6
        self.uplink.want_epoch = self.wanted.append
        self.uplink.on_time = lambda node_id, _time, sent, got: self.times.append(
            (node_id, sent, got)
        )
        self.running = asyncio.ensure_future(self.uplink.run())

    def _learn(self, masters: Any, leader: NodeId | None) -> None:
        self.known = dict(masters)
        self.peers.leader = leader

    def stop(self) -> None:
        self.running.cancel()


@virtual_time
async def test_a_node_registers_once_and_then_says_how_it_is() -> None:
    line = Line()
    await asyncio.sleep(3.5)
    assert len(line.leader.registered) == 1
    assert line.uplink.registered.is_set()
    assert line.leader.heartbeats[-1][1] == pb.HeartbeatRequest(
        room_bytes=4,
        content_bytes=7,
        certificate_epoch=6,
        revocations_version=5,
        boot=BOOT,
    )
    assert line.uplink.boot == BOOT
    assert line.known == {LEADER: ("h:1",)}
    assert line.peers.leader == LEADER
    assert line.leader.targets[-1] == "the targets"
    assert set(line.wanted) == {9}
    assert line.uplink.last_error == ""
    assert line.revoked == []
    line.leader.answer.revocations.version = 8
    await asyncio.sleep(1)
    assert [each.version for each in line.revoked] == [8]
    line.stop()


@virtual_time
@pytest.mark.parametrize("lease_seconds", [1.0, 5.0, 60.0])
async def test_a_lease_holds_several_heartbeats_and_a_second_holds_one(
    lease_seconds: float,
) -> None:
    """A cancelled attempt, or a new leader, is heard of soon however long the lease is."""
    line = Line()
    line.leader.lease_seconds = lease_seconds
    await asyncio.sleep(10)
    times = [at for at, _ in line.leader.heartbeats]
    pause = min(HEARTBEAT_SECONDS_MAX, lease_seconds / HEARTBEATS_PER_LEASE)
    assert times[-1] - times[-2] == pytest.approx(pause, abs=1e-3)
    line.stop()


@virtual_time
async def test_a_lease_is_counted_from_before_it_was_asked_for() -> None:
    """The leader counts from a later time: it never reassigns what this node still runs."""
    line = Line()
    line.leader.seconds = 0.8
    while len(line.leader.heartbeats) < 2:
        await asyncio.sleep(0.1)
    sent = line.leader.heartbeats[0][0]
    assert line.uplink.lease_seconds_left == pytest.approx(sent + 5 - monotonic(), abs=1e-3)
    assert line.uplink.lease_holds
    [(told, asked_at, got_at)] = line.times
    assert told == LEADER
    assert got_at - asked_at == pytest.approx(0.8, abs=1e-3)
    line.stop()


@virtual_time
async def test_who_leads_is_believed_as_long_as_the_lease_and_a_lapse_is_counted() -> None:
    line = Line()
    await asyncio.sleep(1.1)
    assert line.uplink.lapse_count == 0  # The first lease follows none.
    line.leader.error = lambda: NO_LEADER
    await asyncio.sleep(3)
    assert line.uplink.lease_seconds_left > 0
    assert line.peers.leader == LEADER
    await asyncio.sleep(3)
    assert line.uplink.lease_seconds_left < 0
    assert line.peers.leader is None
    assert line.uplink.last_error == "nobody leads"
    line.leader.error = lambda: None
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert line.uplink.lease_holds
    assert (line.uplink.lapse_count, line.uplink.last_error) == (1, "")
    assert len(line.leader.registered) == 1
    await asyncio.sleep(5)
    assert line.uplink.lapse_count == 1
    line.stop()


@virtual_time
async def test_who_is_no_member_registers_again_before_it_goes_on() -> None:
    line = Line()
    await asyncio.sleep(1.1)
    errors = iter([ClusterError(Reason.MEMBER_NOT_FOUND, "not known")])
    line.leader.error = lambda: next(errors, None)
    await asyncio.sleep(2)
    assert len(line.leader.registered) == 2
    assert line.uplink.registered.is_set()
    line.stop()


@virtual_time
async def test_a_clock_without_a_leaders_name_is_compared_with_nothing() -> None:
    line = Line()
    line.leader.answer.ClearField("masters")
    await asyncio.sleep(2)
    assert line.times == []
    assert line.uplink.lease_holds
    line.stop()


@virtual_time
async def test_what_goes_on_is_logged_once() -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.__dict__["error"])  # type: ignore[method-assign]
    logger = logging.getLogger("ipfs_cluster_node.node.uplink")
    logger.addHandler(handler)
    try:
        line = Line()
        errors = [NO_LEADER] * 5 + [ClusterError(Reason.UNREACHABLE, "nobody there")] * 5
        line.leader.error = lambda: errors.pop(0) if errors else None
        await asyncio.sleep(10)
        line.stop()
    finally:
        logger.removeHandler(handler)
    assert said == ["nobody leads", "nobody there"]


@virtual_time
async def test_a_removal_is_told_until_a_leader_hears_the_node_again() -> None:
    line = Line()
    told: list[ClusterError | None] = []
    line.uplink.on_removal = told.append
    removed = ClusterError(Reason.CALLER_UNKNOWN, "removed", metadata={REMOVED_KEY: "true"})
    line.leader.error = lambda: removed
    await asyncio.sleep(1)
    assert told[-1] is removed
    line.leader.error = lambda: NO_LEADER  # Says nothing of it.
    await asyncio.sleep(1)
    assert told[-1] is removed
    line.leader.error = lambda: None
    await asyncio.sleep(1)
    assert told.pop() is None
    line.stop()

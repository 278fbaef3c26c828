"""The replica under a simulated clock: the order of a step, its bounds, links, voters, its end."""

import asyncio
import errno
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.framing import Framer
from ipfs_cluster_node.adapters.raft.journal import SegmentedJournal
from ipfs_cluster_node.adapters.raft.replica import GATHER_QUIET_SECONDS, GATHER_SECONDS_MAX
from ipfs_cluster_node.adapters.raft.witness import NOTE_NAME, Mark, mark_to_proto
from ipfs_cluster_node.core.boots import UNKNOWN
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.v1 import raft_pb2 as pb
from tests.support.memory_replicas import (
    MemoryCluster,
    MemoryHost,
    hello,
    node,
    stream_of,
    until,
)
from tests.support.virtual_time import virtual_time

MakeCluster = Callable[..., MemoryCluster]
DEPENDS_ON_THE_WRITE = ("append_result", "vote_granted", "request_vote", "pre_vote_granted")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCluster:
    monkeypatch.setattr("tests.support.virtual_time.VIRTUAL_SECONDS_MAX", 120.0)

    def make(count: int = 3, **config: Any) -> MemoryCluster:
        return MemoryCluster(tmp_path, monkeypatch, count=count, config=RaftConfig(**config))

    return make


async def reason_of(call: Any) -> Reason:
    with pytest.raises(ClusterError) as raised:
        await call
    return raised.value.reason


def writes_under_way(host: MemoryHost, kind: str) -> list[bool]:
    """For each message of a kind, whether a write was under way as it was sent."""
    under_way, found = False, []
    for what, which in host.trace:
        if what == "write":
            under_way = which == "begins"
        elif what == "send" and which == kind:
            found.append(under_way)
    return found


# The order of a step.


@virtual_time
async def test_votes_and_acknowledgements_leave_only_after_the_write(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        for number in range(5):
            await leader.replica.propose(b"%d" % number)
        for host in cluster.hosts.values():
            for kind in DEPENDS_ON_THE_WRITE:
                assert not any(writes_under_way(host, kind)), kind
        for follower in cluster.others(leader):
            # Right behind each write there is the answer that depended on it.
            behind = [
                following
                for event, following in zip(follower.trace, follower.trace[1:], strict=False)
                if event == ("write", "ends")
            ]
            assert ("send", "append_result") in behind
            assert ("send", "vote_granted") in follower.trace


@virtual_time
async def test_a_follower_whose_write_has_not_ended_acknowledges_nothing(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        slow, cut = cluster.others(leader)
        cluster.cut(cut, leader, slow)
        await asyncio.sleep(0.2)
        slow.write_seconds = 0.4
        began = now()
        assert await leader.replica.propose(b"one") == (1, "one")
        assert now() - began >= 0.4


@virtual_time
async def test_a_leaders_entries_leave_before_its_own_write_has_ended(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        leader.write_seconds = 0.2
        leader.trace.clear()
        await leader.replica.propose(b"one")
        sends = leader.trace.index(("send", "append_entries"))
        assert sends < leader.trace.index(("write", "ends"))


@virtual_time
async def test_a_step_without_anything_to_write_writes_nothing(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await asyncio.sleep(1)
        leader.trace.clear()
        await asyncio.sleep(1)
        assert ("write", "begins") not in leader.trace
        beats = leader.trace.count(("send", "append_entries"))
        assert 2 * 8 <= beats <= 2 * 12


# Proposals.


@virtual_time
async def test_a_proposal_gets_what_the_machine_made_of_it(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        assert await leader.replica.propose(b"one") == (1, "one")
        assert await leader.replica.propose(b"two") == (2, "two")
        # One that raises is told so, and hinders nobody.
        assert await reason_of(leader.replica.propose(b"raise")) is Reason.INTERNAL
        assert await leader.replica.propose(b"three") == (3, "three")
        assert leader.replica.applied_index == leader.replica.commit_index
        assert leader.replica.position().index == leader.replica.applied_index
        await until(lambda: all(len(h.machine.commands) == 3 for h in cluster.hosts.values()))


@virtual_time
async def test_a_proposal_alone_waits_for_nothing(made: MakeCluster) -> None:
    """Neither for the next beat, nor for others to come."""
    async with made(1, tick_interval=timedelta(seconds=1)) as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        for number in range(10):
            began = now()
            await leader.replica.propose(b"%d" % number)
            assert now() - began < 0.01


@virtual_time
async def test_what_comes_at_once_is_committed_at_once(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        before = leader.replica.commit_index
        results = await asyncio.gather(*(leader.replica.propose(b"%d" % n) for n in range(50)))
        assert results == [(n + 1, str(n)) for n in range(50)]
        assert leader.replica.commit_index == before + 1


@virtual_time
async def test_a_batch_waits_for_a_crowd_and_for_nobody_else(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        replica, moment = leader.replica, now()
        turns = 0

        async def gather(count: int, last: int, *, comes: int) -> float:
            """How long it waits, where one more comes with each of the next turns."""
            nonlocal moment, turns
            began, turns = moment, 0
            proposals: Any = Waiting(count, last)
            replica.engine.proposals, kept = proposals, replica.engine.proposals
            sleep = asyncio.sleep

            async def turn(_seconds: float) -> None:
                nonlocal moment, turns
                turns += 1
                moment += 0.0004
                if turns <= comes:
                    proposals.waiting_count += 1
                await sleep(0)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("ipfs_cluster_node.adapters.raft.replica.now", lambda: moment)
                patched.setattr("asyncio.sleep", turn)
                await replica._gather()
            replica.engine.proposals = kept
            return moment - began

        assert await gather(1, 1, comes=0) == 0  # Alone.
        assert await gather(0, 5, comes=0) == 0  # Nobody waits.
        assert await gather(2, 0, comes=0) == pytest.approx(GATHER_QUIET_SECONDS, abs=0.0004)
        assert await gather(1, 2, comes=0) == pytest.approx(GATHER_QUIET_SECONDS, abs=0.0004)
        for comes in (5, 20):
            waited = await gather(2, 2, comes=comes)
            assert waited == pytest.approx(comes * 0.0004 + GATHER_QUIET_SECONDS, abs=0.0006)
        # Not for ever.
        assert await gather(2, 2, comes=1000) == pytest.approx(GATHER_SECONDS_MAX, abs=0.0006)


@virtual_time
async def test_what_a_crowd_calls_one_after_the_other_is_one_batch(made: MakeCluster) -> None:
    async with made(1) as cluster:
        replica = (await cluster.leader()).replica

        async def call(turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await replica.propose(b"x")

        await asyncio.gather(*(call(0) for _ in range(4)))
        before = replica.commit_index
        await asyncio.gather(*(call(turns) for turns in range(0, 20, 2)))
        assert replica.commit_index == before + 1


class Waiting:
    """Proposals that wait, as far as gathering looks at them."""

    def __init__(self, count: int, last: int) -> None:
        self.waiting_count = count
        self.batch_count_last = last
        self.under_way = False

    @property
    def waits(self) -> bool:
        return self.waiting_count > 0


@virtual_time
async def test_a_batch_under_way_is_gathered_for_by_nobody(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        proposals: Any = Waiting(5, 5)
        proposals.under_way = True
        leader.replica.engine.proposals, kept = proposals, leader.replica.engine.proposals
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("asyncio.sleep", None)
            await leader.replica._gather()
        leader.replica.engine.proposals = kept


@virtual_time
async def test_who_gave_up_before_its_proposal_went_is_left_out(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        first = asyncio.ensure_future(leader.replica.propose(b"first"))
        await asyncio.sleep(0)
        while not leader.replica.engine.proposals.under_way:
            await asyncio.sleep(0.0001)
        gone = asyncio.ensure_future(leader.replica.propose(b"gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await first
        await leader.replica.propose(b"next")
        assert leader.machine.commands == ["first", "next"]


@virtual_time
async def test_who_gave_up_while_it_was_under_way_harms_nobody(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        gone = asyncio.ensure_future(leader.replica.propose(b"gone"))
        while not leader.replica.engine.proposals.under_way:
            await asyncio.sleep(0.0001)
        gone.cancel()
        assert await leader.replica.propose(b"next") == (2, "next")


@virtual_time
async def test_a_follower_takes_no_proposals_and_names_the_leader(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        for follower in cluster.others(leader):
            assert await reason_of(follower.replica.propose(b"two")) is Reason.NOT_LEADER
            assert follower.replica.leader == leader.node_id
            assert follower.replica.term == leader.replica.term
            assert not follower.replica.is_leader
            assert not follower.replica.leads_for_sure
        assert leader.replica.is_leader
        assert leader.replica.leader == leader.node_id


@virtual_time
async def test_the_age_of_what_a_follower_has_grows_while_it_is_cut_off(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        await asyncio.sleep(1)
        follower, other = cluster.others(leader)
        assert follower.replica.age_ms <= 200
        cluster.cut(follower, leader, other)
        await asyncio.sleep(5)
        assert 4700 <= follower.replica.age_ms <= 5300


# Leading.


@virtual_time
async def test_a_leader_that_is_cut_off_loses_its_lease_before_another_one_leads(
    made: MakeCluster,
) -> None:
    """What it would answer reads from meanwhile would be old."""
    async with made() as cluster:
        leader = await cluster.leader()
        began: list[tuple[bool, int]] = []
        leader.replica.on_leadership = lambda leads, term: began.append((leads, term))
        assert leader.replica.on_leadership is leader.replica.engine.on_leadership
        cluster.cut(leader, *cluster.others(leader))
        both = 0
        for _ in range(300):
            await asyncio.sleep(0.01)
            sure = [h for h in cluster.hosts.values() if h.replica.leads_for_sure]
            both = max(both, len(sure))
        assert both == 1
        assert await cluster.leader(but=leader) is not leader
        assert began == [(False, leader.replica.term)]
        assert not leader.replica.leads_for_sure


@virtual_time
async def test_a_leader_whose_disk_hangs_leads_no_longer(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        assert leader.replica.slow_write_seconds == 0
        leader.write_seconds = 3.0
        began = now()
        waiting = asyncio.ensure_future(leader.replica.propose(b"two"))
        assert await reason_of(waiting) is Reason.UNKNOWN_OUTCOME
        fallback = RaftConfig().fallback_timeout.total_seconds()
        assert fallback <= now() - began < fallback + 0.2
        assert not leader.replica.is_leader
        await asyncio.sleep(4)
        assert leader.replica.slow_write_seconds >= 3.0


# What comes in.


def claim(voter: str, mark: Mark = Mark(100, 100, 100)) -> pb.ExchangeRequest:  # noqa: B008
    return pb.ExchangeRequest(claim=mark_to_proto(VoterId(voter), mark))


@virtual_time
async def test_a_stream_that_speaks_for_another_voter_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        [host] = [h for h in cluster.hosts.values() if h.voter == "n1.1"]
        for first in (hello("n2.1"), hello(""), claim("n3.1")):
            answers = host.replica.exchange(node("n3"), stream_of(first))
            assert await reason_of(anext(answers)) is Reason.CALLER_NOT_ALLOWED


async def nothing() -> Any:
    return
    yield


@virtual_time
async def test_a_stream_that_says_nothing_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        answers = host.replica.exchange(node("n2"), nothing())
        assert await reason_of(anext(answers)) is Reason.CALLER_NOT_ALLOWED


@virtual_time
async def test_a_stream_takes_frames_only_behind_a_claim(made: MakeCluster) -> None:
    async with made() as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        [frame] = Framer(1).frames(pb.RaftMessage(term=1, stale_term=pb.StaleTerm()))
        frame_first = stream_of(hello("x.1"), pb.ExchangeRequest(frame=frame))
        answers = host.replica.exchange(node("x"), frame_first)
        assert (await anext(answers)).voter == "n1.1"
        assert VoterId("x.1") in host.replica._inbound
        assert await reason_of(anext(answers)) is Reason.INVALID_ARGUMENT
        assert VoterId("x.1") not in host.replica._inbound


@virtual_time
async def test_a_voter_that_claims_less_than_it_acknowledged_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        old = follower.replica.engine.raft.claim()
        await leader.replica.propose(b"one")
        known = leader.replica.engine.mark_of
        await until(lambda: known(follower.voter).index > old.index)

        async def asked_with(mark: Mark) -> pb.ExchangeResponse:
            said = stream_of(hello(follower.voter, UNKNOWN), claim(follower.voter, mark))
            answers = leader.replica.exchange(follower.node_id, said)
            await anext(answers)
            return await anext(answers)

        assert await reason_of(asked_with(old)) is Reason.LOG_ROLLED_BACK
        assert (await asked_with(follower.replica.engine.raft.claim())).epoch


@virtual_time
async def test_a_claim_is_held_against_what_was_known_when_it_was_asked_for(
    made: MakeCluster,
) -> None:
    """What the voter acknowledges on its way here is no part of its claim, and no copy is old."""
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        requests: asyncio.Queue[pb.ExchangeRequest] = asyncio.Queue()

        async def said() -> Any:
            while True:
                yield await requests.get()

        requests.put_nowait(hello(follower.voter, UNKNOWN))
        answers = leader.replica.exchange(follower.node_id, said())
        await anext(answers)
        mark = follower.replica.engine.raft.claim()
        leader.replica.engine.raft.witness.saw_entry(
            follower.voter, mark.index + 1, mark.entry_term
        )
        requests.put_nowait(claim(follower.voter, mark))
        assert (await anext(answers)).epoch


@virtual_time
async def test_a_stream_with_a_gap_ends(made: MakeCluster) -> None:
    async with made() as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        requests: asyncio.Queue[pb.ExchangeRequest] = asyncio.Queue()

        async def said() -> Any:
            while True:
                yield await requests.get()

        answers = host.replica.exchange(node("x"), said())
        requests.put_nowait(hello("x.1"))
        first = await anext(answers)
        assert (first.voter, first.epoch) == ("n1.1", 0)
        requests.put_nowait(claim("x.1"))
        epoch = (await anext(answers)).epoch
        framer = Framer(epoch)
        message = pb.RaftMessage(term=1, stale_term=pb.StaleTerm())
        list(framer.frames(message))  # Lost on the way.
        [second] = framer.frames(message)
        requests.put_nowait(pb.ExchangeRequest(frame=second))
        assert await reason_of(anext(answers)) is Reason.INVALID_ARGUMENT


class Stream:
    """The answering side of a stream, read until it ends."""

    def __init__(self, host: MemoryHost, voter: str, boot: int = 1) -> None:
        self.requests: asyncio.Queue[pb.ExchangeRequest] = asyncio.Queue()
        self._answers = host.replica.exchange(node(voter.partition(".")[0]), self._said())
        self.requests.put_nowait(hello(voter, boot))
        self.requests.put_nowait(claim(voter))
        self.ended: asyncio.Task[None] | None = None

    async def _said(self) -> Any:
        while True:
            yield await self.requests.get()

    async def opened(self) -> "Stream":
        await anext(self._answers)
        self._framer = Framer((await anext(self._answers)).epoch)

        async def read() -> None:
            async for _ in self._answers:
                raise AssertionError("a third answer")

        self.ended = asyncio.create_task(read())
        return self

    def frames(self, message: pb.RaftMessage) -> list[pb.RaftFrame]:
        return list(self._framer.frames(message))

    def say(self, message: pb.RaftMessage) -> None:
        for frame in self.frames(message):
            self.requests.put_nowait(pb.ExchangeRequest(frame=frame))

    async def close(self) -> None:
        assert self.ended is not None
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)
        await self._answers.aclose()  # type: ignore[attr-defined]


@virtual_time
async def test_a_newer_stream_takes_the_place_of_an_older_one(made: MakeCluster) -> None:
    """What comes on the older one is old, and is not taken."""
    async with made(1) as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        taken: list[pb.RaftMessage] = []
        receive: Any = lambda _sender, message: taken.append(message)  # noqa: E731
        host.replica.engine.receive = receive  # type: ignore[method-assign]
        old, new = await Stream(host, "x.1").opened(), await Stream(host, "x.1").opened()
        old.say(pb.RaftMessage(term=1, stale_term=pb.StaleTerm()))
        new.say(pb.RaftMessage(term=2, stale_term=pb.StaleTerm()))
        await asyncio.sleep(0.1)
        assert [message.term for message in taken] == [2]
        assert old.ended is not None
        assert old.ended.done()
        assert host.replica._inbound.keys() == {"x.1"}
        await new.close()
        assert not host.replica._inbound


@virtual_time
async def test_a_frame_that_came_before_is_dropped_and_the_stream_goes_on(
    made: MakeCluster,
) -> None:
    async with made(1) as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        taken: list[pb.RaftMessage] = []
        receive: Any = lambda _sender, message: taken.append(message)  # noqa: E731
        host.replica.engine.receive = receive  # type: ignore[method-assign]
        stream = await Stream(host, "x.1").opened()
        [frame] = stream.frames(pb.RaftMessage(term=1, stale_term=pb.StaleTerm()))
        for _ in range(2):
            stream.requests.put_nowait(pb.ExchangeRequest(frame=frame))
        stream.say(pb.RaftMessage(term=2, stale_term=pb.StaleTerm()))
        await asyncio.sleep(0.1)
        assert [message.term for message in taken] == [1, 2]
        await stream.close()


@virtual_time
async def test_another_process_of_the_same_voter_is_refused(made: MakeCluster) -> None:
    async with made(1) as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        first = await Stream(host, "x.1", boot=5).opened()
        assert await reason_of(Stream(host, "x.1", boot=6).opened()) is Reason.MEMBER_RUNS_TWICE
        await (await Stream(host, "x.1", boot=5).opened()).close()
        await first.close()
        await (await Stream(host, "x.1", boot=6).opened()).close()


@virtual_time
async def test_every_link_names_the_process_of_its_replica(made: MakeCluster) -> None:
    async with made() as cluster:
        await cluster.leader()
        for host in cluster.hosts.values():
            boots = {link.boot for (own, _), link in cluster.links.items() if own == host.voter}
            assert boots == {host.replica._boot}
            assert UNKNOWN not in boots


@virtual_time
async def test_a_full_inbox_makes_senders_wait(made: MakeCluster) -> None:
    async with made(1, inbox_bytes_max=1000, step_bytes_max=300) as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        steps: list[int] = []
        taken = 0

        def receive(sender: VoterId, message: pb.RaftMessage) -> None:
            nonlocal taken
            taken += message.ByteSize()

        host.replica.engine.receive = receive  # type: ignore[method-assign]
        begin_step = host.replica.engine.begin_step

        def stepped() -> Any:
            nonlocal taken
            steps.append(taken)
            taken = 0
            return begin_step()

        host.replica.engine.begin_step = stepped  # type: ignore[method-assign]
        stream = await Stream(host, "x.1").opened()
        chunk = pb.SnapshotChunk(data=bytes(200))
        message = pb.RaftMessage(snapshot_chunk=chunk)
        size = message.ByteSize()
        host.write_seconds = 1.0
        await host.stop()  # Nothing is taken out.
        host.replica._stopping = False
        for _ in range(20):
            stream.say(message)
        await asyncio.sleep(0.1)
        assert 1000 <= host.replica._inbox_bytes < 1000 + size
        assert host.replica._inbox_bytes == size * len(host.replica._inbox)
        steps.clear()
        host.start()
        await until(lambda: sum(steps) == 20 * size)
        assert max(steps) < 300 + size
        assert host.replica._inbox_bytes == 0
        await stream.close()


@virtual_time
async def test_who_waits_for_room_hears_that_the_node_stops(made: MakeCluster) -> None:
    async with made(1, inbox_bytes_max=1) as cluster:
        host = await cluster.leader()
        stream = await Stream(host, "x.1").opened()
        host.write_seconds = 50.0
        proposal = asyncio.ensure_future(host.replica.propose(b"one"))
        await asyncio.sleep(0.1)
        for _ in range(3):
            stream.say(pb.RaftMessage(term=1, stale_term=pb.StaleTerm()))
        await asyncio.sleep(0.1)
        assert stream.ended is not None
        assert not stream.ended.done()
        await host.stop()
        assert await reason_of(stream.ended) is Reason.SHUTTING_DOWN
        await asyncio.gather(proposal, return_exceptions=True)


# Links.


def link(cluster: MemoryCluster, own: MemoryHost, peer: str) -> Any:
    return cluster.links[own.voter, VoterId(peer)]


@virtual_time
async def test_there_are_links_to_voters_and_to_who_speaks_and_to_nobody_else(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        others = {host.voter for host in cluster.others(leader)}
        assert leader.replica._links.keys() == others
        stream = await Stream(leader, "x.1").opened()
        await asyncio.sleep(0.1)
        assert leader.replica._links.keys() == others | {"x.1"}
        [_, task] = leader.replica._links[VoterId("x.1")]
        await stream.close()
        await asyncio.sleep(0.1)
        assert leader.replica._links.keys() == others
        assert task.cancelled()


@virtual_time
async def test_a_peer_that_reaches_this_node_is_dialled_in_a_hurry(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        before = link(cluster, leader, follower.voter).hurried
        stream = await Stream(leader, follower.voter, boot=0).opened()
        assert link(cluster, leader, follower.voter).hurried == before + 1
        await stream.close()


@virtual_time
async def test_every_link_is_made_anew_with_a_new_certificate(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        leader.replica.redial()
        counts = [link(cluster, leader, h.voter).redialled for h in cluster.others(leader)]
        assert counts == [1, 1]


@virtual_time
async def test_a_voter_that_is_told_of_an_old_copy_says_nothing_more(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        follower.trace.clear()
        refused = ClusterError(Reason.LOG_ROLLED_BACK, "it is an old copy")
        link(cluster, follower, leader.voter)._on_refused(leader.voter, refused)
        assert follower.task is not None
        with pytest.raises(ClusterError, match="old copy") as raised:
            await follower.task
        assert raised.value.reason is Reason.HOME_DAMAGED
        assert [which for what, which in follower.trace if what == "send"] == []
        assert follower.replica.failed is raised.value
        assert await reason_of(follower.replica.propose(b"x")) is Reason.HOME_DAMAGED
        other = cluster.others(leader)[1]
        twice = ClusterError(Reason.MEMBER_RUNS_TWICE, "runs already")
        link(cluster, other, leader.voter)._on_refused(leader.voter, twice)
        await asyncio.sleep(0.5)
        assert other.runs


@virtual_time
async def test_a_voter_that_is_told_of_an_old_copy_while_it_writes_acknowledges_nothing(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        follower.write_seconds = 0.4
        waiting = asyncio.ensure_future(leader.replica.propose(b"one"))
        await until(lambda: follower.trace[-1] == ("write", "begins"))
        refused = ClusterError(Reason.LOG_ROLLED_BACK, "it is an old copy")
        link(cluster, follower, leader.voter)._on_refused(leader.voter, refused)
        follower.trace.clear()
        assert follower.task is not None
        assert await reason_of(follower.task) is Reason.HOME_DAMAGED
        assert ("write", "ends") in follower.trace
        assert [which for what, which in follower.trace if what == "send"] == []
        await waiting  # By the third one.


# Who votes.


@virtual_time
async def test_a_new_voter_gets_the_log_first_and_then_votes(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        new = cluster.add(VoterId("x.1"), [])
        new.start()
        await leader.replica.add_voter(new.voter)
        assert new.voter in leader.replica.voters
        assert leader.replica.engine.raft.can_change_voters
        assert new.voter not in leader.replica._joining
        assert new.voter not in leader.replica.engine.raft.learners
        await until(lambda: new.machine.commands == ["one"])
        commit = leader.replica.commit_index
        await leader.replica.add_voter(new.voter)  # It votes: nothing is done.
        assert leader.replica.commit_index == commit


@virtual_time
async def test_a_new_voter_that_cant_be_dialled_back_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        began = now()
        refused = await reason_of(leader.replica.add_voter(VoterId("x.1")))
        assert refused is Reason.PEER_UNREACHABLE
        assert now() - began == pytest.approx(3.0, abs=0.1)
        assert not leader.replica._joining
        await asyncio.sleep(0.1)
        assert VoterId("x.1") not in leader.replica._links


@virtual_time
async def test_a_new_voter_that_does_not_catch_up_does_not_vote(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        new = cluster.add(VoterId("x.1"), [])
        new.start()
        new.write_seconds = 100.0
        began = now()
        refused = await reason_of(leader.replica.add_voter(new.voter))
        assert refused is Reason.MEMBERSHIP_CHANGE_IN_PROGRESS
        assert now() - began >= 3.0
        assert new.voter not in leader.replica.voters


@virtual_time
async def test_a_new_voter_that_goes_away_does_not_vote(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        new = cluster.add(VoterId("x.1"), [])
        new.start()
        new.write_seconds = 100.0
        adding = asyncio.ensure_future(leader.replica.add_voter(new.voter))
        await until(lambda: new.voter in leader.replica.engine.raft.learners)
        cluster.cut(leader, new)
        assert await reason_of(adding) is Reason.PEER_UNREACHABLE


@virtual_time
async def test_a_leader_that_leads_no_longer_adds_nobody(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        new = cluster.add(VoterId("x.1"), [])
        new.start()
        new.write_seconds = 100.0
        adding = asyncio.ensure_future(leader.replica.add_voter(new.voter))
        await until(lambda: new.voter in leader.replica.engine.raft.learners)
        leader.replica.engine.raft.step_down()
        assert await reason_of(adding) in {Reason.NO_LEADER, Reason.PEER_UNREACHABLE}
        follower = cluster.others(leader)[0]
        for call in (
            follower.replica.add_voter(new.voter),
            follower.replica.remove_voter(leader.voter),
            follower.replica.transfer_leadership(follower.voter),
        ):
            assert await reason_of(call) in {Reason.NOT_LEADER, Reason.NO_LEADER}


@virtual_time
async def test_a_voter_is_removed_and_its_link_with_it(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        gone, stays = cluster.others(leader)
        await leader.replica.remove_voter(gone.voter)
        assert leader.replica.voters == {leader.voter, stays.voter}
        await gone.stop()
        await asyncio.sleep(0.2)
        assert leader.replica._links.keys() == {stays.voter}
        await leader.replica.remove_voter(gone.voter)  # Once more does nothing.
        await leader.replica.propose(b"one")


@virtual_time
async def test_a_removal_that_leaves_no_majority_connected_is_refused(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        one, other = cluster.others(leader)
        await one.stop()
        await asyncio.sleep(0.2)
        refused = await reason_of(leader.replica.remove_voter(other.voter))
        assert refused is Reason.QUORUM_AT_RISK
        assert other.voter in leader.replica.voters
        await leader.replica.remove_voter(one.voter)
        assert one.voter not in leader.replica.voters


@virtual_time
async def test_a_leader_does_not_remove_itself(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        with pytest.raises(ClusterError, match="can't remove itself"):
            await leader.replica.remove_voter(leader.voter)


@virtual_time
async def test_a_change_that_is_not_committed_in_time_is_told_as_unknown(made: MakeCluster) -> None:
    async with made(
        5, election_timeout_min=timedelta(seconds=2.2), election_timeout_max=timedelta(seconds=3.4)
    ) as cluster:
        leader = await cluster.leader()
        others = cluster.others(leader)
        for host in others[:3]:
            host.write_seconds = 100.0
        began = now()
        refused = await reason_of(leader.replica.remove_voter(others[3].voter))
        assert refused is Reason.UNKNOWN_OUTCOME
        assert now() - began == pytest.approx(3.0, abs=0.1)


@virtual_time
async def test_changes_wait_for_one_another(made: MakeCluster) -> None:
    async with made(5) as cluster:
        leader = await cluster.leader()
        one, two, *_ = cluster.others(leader)
        await asyncio.gather(
            leader.replica.remove_voter(one.voter), leader.replica.remove_voter(two.voter)
        )
        assert leader.replica.voters.isdisjoint({one.voter, two.voter})


# Handing over.


@virtual_time
async def test_leadership_is_handed_to_who_was_named(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        target = cluster.others(leader)[1]
        began = now()
        await leader.replica.transfer_leadership(target.voter)
        assert now() - began < 0.5
        assert leader.replica.leader == target.node_id
        assert await cluster.leader() is target


@virtual_time
async def test_who_does_not_lead_names_the_leader_whoever_is_connected(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower, other = cluster.others(leader)
        cluster.cut(follower, other)
        await asyncio.sleep(0.5)
        handing_over = follower.replica.transfer_leadership(other.voter)
        assert await reason_of(handing_over) is Reason.NOT_LEADER
        # Nor does it judge what would be left, which it does not know.
        removing = follower.replica.remove_voter(leader.voter)
        assert await reason_of(removing) is Reason.NOT_LEADER


@virtual_time
async def test_leadership_is_handed_to_nobody_who_is_not_connected(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        gone, other = cluster.others(leader)
        await gone.stop()
        await asyncio.sleep(0.2)
        refused = await reason_of(leader.replica.transfer_leadership(gone.voter))
        assert refused is Reason.PEER_UNREACHABLE
        for nobody in (leader.voter, VoterId("x.1")):
            refused = await reason_of(leader.replica.transfer_leadership(nobody))
            assert refused is Reason.MEMBER_NOT_FOUND
        assert leader.replica.successor() == other.voter
        await other.stop()
        await asyncio.sleep(0.2)
        with pytest.raises(ClusterError, match="no other master is connected"):
            leader.replica.successor()


@virtual_time
async def test_a_successor_has_most_of_the_log(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        one, other = sorted(cluster.others(leader), key=lambda host: host.voter)
        one.write_seconds = 0.5
        await leader.replica.propose(b"one")
        assert leader.replica.successor() == other.voter
        one.write_seconds, other.write_seconds = 0.001, 0.5
        await asyncio.sleep(2)
        await leader.replica.propose(b"two")
        assert leader.replica.successor() == one.voter


@virtual_time
async def test_a_handover_that_does_not_come_to_pass_is_told_as_unknown(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        target = cluster.others(leader)[0]
        target.write_seconds = 100.0
        asyncio.ensure_future(leader.replica.propose(b"one")).add_done_callback(
            lambda done: done.exception()
        )
        await asyncio.sleep(0.1)
        began = now()
        refused = await reason_of(leader.replica.transfer_leadership(target.voter))
        assert refused is Reason.UNKNOWN_OUTCOME
        assert now() - began == pytest.approx(2.4, abs=0.1)


# Snapshots, and the end.


@virtual_time
async def test_a_snapshot_is_made_beside_the_steps(made: MakeCluster) -> None:
    async with made(snapshot_entries=10, trailing_entries=2) as cluster:
        leader = await cluster.leader()
        for number in range(30):
            await leader.replica.propose(b"%d" % number)
        await until(lambda: leader.replica.engine.journal.first_index > 10)
        assert (leader.directory / "snapshot").stat().st_size > 100


@virtual_time
async def test_a_node_that_stops_answers_who_waits_and_refuses_the_rest(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        for host in cluster.others(leader):
            host.write_seconds = 100.0
        under_way = asyncio.ensure_future(leader.replica.propose(b"one"))
        await asyncio.sleep(0.1)
        waiting = asyncio.ensure_future(leader.replica.propose(b"two"))
        await asyncio.sleep(0.1)
        tasks = [task for _, task in leader.replica._links.values()]
        await leader.stop()
        assert await reason_of(under_way) is Reason.UNKNOWN_OUTCOME
        assert await reason_of(waiting) is Reason.SHUTTING_DOWN
        assert await reason_of(leader.replica.propose(b"three")) is Reason.SHUTTING_DOWN
        for call in (
            leader.replica.add_voter(VoterId("x.1")),
            leader.replica.remove_voter(VoterId("x.1")),
            leader.replica.transfer_leadership(VoterId("x.1")),
        ):
            assert await reason_of(call) is Reason.SHUTTING_DOWN
        assert not leader.replica.is_leader
        assert not leader.replica.leads_for_sure
        assert all(task.done() for task in tasks)
        assert leader.trace[-1] == ("writer", "stops")
        answers = leader.replica.exchange(node("n9"), stream_of(hello("n9.1")))
        assert await reason_of(anext(answers)) is Reason.SHUTTING_DOWN
        beats = [task for task in asyncio.all_tasks() if task.get_name() == "raft-beat"]
        assert len(beats) == 2  # The others'.


@virtual_time
@pytest.mark.parametrize("writer_ended", [True, False])
async def test_a_node_that_stops_notes_what_it_knows_unless_its_writer_still_writes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer_ended: bool,  # noqa: FBT001
) -> None:
    """A disk that hangs: what its thread writes would be mixed with the note."""
    cluster = MemoryCluster(tmp_path, monkeypatch, count=1)
    [host] = cluster.hosts.values()
    host.writer_ends = writer_ended
    notes = tmp_path / "notes"
    host.replica._notes = notes
    host.replica.engine.close()
    host.replica.engine = host.replica._open(_disk(host))
    async with cluster:
        leader = await cluster.leader()
        await leader.replica.propose(b"one")
        before = (notes / NOTE_NAME).read_bytes()
        await leader.stop()
    if not writer_ended:
        assert (notes / NOTE_NAME).read_bytes() == before
        leader.replica.engine.close()
        return
    again = host.replica._open(_disk(host))
    assert again.mark_of(host.voter).index == leader.replica.commit_index
    again.close()


def _disk(host: MemoryHost) -> Any:
    from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk

    return DirectoryDisk(host.directory)


@virtual_time
async def test_what_no_disk_mends_ends_the_node(made: MakeCluster) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        leader.disk_error = OSError(5, "input/output error")
        waiting = asyncio.ensure_future(leader.replica.propose(b"one"))
        assert leader.task is not None
        assert await reason_of(leader.task) is Reason.LOG_STORAGE_FAILED
        assert await reason_of(waiting) is Reason.UNKNOWN_OUTCOME
        assert await reason_of(leader.replica.propose(b"two")) is Reason.LOG_STORAGE_FAILED
        assert not leader.replica.is_leader
        await (await cluster.leader(but=leader)).replica.propose(b"three")


@virtual_time
async def test_what_came_before_an_outage_is_not_taken_and_uses_up_no_room_after_it(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Engine, "receive", lambda _self, _from, it: taken.append(it.term))
    async with made(1, inbox_bytes_max=1000) as cluster:
        host = await cluster.leader()
        before = await Stream(host, "x.1").opened()
        host.write_seconds, host.disk_error = 0.3, OSError(errno.ENOSPC, "asked for")
        waiting = asyncio.ensure_future(host.replica.propose(b"one"))
        await until(lambda: host.trace[-1] == ("write", "begins"))
        chunk = pb.SnapshotChunk(data=bytes(2000))
        before.say(pb.RaftMessage(term=1, snapshot_chunk=chunk))
        assert await reason_of(waiting) is Reason.UNKNOWN_OUTCOME
        await before.close()
        host.write_seconds, host.disk_error = 0.001, None
        await until(lambda: host.replica.failed is None)
        (await Stream(host, "x.1").opened()).say(pb.RaftMessage(term=2, snapshot_chunk=chunk))
        await asyncio.sleep(0.5)
        assert taken == [2]


@virtual_time
async def test_a_step_that_has_more_to_do_does_not_wait_for_the_beat(made: MakeCluster) -> None:
    async with made(1, tick_interval=timedelta(seconds=1)) as cluster:
        leader = await cluster.leader()
        assert isinstance(leader.replica.engine, Engine)
        began = now()
        await asyncio.gather(*(leader.replica.propose(bytes(1_500_000)) for _ in range(5)))
        assert now() - began < 0.2


@virtual_time
async def test_a_log_that_still_cant_be_written_is_not_said_to_be(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be room for another file, and none in the log: it would flap."""
    async with made(1) as cluster:
        leader = await cluster.leader()
        full = OSError(errno.ENOSPC, "no space left on device")

        def fails(_journal: SegmentedJournal, pending: Any) -> None:
            if pending.records:
                raise full

        with monkeypatch.context() as patch:
            patch.setattr(SegmentedJournal, "write_and_sync", fails)
            assert await reason_of(leader.replica.propose(b"one")) is Reason.UNKNOWN_OUTCOME
            outage = leader.replica.outage
            assert outage is not None
            for _ in range(100):
                await asyncio.sleep(0.1)
                still = leader.replica.outage
                assert still is not None
                assert still.since == outage.since
        await until(lambda: leader.replica.leads_for_sure)
        await leader.replica.propose(b"two")


@virtual_time
async def test_a_disk_that_fails_for_good_while_it_is_full_ends_the_wait(
    made: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with made(1) as cluster:
        leader = await cluster.leader()
        leader.disk_error = OSError(errno.ENOSPC, "no space left on device")
        assert await reason_of(leader.replica.propose(b"one")) is Reason.UNKNOWN_OUTCOME

        def fails(*_: object) -> None:
            raise OSError(errno.EIO, "input/output error")

        monkeypatch.setattr(DirectoryDisk, "replace", fails)
        assert leader.task is not None
        async with asyncio.timeout(5):
            assert await reason_of(leader.task) is Reason.LOG_STORAGE_FAILED
        refused = leader.replica.failed
        assert refused is not None
        assert "start the node again" in refused.message

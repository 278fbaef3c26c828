"""What a replica takes from the streams of other voters, under a simulated clock."""

import asyncio
import itertools
from typing import Any

from ipfs_cluster_node.adapters.raft.framing import Framer
from ipfs_cluster_node.adapters.raft.witness import Mark
from ipfs_cluster_node.core.boots import UNKNOWN
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from tests.support.memory_replicas import (
    MakeCluster,
    Stream,
    claim,
    hello,
    node,
    reason_of,
    stream_of,
    until,
)
from tests.support.virtual_time import virtual_time


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
async def test_a_stream_that_ends_before_its_claim_ends_without_an_error(made: MakeCluster) -> None:
    async def said() -> Any:
        yield hello("x.1")

    async with made() as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        answers = [answer async for answer in host.replica.exchange(node("x"), said())]
        assert [(answer.voter, answer.epoch) for answer in answers] == [("n1.1", 0)]
        assert VoterId("x.1") not in host.replica._inbound


@virtual_time
async def test_a_stream_takes_frames_only_behind_a_claim(made: MakeCluster) -> None:
    async with made() as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        [frame] = Framer(1).frames(
            pb.RaftMessage(term=1, stale_term=pb.StaleTerm()).SerializeToString()
        )
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
        old = follower.replica.engine.claim()
        await leader.replica.propose(b"one")
        known = leader.replica.engine.mark_of
        await until(lambda: known(follower.voter).index > old.index)

        async def asked_with(mark: Mark) -> pb.ExchangeResponse:
            said = stream_of(hello(follower.voter, UNKNOWN), claim(follower.voter, mark))
            answers = leader.replica.exchange(follower.node_id, said)
            await anext(answers)
            return await anext(answers)

        assert await reason_of(asked_with(old)) is Reason.LOG_ROLLED_BACK
        assert (await asked_with(follower.replica.engine.claim())).epoch


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
        mark = follower.replica.engine.claim()
        leader.replica.engine._witness.saw_entry(follower.voter, mark.index + 1, mark.entry_term)
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
        list(framer.frames(message.SerializeToString()))  # Lost on the way.
        [second] = framer.frames(message.SerializeToString())
        requests.put_nowait(pb.ExchangeRequest(frame=second))
        assert await reason_of(anext(answers)) is Reason.INVALID_ARGUMENT


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
async def test_a_follower_that_waits_for_its_disk_knows_the_leader_by_what_arrives(
    made: MakeCluster,
) -> None:
    async with made() as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        follower.write_seconds = 10.0
        await leader.replica.propose(b"one")
        await until(lambda: follower.trace[-1] == ("write", "begins"))
        await asyncio.sleep(5)
        assert follower.trace[-1] == ("write", "begins")
        assert follower.replica.leader == leader.node_id
        cluster.cut(follower, leader)
        await asyncio.sleep(3)
        assert follower.trace[-1] == ("write", "begins")
        assert follower.replica.leader is None


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
async def test_an_inbox_or_a_step_with_just_as_much_as_it_may_have_is_full(
    made: MakeCluster,
) -> None:
    message = pb.RaftMessage(snapshot_chunk=pb.SnapshotChunk(data=bytes(200)))
    size = message.ByteSize()
    async with made(1, inbox_bytes_max=3 * size, step_bytes_max=size) as cluster:
        host = await cluster.leader()
        events: list[str] = []
        begin_step = host.replica.engine.begin_step

        def stepped() -> Any:
            events.append("stepped")
            return begin_step()

        host.replica.engine.begin_step = stepped  # type: ignore[method-assign]
        receive: Any = lambda *_: events.append("received")  # noqa: E731
        host.replica.engine.receive = receive  # type: ignore[method-assign]
        stream = await Stream(host, "x.1").opened()
        host.write_seconds = 5.0  # Nothing is taken out.
        proposal = asyncio.ensure_future(host.replica.propose(b"one"))
        await until(lambda: host.trace[-1] == ("write", "begins"))
        for _ in range(5):
            stream.say(message)
        await asyncio.sleep(0.1)
        assert host.replica._inbox_bytes == 3 * size
        await proposal
        await until(lambda: events.count("received") == 5)
        assert ("received", "received") not in itertools.pairwise(events)
        await stream.close()


@virtual_time
async def test_between_steps_that_write_nothing_others_get_a_turn(made: MakeCluster) -> None:
    async with made(1, step_bytes_max=1) as cluster:
        host = await cluster.leader()
        events: list[str] = []

        def receive(sender: VoterId, message: pb.RaftMessage) -> None:
            events.append("step")
            asyncio.get_running_loop().call_soon(events.append, "turn")

        host.replica.engine.receive = receive  # type: ignore[method-assign]
        host.replica._inbox.extend([(VoterId("x.1"), pb.RaftMessage(), 1)] * 5)
        host.replica._inbox_bytes += 5
        host.replica._wake.set()
        await until(lambda: len(events) == 10)
        assert events == ["step", "turn"] * 5


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


@virtual_time
async def test_a_stream_that_only_waits_ends_with_its_voter(made: MakeCluster) -> None:
    """The other side would take the voter for one that is there."""
    async with made() as cluster:
        host = cluster.hosts[VoterId("n1.1")]
        requests: asyncio.Queue[pb.ExchangeRequest] = asyncio.Queue()

        async def said() -> Any:
            while True:
                yield await requests.get()

        for each in (hello("x.1"), claim("x.1")):
            requests.put_nowait(each)
        answers = host.replica.exchange(node("x"), said())
        await anext(answers)
        await anext(answers)
        waiting = asyncio.create_task(reason_of(anext(answers)))
        await asyncio.sleep(1)
        assert not waiting.done()
        await host.stop()
        assert await waiting is Reason.SHUTTING_DOWN
        assert VoterId("x.1") not in host.replica._inbound

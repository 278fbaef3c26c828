"""A link's attempts to connect."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest

from ipfs_cluster_node.adapters.raft import link as link_module
from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.framing import Framer
from ipfs_cluster_node.adapters.raft.link import Link
from ipfs_cluster_node.adapters.raft.witness import Mark
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb


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
@pytest.mark.parametrize(("age", "outcome"), [(0.1, "went on"), (1.0, "began again")])
async def test_an_old_attempt_begins_anew_once_the_peer_is_heard(age: float, outcome: str) -> None:
    link, came = a_link(), ""
    try:
        async with asyncio.timeout(None) as link._attempt:
            link._attempt_began = now() - age
            link.reconnect_now()
            await asyncio.sleep(0.01)
            came = "went on"
    except TimeoutError:
        came = "began again"
    assert came == outcome


@pytest.mark.asyncio
async def test_a_peer_that_is_heard_in_the_moment_of_a_timeout_harms_nothing() -> None:
    link, loop = a_link(), asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as attempt:
            link._attempt, link._attempt_began = attempt, now() - 1.0
            attempt.reschedule(loop.time())
            loop.call_soon(link.reconnect_now)
            await asyncio.sleep(1)
    assert link._attempt is None


class Stream:
    """The peer's side of one stream: answers in turn, then nothing."""

    def __init__(self, *answers: object) -> None:
        self.said: list[pb.ExchangeRequest] = []
        self.answers = list(answers)

    def __call__(self) -> "Stream":
        return self

    async def write(self, request: pb.ExchangeRequest) -> None:
        self.said.append(request)

    async def read(self) -> object:
        return self.answers.pop(0)


@pytest.mark.asyncio
async def test_a_link_names_its_voter_and_its_process_and_claims_once_its_peer_is_the_one_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its process a copy of this node is told from it."""
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    for voter, said_count in (("b.1", 2), ("b.2", 1)):
        stream = Stream(pb.ExchangeResponse(voter=voter), grpc.aio.EOF)
        stub = SimpleNamespace(Exchange=stream)
        monkeypatch.setattr(link_module, "RaftServiceStub", lambda _channel, stub=stub: stub)
        link = a_link()
        link._dial = lambda _node: SimpleNamespace(close=close)  # type: ignore[assignment, return-value]
        assert not await link._connect_and_send()
        assert stream.said[0].hello == pb.ExchangeHello(voter="a.1", boot=1)
        assert [each.WhichOneof("message") for each in stream.said] == ["hello", "claim"][
            :said_count
        ]
        assert not link.up.is_set()
    assert closed == [True, True]


@pytest.mark.asyncio
async def test_a_link_lasts_however_much_goes_over_it() -> None:
    """Only what waits counts against the bound of its queue."""
    link = a_link()
    link._config = RaftConfig(outbox_bytes_max=1000)
    sent: list[pb.ExchangeRequest] = []
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(request: pb.ExchangeRequest) -> None:
        sent.append(request)

    call = SimpleNamespace(write=write, read=lambda: over, cancel=lambda: None)
    sending = asyncio.ensure_future(link._send_until_broken(call, Framer(1)))  # type: ignore[arg-type]
    await link.up.wait()
    message = pb.RaftMessage(term=1)
    message.append_entries.entries.add(index=1, term=1, command=bytes(400))
    for count in range(1, 21):
        link.send(message)
        async with asyncio.timeout(5):
            while len(sent) < count:
                await asyncio.sleep(0)
    assert not sending.done()
    for _ in range(3):
        link.send(message)  # More than may wait at once.
    async with asyncio.timeout(5):
        await sending

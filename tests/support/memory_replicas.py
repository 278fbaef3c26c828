"""Replicas in one loop, without sockets: their streams are queues, their disks have a set speed.

What a replica does is kept in order in its `trace`: what it sends, and when a write begins and ends.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from ipfs_cluster_node.adapters.raft import replica as replica_module
from ipfs_cluster_node.adapters.raft import replica_peers
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.framing import Framer
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.adapters.raft.witness import Mark, mark_to_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, node_id_of_voter
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from tests.support.replicas import ListMachine
from tests.support.virtual_time import virtual_loop

TURN_SECONDS: Final = 0.00002
SELDOM: Final = {
    "tick_interval": timedelta(seconds=1),
    "election_timeout_min": timedelta(seconds=4),
    "election_timeout_max": timedelta(seconds=8),
    "connect_timeout": timedelta(seconds=10),
}
"""Beats so far apart that a wait for one is noticeable."""
Trace = list[tuple[str, str]]
MakeCluster = Callable[..., "MemoryCluster"]


class MemoryLink:
    """A link of `Replica` whose stream is the other replica's `exchange`, called."""

    def __init__(self, cluster: "MemoryCluster", **made: Any) -> None:
        self._cluster = cluster
        self.own: VoterId = made["own"]
        self.peer: VoterId = made["peer"]
        self.boot: int = made["boot"]
        self._claim = made["claim"]
        self._on_change: Callable[[VoterId, bool], None] = made["on_change"]
        self._on_refused = made["on_refused"]
        self.up = asyncio.Event()
        self.sent: list[pb.RaftMessage] = []
        self.hurried = self.redialled = 0
        self._queue: asyncio.Queue[pb.RaftMessage] = asyncio.Queue()
        cluster.links[self.own, self.peer] = self

    def reconnect_now(self) -> None:
        self.hurried += 1

    def redial(self) -> None:
        self.redialled += 1

    def send(self, message: pb.RaftMessage) -> None:
        kind = str(message.WhichOneof("kind"))
        self._cluster.hosts[self.own].trace.append(("send", kind))
        if self.up.is_set():
            self.sent.append(message)
            self._queue.put_nowait(message)

    async def run(self) -> None:
        while True:
            host = self._cluster.hosts.get(self.peer)
            if host is not None and host.runs and not self._cluster.is_cut(self.own, self.peer):
                try:
                    await self._stream(host.replica)
                except ClusterError as error:
                    self._on_refused(self.peer, error)
                finally:
                    if self.up.is_set():
                        self.up.clear()
                        self._on_change(self.peer, False)
            await asyncio.sleep(0.05)

    async def _stream(self, replica: Replica) -> None:
        requests: asyncio.Queue[pb.ExchangeRequest] = asyncio.Queue()

        async def said() -> AsyncIterator[pb.ExchangeRequest]:
            while True:
                yield await requests.get()

        answers = replica.exchange(node_id_of_voter(self.own), said())
        try:
            hello = pb.ExchangeHello(voter=self.own, boot=self.boot)
            requests.put_nowait(pb.ExchangeRequest(hello=hello))
            await anext(answers)
            claim = mark_to_proto(self.own, self._claim())
            requests.put_nowait(pb.ExchangeRequest(claim=claim))
            admitted = await anext(answers)
            framer, self._queue = Framer(admitted.epoch), asyncio.Queue()
            self.up.set()
            self._on_change(self.peer, True)
            ended = asyncio.ensure_future(anext(answers, None))
            try:
                while not ended.done() and not self._cluster.is_cut(self.own, self.peer):
                    try:
                        async with asyncio.timeout(0.05):
                            message = await self._queue.get()
                    except TimeoutError:
                        continue
                    for frame in framer.frames(message.SerializeToString()):
                        requests.put_nowait(pb.ExchangeRequest(frame=frame))
            finally:
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)
        finally:
            await answers.aclose()  # type: ignore[attr-defined]


class MemoryWriter:
    """Writes after so long, in the loop."""

    def __init__(self, host: "MemoryHost") -> None:
        self._host = host
        self.ended = False

    async def run(self, job: Callable[[], None]) -> None:
        self._host.trace.append(("write", "begins"))
        await asyncio.sleep(self._host.write_seconds)
        if self._host.disk_error is not None:
            raise self._host.disk_error
        job()
        self._host.trace.append(("write", "ends"))

    async def stop(self) -> bool:
        self._host.trace.append(("writer", "stops"))
        self.ended = self._host.writer_ends
        return self.ended


class MemoryHost:
    """One replica."""

    def __init__(self, cluster: "MemoryCluster", voter: VoterId, directory: Path) -> None:
        self.cluster, self.voter, self.directory = cluster, voter, directory
        self.node_id = node_id_of_voter(voter)
        self.trace: Trace = []
        self.write_seconds = 0.001
        self.disk_error: OSError | None = None
        self.writer_ends = True
        self.machine = ListMachine()
        self.replica = self.make()
        self.task: asyncio.Task[None] | None = None

    def make(self) -> Replica:
        self.machine = ListMachine()
        return Replica(
            directory=self.directory,
            machine=self.machine,
            dial=lambda _node_id: None,
            config=self.cluster.config,
            boot=hash(self.voter) % 2**62 + 1,
        )

    @property
    def runs(self) -> bool:
        return self.task is not None and not self.task.done()

    def start(self) -> None:
        self.task = asyncio.create_task(self.replica.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


class MemoryCluster:
    """Replicas of one log; used within `@virtual_time`."""

    def __init__(
        self,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        count: int = 3,
        config: RaftConfig | None = None,
    ) -> None:
        self.config = config or RaftConfig()
        self.directory = directory
        self.links: dict[tuple[VoterId, VoterId], MemoryLink] = {}
        self.hosts: dict[VoterId, MemoryHost] = {}
        self._cut: set[frozenset[VoterId]] = set()
        monkeypatch.setattr(replica_peers, "Link", lambda **made: MemoryLink(self, **made))
        monkeypatch.setattr(replica_module, "Writer", self._writer)
        monkeypatch.setattr(replica_module, "now", _now_that_passes)
        voters = [VoterId(f"n{number}.1") for number in range(1, count + 1)]
        for voter in voters:
            self.add(voter, voters)

    def _writer(self) -> MemoryWriter:
        running = asyncio.current_task()
        return MemoryWriter(next(h for h in self.hosts.values() if h.task is running))

    def add(self, voter: VoterId, voters: list[VoterId]) -> MemoryHost:
        create_store(DirectoryDisk(self.directory / voter), voter, voters)
        self.hosts[voter] = MemoryHost(self, voter, self.directory / voter)
        return self.hosts[voter]

    async def __aenter__(self) -> "MemoryCluster":
        for host in self.hosts.values():
            host.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in self.hosts.values():
            await host.stop()

    def is_cut(self, one: VoterId, other: VoterId) -> bool:
        return frozenset({one, other}) in self._cut

    def cut(self, one: MemoryHost, *others: MemoryHost) -> None:
        self._cut |= {frozenset({one.voter, other.voter}) for other in others}

    def heal(self) -> None:
        self._cut.clear()

    async def leader(self, *, but: MemoryHost | None = None) -> MemoryHost:
        async with asyncio.timeout(30):
            while True:
                for host in self.hosts.values():
                    if host is not but and host.runs and host.replica.leads_for_sure:
                        return host
                await asyncio.sleep(0.01)

    def others(self, host: MemoryHost) -> list[MemoryHost]:
        return [each for each in self.hosts.values() if each is not host]


def _now_that_passes() -> float:
    # A loop that polls the clock would poll for ever.
    loop = virtual_loop()
    loop.advance(TURN_SECONDS)
    return loop.time()


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def stream_of(*requests: pb.ExchangeRequest) -> AsyncIterator[pb.ExchangeRequest]:
    async def said() -> AsyncIterator[pb.ExchangeRequest]:
        for request in requests:
            yield request
        await asyncio.Event().wait()

    return said()


def hello(voter: str, boot: int = 1) -> pb.ExchangeRequest:
    return pb.ExchangeRequest(hello=pb.ExchangeHello(voter=voter, boot=boot))


def node(name: str) -> NodeId:
    return NodeId(name)


def claim(voter: str, mark: Mark = Mark(100, 100, 100)) -> pb.ExchangeRequest:  # noqa: B008
    return pb.ExchangeRequest(claim=mark_to_proto(VoterId(voter), mark))


async def reason_of(call: Any) -> Reason:
    with pytest.raises(ClusterError) as raised:
        await call
    return raised.value.reason


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
        return list(self._framer.frames(message.SerializeToString()))

    def say(self, message: pb.RaftMessage) -> None:
        for frame in self.frames(message):
            self.requests.put_nowait(pb.ExchangeRequest(frame=frame))

    async def close(self) -> None:
        assert self.ended is not None
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)
        await self._answers.aclose()  # type: ignore[attr-defined]

"""A role changes in one process that serves by gRPC: no port closes, no call fails, nothing leaks."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2 as standard_pb2
from grpc_health.v1 import health_pb2_grpc as standard_pb2_grpc

from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.store import VOTER_NAME
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.tasks import task_spec
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.profiles import Profile
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import Role, TaskState
from ipfs_cluster_node.node.duplicates import DuplicateCheck
from ipfs_cluster_node.node.node import Node
from ipfs_cluster_node.node.parts.master import MasterPart
from ipfs_cluster_node.node.parts.worker import WorkerPart
from ipfs_cluster_node.node.setup import init_cluster
from tests.node.test_roles import answer_of, leads, loops, role_of, running
from tests.support.virtual_time import loop_clock

PAUSE_SECONDS = 0.02


@dataclass
class Served:
    """A node of this process, the only one of its cluster; its log is in its home directory."""

    node: Node
    place: LocalNode
    profile: Profile

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        tls, node_id = self.node._common.certificate.tls, self.node.node_id
        async with open_channel(self.place.address, tls=tls, node_id=node_id) as channel:
            yield channel

    def enrols(self) -> bool:
        """Whether its enrolment port is open."""
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.place.enrolment_port)) == 0


@asynccontextmanager
async def served(root: Path, *, slots: int = 0) -> AsyncIterator[Served]:
    """A node with a worker's parts."""
    place = LocalCluster(root).make_node("master-1")
    section = NodeSection(
        name="first",
        role="master",
        bind=place.address,
        enrolment_bind=f"127.0.0.1:{place.enrolment_port}",
    )
    made = init_cluster(place.home, section, cluster_name="c")
    settings = load_settings(place.home.config)
    settings = replace(
        settings,
        node=replace(section, role="worker"),
        tasks=replace(settings.tasks, slots=slots),
    )
    node = Node(place.home, settings, clock=loop_clock())
    async with running(node):
        yield Served(node, place, made.profile)


@asynccontextmanager
async def asked_all_the_time(channel: grpc.aio.Channel) -> AsyncIterator[list[int]]:
    """Ask for the health and watch it, all the time; yields the numbers of answers."""
    answers = [0, 0]

    async def ask() -> None:
        while True:
            await role_of(channel)
            answers[0] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def watch() -> None:
        stub: Any = standard_pb2_grpc.HealthStub(channel)
        async for _ in stub.Watch(standard_pb2.HealthCheckRequest()):
            answers[1] += 1

    asking = [asyncio.create_task(ask()), asyncio.create_task(watch())]
    try:
        yield answers
        for task in asking:
            assert not task.done(), task.exception()
        assert answers[1] > 0
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def descriptors() -> list[str]:
    """The files of this process that are open, by path; sockets are gRPC's."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(each.readlink())
            if target.startswith("/") and not target.startswith("/dev/"):
                found.append(target)
    return sorted(found)


@contextmanager
def nothing_is_left() -> Iterator[None]:
    before = loops(), descriptors()
    yield
    assert (loops(), descriptors()) == before


@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_the_worker_and_the_port_go_on_while_the_log_comes_and_goes(tmp_path: Path) -> None:
    async with served(tmp_path, slots=1) as each, each.channel() as channel:
        node = each.node
        async with asked_all_the_time(channel) as answers:
            for _ in range(2):
                before = answers[0]
                assert await role_of(channel) == "worker without log"
                assert await answer_of(channel) == Reason.NO_LEADER
                assert not each.enrols()
                await node.change_role(Role.MASTER)
                assert each.enrols()
                await leads(node)
                async with Client.from_settings(each.profile) as client:
                    [task] = await client.submit_tasks([task_spec("echo", {"n": 1})])
                    done = await client.wait_tasks([task])
                assert done[task].status.state is TaskState.SUCCEEDED
                assert await role_of(channel) == "master with log"
                await node.change_role(Role.WORKER)
                assert answers[0] > before


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_a_watch_ends_with_the_log_and_goes_on_with_it(tmp_path: Path) -> None:
    async with served(tmp_path, slots=1) as each:
        node = each.node
        [worker] = [part.worker for part in node._parts if isinstance(part, WorkerPart)]
        assert worker is not None
        worker._has_room = lambda: False  # It takes no task.
        await node.change_role(Role.MASTER)
        await leads(node)
        async with Client.from_settings(each.profile) as client:
            [task] = await client.submit_tasks([task_spec("echo", {})])
            ended = asyncio.create_task(client.wait_tasks([task]))
            while not node._member.tasks._watchers:
                await asyncio.sleep(PAUSE_SECONDS)
            await node.change_role(Role.WORKER)
            while node._member.tasks._watchers or node._member.gate._running:
                await asyncio.sleep(PAUSE_SECONDS)
            with pytest.raises(ClusterError) as raised:
                await client.get_task(task, timeout=timedelta(seconds=PAUSE_SECONDS))
            assert raised.value.reason is Reason.NO_LEADER
            await node.change_role(Role.MASTER)
            await leads(node)
            await client.cancel_task(task)
            assert (await ended)[task].status.state is TaskState.CANCELLED


@contextmanager
def port_taken(each: Served) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", each.place.enrolment_port)):
        yield


@contextmanager
def log_damaged(each: Served) -> Iterator[None]:
    voter = each.place.home.raft / VOTER_NAME
    whole = voter.read_bytes()
    voter.write_bytes(b"")
    yield
    voter.write_bytes(whole)


@contextmanager
def key_damaged(each: Served) -> Iterator[None]:
    key = each.place.home.seal_key
    whole = key.read_bytes()
    write_private(key, b"")
    yield
    write_private(key, whole)


@contextmanager
def runs_already(_each: Served) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:

        async def check(_self: DuplicateCheck) -> None:
            raise ClusterError(Reason.MEMBER_RUNS_TWICE, "another one answers")

        patch.setattr(DuplicateCheck, "check", check)
        yield


@pytest.mark.parametrize("cause", [port_taken, log_damaged, key_damaged, runs_already])
@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_a_change_that_fails_half_way_leaves_the_parts_that_ran(
    tmp_path: Path,
    cause: Callable[[Served], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[Engine] = []
    closes = Engine.close

    def close(engine: Engine) -> None:
        closed.append(engine)
        closes(engine)

    monkeypatch.setattr(Engine, "close", close)
    async with served(tmp_path) as each, each.channel() as channel:
        async with asked_all_the_time(channel):
            with nothing_is_left():
                parts, ports = list(each.node._parts), len(each.node._common.certificate.servers)
                with cause(each), pytest.raises((ClusterError, LogDamagedError)):
                    await each.node.change_role(Role.MASTER)
                assert each.node._parts == parts
                assert len(each.node._common.certificate.servers) == ports
                assert len(closed) == (cause in (port_taken, runs_already)), "what was opened"
                assert await role_of(channel) == "worker without log"
                assert await answer_of(channel) == Reason.NO_LEADER
                assert each.node._member.authority.seal_public_key == b""
            assert not each.enrols()
            await each.node.change_role(Role.MASTER)
            await leads(each.node)


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_what_a_master_opened_is_closed_even_if_one_thing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as each, each.channel() as channel:
        with nothing_is_left():
            await each.node.change_role(Role.MASTER)
            await leads(each.node)
            closes = MasterPart.close

            async def close(part: MasterPart) -> None:
                await closes(part)
                raise OSError("it can't be closed")

            monkeypatch.setattr(MasterPart, "close", close)
            with pytest.raises(OSError, match="can't be closed"):
                await each.node.change_role(Role.WORKER)
            assert await role_of(channel) == "worker without log"
            assert not each.enrols()
            assert each.node._member.authority.seal_public_key == b""


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_changes_wait_for_one_another_and_outlive_their_caller(tmp_path: Path) -> None:
    async with served(tmp_path) as each:
        roles = (Role.MASTER, Role.MASTER, Role.WORKER, Role.WORKER, Role.MASTER)
        changes = [asyncio.create_task(each.node.change_role(role)) for role in roles]
        await asyncio.sleep(0)
        changes[-1].cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        await leads(each.node)
        stopped = each.node
    assert not loops()
    with pytest.raises(ClusterError) as raised:
        await stopped.change_role(Role.WORKER)
    assert raised.value.reason is Reason.SHUTTING_DOWN


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_a_node_that_stops_ends_a_change_first(tmp_path: Path) -> None:
    async with served(tmp_path) as each:
        change = asyncio.create_task(each.node.change_role(Role.MASTER))
        await asyncio.sleep(PAUSE_SECONDS)
    await change
    assert not each.enrols()
    assert not [path for path in descriptors() if path.startswith(str(each.place.home.path))]

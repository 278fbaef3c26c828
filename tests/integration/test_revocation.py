"""From a revocation to the first refusal, and to the end of what runs: at every node, in seconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2 as standard_health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from ipfs_cluster_node.adapters.keys.certificates import read_certificate
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.sessions import hello_to_proto
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.internal.v1 import raft_pb2
from ipfs_cluster_node.internal.v1.raft_pb2_grpc import RaftServiceStub
from ipfs_cluster_node.v1 import content_pb2, health_pb2, task_dispatch_pb2
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub
from ipfs_cluster_node.worker.v1 import worker_pb2
from ipfs_cluster_node.worker.v1.worker_pb2_grpc import WorkerServiceStub
from tests.support.certificates import node_credentials, tls_of
from tests.support.nodes import until
from tests.support.people import Person, join, refused, signed

ENDS_SECONDS_MAX: Final = 2.0
"""Promised: from a revocation to the first refusal, and to the end of what runs."""
GIVE_UP_SECONDS: Final = 10.0
WAIT: Final = timedelta(seconds=30)
ASK_SECONDS: Final = 0.02
LONG: Final = {"sql": "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"}
LARGE_BYTES: Final = 32 * 1024 * 1024
SLOW_SECONDS: Final = 1.0
"""How long a slow reader reads nothing; the node has written what fits, and waits."""


@dataclass
class Ending:
    """What became of one call, or of one after another."""

    what: str
    at: float = 0.0
    reason: Reason | None = None

    def report(self, began: float) -> float:
        seconds = self.at - began
        print(f"{self.what:40} {seconds:5.2f} s  {self.reason}")
        return seconds


async def until_refused(ending: Ending, ask: Callable[[], Awaitable[Any]]) -> None:
    """Make a call again and again, until it is refused."""
    try:
        while True:
            await ask()
            await asyncio.sleep(ASK_SECONDS)
    except grpc.aio.AioRpcError as error:
        ending.at, ending.reason = time.monotonic(), error_from_rpc(error).reason


async def until_ended(
    ending: Ending, call: Any, started: asyncio.Event, goes_on: asyncio.Event
) -> None:
    """Read a stream, the first of it and what comes from a signal on, until the node ends it."""
    try:
        while await call.read() is not grpc.aio.EOF:
            started.set()
            await goes_on.wait()
        ending.at = time.monotonic()
    except grpc.aio.AioRpcError as error:
        ending.at, ending.reason = time.monotonic(), error_from_rpc(error).reason
    finally:
        started.set()


class Scene:
    """What somebody has running at the nodes of a cluster."""

    def __init__(self) -> None:
        self.endings: list[Ending] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._started: list[asyncio.Event] = []
        self._channels: list[grpc.aio.Channel] = []
        self._slow: list[asyncio.Event] = []

    def channel(self, node: LocalNode, tls: ClientTls) -> grpc.aio.Channel:
        channel = open_channel(
            node.address, tls=tls, node_id=NodeId(node.node_id), own_connection=True
        )
        self._channels.append(channel)
        return channel

    def ask(self, what: str, ask: Callable[[], Awaitable[Any]]) -> None:
        self._begin(what, lambda ending: until_refused(ending, ask))

    def follow(self, what: str, call: Any, *, slowly: bool = False) -> None:
        started, goes_on = asyncio.Event(), asyncio.Event()
        self._started.append(started)
        if slowly:
            self._slow.append(goes_on)
        else:
            goes_on.set()
        self._begin(what, lambda ending: until_ended(ending, call, started, goes_on))

    def _begin(self, what: str, run: Callable[[Ending], Any]) -> None:
        ending = Ending(what)
        self.endings.append(ending)
        self._tasks.append(asyncio.create_task(run(ending)))

    async def all_run(self) -> None:
        """Until each stream has begun; what runs at a node must not have ended by itself."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            for started in self._started:
                await started.wait()
        await asyncio.sleep(0.5)
        assert [e for e, task in zip(self.endings, self._tasks, strict=True) if task.done()] == []

    async def all_end(self, revoke: Callable[[], Awaitable[Any]]) -> None:
        """Revoke, and check that all end within what is promised, counted from before the call."""
        await self.all_run()
        began = time.monotonic()
        await revoke()
        print(f"\n{'the call itself':40} {time.monotonic() - began:5.2f} s")
        if self._slow:
            await asyncio.sleep(SLOW_SECONDS)
        for goes_on in self._slow:
            goes_on.set()
        await asyncio.wait(self._tasks, timeout=GIVE_UP_SECONDS)
        seconds = {ending.what: ending.report(began) for ending in self.endings}
        assert {w: s for w, s in seconds.items() if not 0 < s < ENDS_SECONDS_MAX} == {}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    try:
        yield made
    finally:
        await made.close()


async def ask_for_health(running: Scene, node: LocalNode, channel: grpc.aio.Channel) -> None:
    stub, request = HealthServiceStub(channel), health_pb2.GetHealthRequest()

    async def is_let_through() -> bool:
        return bool(await stub.GetHealth(request, timeout=5))

    # A follower hears of who joined, and of what was delegated, a little later.
    await until(is_let_through, seconds=GIVE_UP_SECONDS, what=f"{node.name} knows the caller")
    running.ask(f"GetHealth at {node.name}", lambda: stub.GetHealth(request, timeout=5))


@pytest.mark.asyncio
async def test_a_revocation_holds_at_every_master_and_ends_what_runs(
    cluster: LocalCluster, client: Client, nobody: Person, operator: Identity, cluster_did: str
) -> None:
    [cid] = await client.put_delegation([signed(operator, nobody.did, "/task", cluster_did)])
    async with nobody.client() as limited:
        task_id = await limited.submit_task("data_processing", LONG)
        watching = asyncio.ensure_future(limited.wait_tasks([task_id], timeout=WAIT))
        await asyncio.sleep(0.5)
        assert not watching.done()
        began = time.monotonic()
        await client.revoke_delegation(cid)
        await client.revoke_delegation(cid)  # Again: nothing changes, nothing fails.
        assert (await refused(limited.submit_task("echo"))).reason is Reason.NOT_DELEGATED
        error = await refused(asyncio.wait_for(watching, 2 * ENDS_SECONDS_MAX))
        assert time.monotonic() - began < ENDS_SECONDS_MAX
        assert error.reason is Reason.NOT_DELEGATED
    for node in cluster.nodes[:3]:
        async with cluster.client(node, stale=True) as asked:

            async def is_gone(asked: Client = asked) -> bool:
                kept = await asked.list_delegations(audience=nobody.did)
                return cid not in [d.cid for d in kept]

            await until(is_gone, seconds=ENDS_SECONDS_MAX, what="revoked at every master")
    await client.cancel_task(task_id)


@pytest.mark.asyncio
async def test_who_may_revoke(
    cluster: LocalCluster,
    client: Client,
    nobody: Person,
    operator: Identity,
    cluster_did: str,
    tmp_path: Path,
) -> None:
    other = await join(cluster, tmp_path, "user")
    tokens = [
        signed(operator, nobody.did, "/task/submit", cluster_did),
        signed(nobody.identity, other.did, "/task/submit", cluster_did),
    ]
    first, second = await client.put_delegation(tokens)
    async with other.client() as third:
        # Who only got it may not revoke what it came from.
        error = await refused(third.revoke_delegation(first))
        assert error.reason is Reason.NOT_DELEGATED
        assert error.metadata["command"] == "/ucan/revoke"
        unknown = str(cid_of_token(b"unknown"))
        error = await refused(third.revoke_delegation(unknown))
        assert error.reason is Reason.DELEGATION_NOT_FOUND
    async with nobody.client() as middle:
        await middle.revoke_delegation(second)
    async with cluster.client() as again:
        kept = {d.cid for d in await again.list_delegations()}
        assert first in kept
        assert second not in kept


@pytest.mark.asyncio
async def test_a_removed_client_is_cut_off_in_the_middle_of_a_stream(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    user = await join(cluster, tmp_path, "user")
    async with user.client() as leaving:
        task_id = await leaving.submit_task("data_processing", LONG)
        watching = asyncio.ensure_future(leaving.wait_tasks([task_id], timeout=WAIT))
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await client.remove_node(user.identity.node_id)
        error = await refused(asyncio.wait_for(watching, 2 * ENDS_SECONDS_MAX))
        assert time.monotonic() - began < ENDS_SECONDS_MAX
        assert error.reason is Reason.CALLER_UNKNOWN
    assert await client.list_delegations(audience=user.did) == []
    await client.cancel_task(task_id)


@pytest.mark.asyncio
async def test_what_a_removed_client_delegated_holds_no_more(
    cluster: LocalCluster,
    client: Client,
    nobody: Person,
    operator: Identity,
    cluster_did: str,
    tmp_path: Path,
) -> None:
    """Not even where it is brought, and was never kept: who was removed is not trusted."""
    leaving = await join(cluster, tmp_path, "user")
    chain = [
        *(d.token for d in (await client.get_caller()).delegations if d.audience == operator.did),
        signed(operator, leaving.did, "/task", cluster_did),
        signed(leaving.identity, nobody.did, "/task/submit", cluster_did),
    ]
    async with nobody.client(ucan=write_container(chain)) as limited:
        assert await limited.submit_task("echo")
        await client.remove_node(leaving.identity.node_id)
        assert (await refused(limited.submit_task("echo"))).reason is Reason.NOT_DELEGATED


@pytest.mark.asyncio
async def test_a_grant_is_revoked_in_all_its_copies(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    """Each renewal of a certificate gives another; once the older ones went on."""
    person = await join(cluster, tmp_path, "reader")
    async with person.client() as member:
        await member.get_config()
        assert member.certificate is not None
        await asyncio.sleep(1.1)  # The next copy ends in another second.
        await member.certificate.renew()
        held = (await member.get_caller()).delegations
        copies = [d.cid for d in held if d.command == "/config/read"]
        assert len(copies) == 2
        await client.revoke_delegation(copies[-1])
        error = await refused(member.get_config())
        assert error.reason is Reason.NOT_DELEGATED
        await member.list_nodes()
        await asyncio.sleep(1.1)
        await member.certificate.renew()
        assert (await refused(member.get_config())).reason is Reason.NOT_DELEGATED
        # Only that command ended: the others go on with each certificate.
        lists = [d for d in (await member.get_caller()).delegations if "member" in d.command]
        assert len(lists) == 3


@pytest.mark.parametrize("how", ["certificate by serial", "client by DID", "client removed"])
@pytest.mark.asyncio
async def test_a_revoked_client_is_refused_and_its_streams_end_at_every_node(
    cluster: LocalCluster, client: Client, tmp_path: Path, how: str
) -> None:
    person = await join(cluster, tmp_path, "user")
    serial = f"{read_certificate(person.tls.certificate_pem).serial:x}"
    async with scene() as running:
        for node in cluster.nodes:
            channel = running.channel(node, person.tls)
            await ask_for_health(running, node, channel)
            stub: Any = HealthStub(channel)
            watch = stub.Watch(standard_health_pb2.HealthCheckRequest())
            running.follow(f"Health/Watch at {node.name}", watch)
        assert len(running.endings) == 10
        if how == "client removed":
            await running.all_end(lambda: client.remove_node(person.identity.node_id))
        elif how == "client by DID":
            await running.all_end(lambda: client.revoke_certificate(did=person.did))
        else:
            await running.all_end(lambda: client.revoke_certificate(serial=serial))
    # A worker hears of who was removed as it hears of certificates.
    said = {ending.what.rsplit(" ", 1)[1]: ending.reason for ending in running.endings}
    at_masters = Reason.CALLER_UNKNOWN if how == "client removed" else Reason.CERTIFICATE_REVOKED
    for node in cluster.nodes:
        expected = at_masters if node.role == "master" else Reason.CERTIFICATE_REVOKED
        assert said[node.name] is expected, node.name


@pytest.mark.asyncio
async def test_a_client_whose_delegation_is_revoked_is_refused_and_its_watch_ends(
    cluster: LocalCluster, client: Client, operator: Identity, cluster_did: str, nobody: Person
) -> None:
    """At every master; a worker judges no delegations. Only the leader has watches."""
    [given] = await client.put_delegation([signed(operator, nobody.did, "/", cluster_did)])
    leader = await cluster.leader(client)
    task_id = await client.submit_task("data_processing", LONG)
    async with scene() as running:
        for node in cluster.nodes:
            if node.role != "master":
                continue
            channel = running.channel(node, nobody.tls)
            await ask_for_health(running, node, channel)
            if node is leader:
                watch = TaskDispatchServiceStub(channel).WatchTasks(
                    task_dispatch_pb2.WatchTasksRequest(task_ids=[task_id])
                )
                running.follow(f"WatchTasks at {node.name}", watch)
        assert len(running.endings) == 4
        await running.all_end(lambda: client.revoke_delegation(given))
        assert {ending.reason for ending in running.endings} == {Reason.NOT_DELEGATED}
    await client.cancel_task(task_id)


@pytest.mark.asyncio
async def test_a_download_that_is_read_slowly_ends_at_every_master(
    cluster: LocalCluster,
    client: Client,
    operator: Identity,
    cluster_did: str,
    nobody: Person,
    tmp_path: Path,
) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (LARGE_BYTES // 256))
    cid = (await client.add_content(path)).cid
    [given] = await client.put_delegation([signed(operator, nobody.did, "/", cluster_did)])
    async with scene() as running:
        for node in cluster.nodes:
            if node.role != "master":
                continue
            channel = running.channel(node, nobody.tls)
            await ask_for_health(running, node, channel)
            reading = ContentServiceStub(channel).GetContent(content_pb2.GetContentRequest(cid=cid))
            running.follow(f"GetContent at {node.name}", reading, slowly=True)
        assert len(running.endings) == 6
        await running.all_end(lambda: client.revoke_delegation(given))
        assert {ending.reason for ending in running.endings} == {Reason.NOT_DELEGATED}


@pytest.mark.asyncio
async def test_the_session_of_a_removed_worker_ends(cluster: LocalCluster, client: Client) -> None:
    leader = await cluster.leader(client)
    node = cluster.make_node("worker-9")
    await cluster.add_node(client, node)
    await cluster.kill(node)  # In its place comes a session of the test's.
    cluster.nodes.remove(node)
    async with scene() as running:
        channel = running.channel(leader, tls_of(node_credentials(node)))
        session = WorkerServiceStub(channel).WorkerSession()
        await session.write(worker_pb2.WorkerSessionRequest(hello=hello_to_proto((), 0)))
        running.follow(f"WorkerSession at {leader.name}", session)
        await running.all_end(lambda: client.remove_node(node.node_id))
        assert running.endings[0].reason is Reason.CALLER_UNKNOWN


@pytest.mark.asyncio
async def test_what_a_removed_master_has_to_say_is_heard_no_more(
    cluster: LocalCluster, client: Client
) -> None:
    node = cluster.make_node("master-9")
    await cluster.add_node(client, node)
    await cluster.kill(node)  # In its place comes a stream of the test's.
    cluster.nodes.remove(node)
    tls = tls_of(node_credentials(node))
    voter = voter_id(NodeId(node.node_id), 1)
    async with scene() as running:
        for master in cluster.nodes:
            if master.role != "master":
                continue
            exchange = RaftServiceStub(running.channel(master, tls)).Exchange()
            await exchange.write(
                raft_pb2.ExchangeRequest(hello=raft_pb2.ExchangeHello(voter=voter))
            )
            running.follow(f"Exchange at {master.name}", exchange)
        await running.all_end(lambda: client.remove_node(node.node_id))
        assert {ending.reason for ending in running.endings} == {Reason.CALLER_UNKNOWN}

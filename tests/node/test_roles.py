"""A running node's parts change from a worker's to a master's and back, while it serves."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.adapters.keys.sealing import SealKey
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.adapters.raft.writer import Writer
from ipfs_cluster_node.codec.enums import ROLE
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, voter_id
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.commands import TOP
from ipfs_cluster_node.node.node import Node
from ipfs_cluster_node.node.setup import init_cluster
from ipfs_cluster_node.v1 import health_pb2, health_pb2_grpc, membership_pb2, membership_pb2_grpc
from tests.node.test_simulated_nodes import join
from tests.support.memory_net import MemoryNet
from tests.support.virtual_time import loop_clock, virtual_loop, virtual_time

PASSPHRASE = "a passphrase of the tests"


def home_at(path: Path, *, bind: str = "127.0.0.1:9096", enrolment: str = "127.0.0.1:9097") -> Home:
    """A master's home, that of the only one."""
    home = Home(path)
    settings = NodeSection(name="first", role="master", bind=bind, enrolment_bind=enrolment)
    init_cluster(
        home, settings, cluster_name="c", recovery_passphrase=PASSPHRASE, clock=loop_clock()
    )
    return home


def node_of(home: Home, role: Role) -> Node:
    settings = load_settings(home.config)
    return Node(home, replace(settings, node=replace(settings.node, role=role)), clock=loop_clock())


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[asyncio.Task[None]]:
    ready = asyncio.Event()
    task = asyncio.create_task(node.run(lambda _bound: ready.set()))
    try:
        first = asyncio.create_task(ready.wait())
        await asyncio.wait((task, first), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def answer_of(channel: Any) -> str:
    """The node's answer to a read that needs the log: its reason, `OK` if it was answered."""
    try:
        await membership_pb2_grpc.MembershipServiceStub(channel).GetClusterStatus(
            membership_pb2.GetClusterStatusRequest(), timeout=5
        )
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error).reason
    return "OK"


async def role_of(channel: Any) -> str:
    health: health_pb2.GetHealthResponse = await health_pb2_grpc.HealthServiceStub(
        channel
    ).GetHealth(health_pb2.GetHealthRequest(), timeout=5)
    role = ROLE.word(health.role, "role")
    return f"{role} {'with' if health.HasField('raft') else 'without'} log"


async def leads(node: Node) -> None:
    async with asyncio.timeout(30):
        while not (node._member.consensus.is_leader and node._member.uplink.registered.is_set()):
            await asyncio.sleep(0.1)


def loops() -> set[str]:
    """The tasks that run here by names that the node has given them."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if not name.startswith(("Task-", "rpc_task", "HandleExc"))}


def fill_caches(node: Node) -> weakref.ref[ClusterState]:
    """Have a leader keep what it may keep."""
    member = node._member
    state = member.consensus.state()
    node._common.observations.hear(NodeId("n"))
    member.authority.keys(state.certificates.authority)
    [client] = [each for each in state.members.principals() if each.role is Role.CLIENT]
    member.authorizer.access(client.did, TOP)
    return weakref.ref(state)


@virtual_time
async def test_the_only_masters_parts_stop_and_start_while_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = MemoryNet(monkeypatch)
    node = node_of(home_at(tmp_path), Role.LEECHER)
    async with running(node):
        own = net.open("127.0.0.1:9096", tls=node._common.certificate.tls)
        await asyncio.sleep(3)
        before = loops()
        assert await role_of(own) == "leecher without log"
        assert await answer_of(own) == Reason.NO_LEADER
        for _ in range(2):
            await node.change_role(Role.MASTER)
            assert await role_of(own) == "master with log"
            await leads(node)
            await asyncio.sleep(3)
            assert await answer_of(own) == "OK"
            assert loops() > before
            assert node._member.uplink.lease_holds
            state = fill_caches(node)
            await node.change_role(Role.LEECHER)
            assert await role_of(own) == "leecher without log"
            assert await answer_of(own) == Reason.NO_LEADER
            await asyncio.sleep(3)
            assert loops() == before
            assert node._common.observations.heard_at == {}
            assert node._member.authority._opened is None
            assert node._member.authority.seal_public_key == b""
            gc.collect()
            assert state() is None


@virtual_time
async def test_a_node_votes_while_it_is_a_master_and_keeps_its_lease_throughout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = MemoryNet(monkeypatch)
    master = Node(
        home := home_at(tmp_path / "first"), load_settings(home.config), clock=loop_clock()
    )
    second = Home(tmp_path / "second")
    async with running(master):
        await asyncio.sleep(20)  # Its clock is steady for long enough to sign.
        await join(master, second, loop_clock(), monkeypatch)
        node = Node(second, load_settings(second.config), clock=loop_clock())
        voter = voter_id(node.node_id, 2)
        write_private(second.seal_key, SealKey.create().pem())
        create_store(DirectoryDisk(second.raft), voter, [])
        replica = master._member.consensus.replica
        assert replica is not None
        async with running(node):
            await asyncio.sleep(5)
            uplink, own = node._member.uplink, node._member.consensus
            lapses = uplink.lapse_count
            to_node = net.open("127.0.0.1:9196", tls=master._common.certificate.tls)
            before = loops()
            for _ in range(2):
                assert await answer_of(to_node) == Reason.NOT_LEADER
                register(master, node, Role.MASTER, incarnation=2)
                await node.change_role(Role.MASTER)
                await asyncio.sleep(10)
                assert voter in replica.voters
                assert own.applied_index == replica.applied_index
                assert await answer_of(to_node) == "OK"  # From its own copy of the log.
                # It votes, and leads: nothing could be committed without it.
                await replica.transfer_leadership(voter)
                await asyncio.sleep(2)
                assert own.is_leader
                assert await answer_of(to_node) == "OK"
                assert node._common.observations.heard_at
                assert node.node_id in node._common.observations.heard_at
                await own.require_replica().transfer_leadership(replica.voter)
                await asyncio.sleep(2)
                await replica.remove_voter(voter)
                register(master, node, Role.LEECHER, incarnation=0)
                await node.change_role(Role.LEECHER)
                assert own.leader == master.node_id
                await asyncio.sleep(10)
                assert master._member.consensus.is_leader
                assert loops() == before
                assert node._common.boots._processes == {}
                assert uplink.registered.is_set()
                assert uplink.registration.incarnation == 0
                assert not uplink.registration.enrolment_endpoints
                assert uplink.lease_holds
            assert uplink.lapse_count == lapses


def register(master: Node, node: Node, role: Role, *, incarnation: int) -> None:
    """What a command will do: have the leader's log say what a node is from now on."""
    members = master._member.consensus.state().members
    principal = members.node(node.node_id)
    assert principal is not None
    members.put(replace(principal, role=role, incarnation=incarnation))


@virtual_time
async def test_a_log_is_not_opened_again_while_the_earlier_one_may_still_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs: what its thread writes later would be mixed with the new log's."""
    MemoryNet(monkeypatch)

    async def gives_up(writer: Writer) -> bool:
        """As after `STOP_SECONDS_MAX`: while it waits, the simulated clock would stand still."""
        writer._jobs.put(None)
        return writer.ended

    monkeypatch.setattr(Writer, "stop", gives_up)
    node = node_of(home_at(tmp_path), Role.LEECHER)
    async with running(node):
        await asyncio.sleep(3)
        await node.change_role(Role.MASTER)
        await leads(node)
        writer = node._member.consensus.require_replica().writer
        hangs, reached = threading.Event(), threading.Event()

        def hang() -> None:
            reached.set()
            hangs.wait(30)

        assert writer is not None
        writer._jobs.put((hang, asyncio.get_running_loop().create_future()))
        assert await asyncio.to_thread(reached.wait, 10)
        await node.change_role(Role.LEECHER)
        for _ in range(2):
            with pytest.raises(ClusterError) as refused:
                await node.change_role(Role.MASTER)
            assert refused.value.reason is Reason.LOG_STORAGE_FAILED
        assert node._common.role is Role.LEECHER
        hangs.set()
        with virtual_loop().real_work():
            while not writer.ended:
                await asyncio.sleep(0)
        await node.change_role(Role.MASTER)
        await leads(node)

"""Replicas in one process, each behind a real gRPC server with mutual TLS on loopback."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import grpc

from ipfs_cluster_node.adapters.net.tls import ServerTls, bind_port, make_server, open_channel
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.replica import Replica
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.codec.errors import STATUS_DETAILS_KEY, status_details, status_of
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId, VoterId, voter_id
from ipfs_cluster_node.internal.v1 import raft_pb2_grpc
from tests.support.tls import Member, enrol, make_ca

FAST = RaftConfig(
    heartbeat_interval=timedelta(milliseconds=50),
    election_timeout_min=timedelta(milliseconds=600),
    election_timeout_max=timedelta(milliseconds=1200),
)


class ListMachine:
    """Keeps every command in order."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.ended: list[int] = []
        """The entries that ended."""

    def apply(self, index: int, command: bytes) -> object:
        if command == b"raise":
            raise RuntimeError("asked for")
        self.commands.append(command.decode())
        return (len(self.commands), command.decode())

    def end_entry(self, index: int) -> None:
        self.ended.append(index)

    def freeze(self) -> Callable[[], Iterator[bytes]]:
        frozen = list(self.commands)
        return lambda: (command.encode() for command in frozen)

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        commands = [part.decode() for part in parts]

        def use() -> None:
            self.commands = commands

        return use


class _Servicer(raft_pb2_grpc.RaftServiceServicer):
    def __init__(self, host: "ReplicaHost") -> None:
        self._host = host

    async def Exchange(self, request_iterator, context):  # type: ignore[no-untyped-def]
        did = context.auth_context()["x509_subject_alternative_name"][0].decode()
        peer = self._host.cluster.node_of_did(did)
        try:
            async for response in self._host.replica.exchange(peer, request_iterator):
                yield response
        except ClusterError as error:
            details = ((STATUS_DETAILS_KEY, status_details(error)),)
            await context.abort(status_of(error.reason), error.message, details)


class ReplicaHost:
    def __init__(self, cluster: "ReplicaCluster", member: Member, directory: Path) -> None:
        self.cluster = cluster
        self.member = member
        self.node_id = member.identity.node_id
        self.voter = voter_id(self.node_id, 1)
        self.directory = directory
        self.notes = directory.with_suffix(".notes")
        self.port = 0

    async def start(self) -> None:
        self.machine = self.cluster.machine()
        self.replica = Replica(
            directory=self.directory,
            machine=self.machine,
            dial=self._dial,
            config=self.cluster.config,
            notes=self.notes,
        )
        self.server = make_server()
        raft_pb2_grpc.add_RaftServiceServicer_to_server(_Servicer(self), self.server)
        endpoint = Endpoint("127.0.0.1", self.port)
        self.port = bind_port(
            self.server,
            endpoint,
            ServerTls(self.member.tls, mutual=True).credentials,
            flag="--bind",
        )
        await self.server.start()
        self.task = asyncio.create_task(self.replica.run())

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self.server.stop(None)

    def _dial(self, node_id: NodeId) -> grpc.aio.Channel | None:
        peer = self.cluster.hosts.get(node_id)
        if peer is None or not peer.port:
            return None
        return open_channel(
            f"127.0.0.1:{peer.port}", tls=self.member.tls, node_id=node_id, own_connection=True
        )


class ReplicaCluster:
    def __init__(
        self,
        directory: Path,
        count: int,
        config: RaftConfig = FAST,
        *,
        machine: Callable[[], ListMachine] = ListMachine,
    ) -> None:
        self.config = config
        self.machine = machine
        self.ca = make_ca()
        self.directory = directory
        self.hosts: dict[NodeId, ReplicaHost] = {}
        members = [self.make_host() for _ in range(count)]
        voters = [host.voter for host in members]
        for host in members:
            create_store(DirectoryDisk(host.directory), host.voter, voters)

    def make_host(self) -> ReplicaHost:
        member = enrol(self.ca)
        directory = self.directory / member.identity.node_id
        host = ReplicaHost(self, member, directory)
        self.hosts[host.node_id] = host
        return host

    def node_of_did(self, did: str) -> NodeId:
        return next(h.node_id for h in self.hosts.values() if h.member.identity.did == did)

    async def __aenter__(self) -> "ReplicaCluster":
        for host in self.hosts.values():
            await host.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in self.hosts.values():
            if not host.task.done():
                await host.stop()

    async def leader(self, *, but: NodeId | None = None) -> ReplicaHost:
        async with asyncio.timeout(15):
            while True:
                for host in self.hosts.values():
                    if host.node_id != but and not host.task.done() and host.replica.is_leader:
                        return host
                await asyncio.sleep(0.01)

    async def until_equal(self, count: int) -> None:
        """Wait until every running machine has `count` commands."""
        async with asyncio.timeout(15):
            while any(
                len(h.machine.commands) < count for h in self.hosts.values() if not h.task.done()
            ):
                await asyncio.sleep(0.01)


def voters_of(host: ReplicaHost) -> set[VoterId]:
    return set(host.replica.voters)

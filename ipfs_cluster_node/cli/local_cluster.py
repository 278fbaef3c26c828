"""Runs a cluster's nodes as processes on this machine, for `dev`, the demo and the tests."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.ports import LOOPBACK, free_port
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.profiles import (
    Profile,
    ProfileEndpoint,
    save_profile,
)
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Liveness, Role
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.node.setup import CLIENT_FILES, init_cluster, profile_of

READY_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 10.0
POLL_SECONDS: Final = 0.1

Listener = Callable[[str], None]


@dataclass(slots=True)
class LocalNode:
    """One node and its process."""

    name: str
    role: str
    home: Home
    port: int
    host: str = LOOPBACK
    prefix: tuple[str, ...] = ()
    """Prefix of its command line: a namespace, an environment."""
    arguments: tuple[str, ...] = ()
    """Further arguments of `serve`."""
    enrolment_port: int = field(default_factory=lambda: _free_port())  # noqa: PLW0108
    node_id: str = ""
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self.host}:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.returncode is None


class LocalCluster:
    """A cluster of processes on loopback, with mutual TLS like any other."""

    def __init__(
        self,
        root: Path,
        *,
        profile_name: str | None = None,
        recovery_passphrase: str = "",
        handlers: Sequence[str] = (),
    ) -> None:
        """Store everything under `root`; write a client profile if one is named.

        `handlers` are files and modules with task handlers, for the workers.
        """
        self._recovery_passphrase = recovery_passphrase
        self._handlers = tuple(handlers)
        self.root = root
        self._profile_name = profile_name
        self.nodes: list[LocalNode] = []
        self.profile: Profile

    async def start(
        self, *, masters: int, workers: int, on_up: Listener = lambda _name: None
    ) -> None:
        """Make the nodes and start each; returns once all are alive members.

        Those that are in the directory already are started as they are.

        Raises:
            ClusterError: A node did not start; the message is the node's.
        """
        self.choose_nodes(masters=masters, workers=workers)
        first, *_ = self.nodes
        if first.home.is_taken:
            self.profile = self._kept_profile()
        else:
            self.profile = init_cluster(
                first.home,
                self._settings(first),
                cluster_name="local",
                recovery_passphrase=self._recovery_passphrase,
            ).profile
        if self._profile_name is not None:
            save_profile(self._profile_name, self.profile)
        made = [node for node in self.nodes if node.home.is_taken]
        await asyncio.gather(*map(self.start_node, made))
        others = [node for node in self.nodes if node not in made]
        async with self.client() as client:
            for node in others:
                await self._join(client, node)
            await asyncio.gather(*map(self.start_node, others))
            await self._until_members(client, on_up)

    def choose_nodes(self, *, masters: int, workers: int) -> None:
        """Choose the names and ports of the nodes, unless that is done; nothing is made."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.nodes:
            names = [f"master-{n}" for n in range(1, masters + 1)]
            names += [f"worker-{n}" for n in range(1, workers + 1)]
            self.nodes = list(map(self.make_node, names))

    def take_nodes(self, ports: Mapping[str, tuple[int, int]]) -> None:
        """Take the nodes that were chosen before: the ports of each, by its name."""
        for name, (port, enrolment_port) in ports.items():
            node = self.make_node(name)
            node.port, node.enrolment_port = port, enrolment_port
            self.nodes.append(node)

    def _kept_profile(self) -> Profile:
        """The operator's, made with the first node."""
        client = self.nodes[0].home.path / "client"
        masters: dict[NodeId, tuple[str, ...]] = {
            Identity.load(node.home.identity).node_id: (node.address,)
            for node in self.nodes
            if node.role == Role.MASTER and node.home.is_taken
        }
        ca, certificate, key = (client / name for name in CLIENT_FILES)
        return profile_of(ca, certificate, key, masters)

    @property
    def enrolment_port(self) -> int:
        """The first master's enrolment port."""
        return self.nodes[0].enrolment_port

    def make_node(self, name: str) -> LocalNode:
        """Choose a node's home and ports; nothing is started."""
        role = name.partition("-")[0]
        node = LocalNode(name, role, Home(self.root / name), _free_port())
        if role == Role.WORKER:
            node.arguments = tuple(f"--handlers={each}" for each in self._handlers)
        return node

    def client(self, *nodes: LocalNode, stale: bool = False) -> Client:
        """The operator's client; uses only these nodes, if any are given.

        With `stale` it reads from any of them, without the leader.
        """
        known = tuple(ProfileEndpoint(node.address, node.node_id) for node in nodes)
        profile = replace(self.profile, endpoints=known) if known else self.profile
        return Client.from_settings(profile, stale=stale)

    async def add_node(self, client: Client, node: LocalNode) -> None:
        """Make one more node join, and start it; returns once it listens. Safe to repeat."""
        if not node.home.is_taken:
            await self._join(client, node)
        if not node.runs:
            await self.start_node(node)
        self.nodes.append(node)

    async def _join(self, client: Client, node: LocalNode) -> None:
        token = await client.create_join_token(node.role)
        await join_cluster(
            node.home,
            self._settings(node),
            token=token.token,
            enrolment=f"{self.nodes[0].host}:{self.enrolment_port}",
            check_ports=node.host == LOOPBACK,  # Others are in a network namespace.
        )

    def _settings(self, node: LocalNode) -> NodeSection:
        return NodeSection(
            name=node.name,
            role=node.role,
            bind=node.address,
            enrolment_bind=f"{node.host}:{node.enrolment_port}",
            advertise=() if node.host == LOOPBACK else (node.address,),
        )

    async def start_node(self, node: LocalNode) -> None:
        """Start a node's process; returns once it listens."""
        # All nodes run as one user: their handlers must not see each other or the client's key.
        hidden = {"IPFS_CLUSTER_NODE_TASKS_HIDDEN_PATHS": str(self.root.absolute())}
        with (node.home.path / "log").open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *node.prefix,
                *command("serve", "--home", str(node.home.path), *node.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **hidden},
            )
        assert node.process.stdout is not None
        async with asyncio.timeout(READY_SECONDS_MAX):
            line = await node.process.stdout.readline()
        if not line:
            said = (node.home.path / "log").read_text(errors="replace").strip().splitlines()
            raise ClusterError(
                Reason.INTERNAL, f"{node.name} did not start: {said[-1] if said else 'no word'}"
            )
        node.node_id = json.loads(line)["node_id"]

    async def _until_members(self, client: Client, on_up: Listener) -> None:
        waiting = {node.node_id: node for node in self.nodes}
        async with asyncio.timeout(READY_SECONDS_MAX):
            while waiting:
                for listed in await client.list_nodes():
                    alive = listed.liveness is Liveness.ALIVE
                    votes = listed.voter or listed.role is not Role.MASTER
                    if listed.node_id in waiting and alive and votes:
                        on_up(waiting.pop(listed.node_id).name)
                await asyncio.sleep(POLL_SECONDS)

    async def leader(self, client: Client) -> LocalNode:
        """The current leader; waits for an election."""
        async with asyncio.timeout(READY_SECONDS_MAX):
            while True:
                status = await client.get_cluster_status()
                for node in self.nodes:
                    if node.node_id == status.leader_node_id:
                        return node
                await asyncio.sleep(POLL_SECONDS)

    async def kill(self, node: LocalNode) -> None:
        """End a node's process with SIGKILL; returns once it is gone."""
        assert node.process is not None
        node.process.send_signal(signal.SIGKILL)
        await node.process.wait()

    async def restart_workers(self) -> None:
        """Stop the workers, which hand back their attempts, and start them again.

        Raises:
            ClusterError: One did not start; the message is the node's.
        """
        workers = [node for node in self.nodes if node.role == Role.WORKER]
        await self._stop(workers)
        await asyncio.gather(*(self.start_node(node) for node in workers))

    async def stop(self) -> None:
        """Stop every process."""
        await self._stop(self.nodes)

    async def _stop(self, nodes: Sequence[LocalNode]) -> None:
        running = [node.process for node in nodes if node.runs and node.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
        for process in running:
            try:
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def command(*arguments: str) -> tuple[str, ...]:
    """The command line of this installation."""
    return (sys.executable, "-P", "-m", "ipfs_cluster_node", *arguments)


def _free_port() -> int:
    port = free_port()
    if port is None:
        raise ClusterError(
            Reason.PORT_IN_USE, "no port is free; stop programs that listen on this machine"
        )
    return port

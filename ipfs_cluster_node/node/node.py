"""Builds a node from its parts, runs it, and stops it in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.net.tls import ServerTls, bind_port, make_server
from ipfs_cluster_node.adapters.raft.writer import Writer
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node.health import NodeHealth
from ipfs_cluster_node.node.health_calls import removed_by_most
from ipfs_cluster_node.node.leaving import Leaving
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.log import LogPart
from ipfs_cluster_node.node.parts.master import MasterPart
from ipfs_cluster_node.node.parts.member import MemberPart
from ipfs_cluster_node.node.parts.part import STOP_GRACE_SECONDS, Loop, Part
from ipfs_cluster_node.node.parts.worker import WorkerPart
from ipfs_cluster_node.services.health import HealthServicer
from ipfs_cluster_node.services.reflection import ReflectionServicer
from ipfs_cluster_node.services.standard_health import StandardHealthServicer

log = logging.getLogger(__name__)

HEALTH_INTERVAL_SECONDS: Final = 0.5
SERVED: Final = sorted(
    {
        method.split("/")[1]
        for method, rule in RULES_BY_METHOD.items()
        if method.startswith("/ipfs_cluster_node.") and rule.callers != {CallerClass.JOINER}
    }
)
"""Our services on the port for members."""
DESCRIBED: Final = [name for name in SERVED if ".internal." not in name]
"""Those that reflection lists: who makes stubs from it needs nothing of what only masters call."""
HEALTH_NAMES: Final = ("", *SERVED)
"""Names served by `grpc.health.v1`; the empty one means the whole node."""


class Node:
    """One node. `run` serves until it is cancelled or one of its loops fails."""

    def __init__(self, home: Home, settings: NodeSettings, *, clock: Clock) -> None:
        """Build every part; nothing runs or listens yet.

        Raises:
            LogDamagedError: Its log can't be trusted.
            ClusterError: Why else the node can't be built, and the way out.
        """
        self._standard_health = StandardHealthServicer(HEALTH_NAMES)
        self._common = common = CommonPart(home, settings, clock=clock)
        self._member = member = MemberPart(common)
        worker = WorkerPart(common, member)
        self._parts: list[Part] = [common, worker, member]
        self._master_parts: list[Part] = []
        """Those of `_parts` that only a master has."""
        self._log_writer: Writer | None = None
        """Of the log that was detached last: its disk may hang, and write later."""
        self._loops: dict[object, list[asyncio.Task[None]]] = {}
        """Those that run, by the part that they are of."""
        self._changing = asyncio.Lock()
        """Held while the parts change."""
        self._runs = False
        if common.role is Role.MASTER:
            opened = LogPart(common, member)
            self._master_parts = [opened, self._master_part(opened)]
            self._parts += self._master_parts
        for part in self._parts:
            part.attach()
        self.node_id = common.node_id
        self.health = NodeHealth(common, member, worker)
        self._leaving = self._made_leaving(home, worker)
        self._serve()
        self._server = make_server()
        self._server.add_generic_rpc_handlers((member.gate,))

    def take_masters(self, masters: Mapping[NodeId, tuple[str, ...]]) -> bool:
        """Accept masters named by the operator, on a master that knows no other.

        Returns:
            Whether they were taken.
        """
        if not self._member.consensus.knows_nobody:
            return False
        self._common.peers.learn(masters.items(), None)
        self._common.connection.learn(self._common.targets())
        return True

    async def run(self, on_ready: Callable[[Endpoint], None] = lambda _bound: None) -> None:
        """Serve until cancelled; `on_ready` takes where the node listens, once it does.

        Raises:
            ClusterError: PORT_IN_USE, MEMBER_RUNS_TWICE, or what made the node stop.
        """
        certificate = self._common.certificate
        mutual = ServerTls(certificate.tls, mutual=True)
        certificate.servers.append(mutual)
        port = bind_port(self._server, self._common.bind_to, mutual.credentials, flag="--bind")
        if self._common.bind_to.port == 0:
            self._common.listens_at(port)
            self._member.uplink.registration.endpoints[:] = self._common.advertised
        for part in self._parts:
            part.bind()
        for part in self._parts:
            await part.prepare()
        try:
            await self._server.start()
            for part in self._parts:
                await part.begin()
            on_ready(self._common.bind_to)
            await self._run_loops()
        finally:
            await self._stop()

    async def change_role(self, role: Role) -> None:
        """Start or stop the parts of a master while all others go on; returns once that is done.

        Whether the cluster agrees is for the caller to see to: a master's log must be in its home
        directory, and one that stops should not vote any longer. The settings are not changed.
        Cancelling the caller does not cancel the change.

        Raises:
            LogDamagedError: The log can't be trusted; the parts are as before.
            ClusterError: SHUTTING_DOWN; PORT_IN_USE, MEMBER_RUNS_TWICE, HOME_DAMAGED, and
                LOG_STORAGE_FAILED while a write of the log that was closed hangs; as before.
        """
        await asyncio.shield(asyncio.create_task(self._change_role(role), name="role"))

    async def _change_role(self, role: Role) -> None:
        async with self._changing:
            if not self._runs:
                raise ClusterError(Reason.SHUTTING_DOWN, "this node does not run; ask another one")
            begun: list[Part] = []
            if role is Role.MASTER and not self._master_parts:
                begun = await self._begun_master_parts()
            self._common.role = role  # Nothing fails from here on.
            log.info("role changed", extra={"role": role})
            if begun:
                self._attach(begun)
            elif role is not Role.MASTER and self._master_parts:
                await self._remove_master_parts()

    async def _begun_master_parts(self) -> list[Part]:
        """Those of a master, which nothing uses yet; none if one of them can't begin."""
        if self._log_writer is not None and not self._log_writer.ended:
            raise ClusterError(
                Reason.LOG_STORAGE_FAILED,
                "a write of this node's earlier log has not ended: its disk hangs; try again once "
                "the disk works, or restart this node",
            )
        async with AsyncExitStack() as undone:
            opened = await asyncio.to_thread(LogPart, self._common, self._member)
            undone.push_async_callback(opened.close)
            master = self._master_part(opened)
            undone.push_async_callback(master.close)
            parts: list[Part] = [opened, master]
            for part in parts:
                part.bind()
            for part in parts:
                await part.prepare()
            for part in parts:
                await part.begin()
            undone.pop_all()
            return parts

    def _attach(self, parts: list[Part]) -> None:
        self._master_parts = parts
        self._parts += parts
        for part in parts:
            part.attach()
            self._start_loops(part, part.loops)

    async def _remove_master_parts(self) -> None:
        parts, self._master_parts = self._master_parts, []
        self._parts = [part for part in self._parts if part not in parts]
        await self._stop_loops(*parts)
        for part in reversed(parts):
            part.detach()
        await _close(parts)
        [self._log_writer] = [part.replica.writer for part in parts if isinstance(part, LogPart)]

    def _master_part(self, log: LogPart) -> MasterPart:
        return MasterPart(self._common, log, self._member, self._standard_health)

    async def _run_loops(self) -> None:
        self._ended: asyncio.Future[asyncio.Task[None]] = asyncio.get_running_loop().create_future()
        self._runs = True
        loops = {"health": self._publish_health, "leaving": self._leaving.run}
        self._start_loops(self, loops)
        for part in self._parts:
            self._start_loops(part, part.loops)
        try:
            (await self._ended).result()  # A loop that ends ends the node: none may fail silently.
        except asyncio.CancelledError:
            # On a stop, a worker returns its attempts while the loops still run.
            for part in self._parts:
                await part.leave()
            raise
        finally:
            self._runs = False
            async with self._changing:
                await self._stop_loops(*self._loops)

    def _start_loops(self, owner: object, loops: Mapping[str, Loop]) -> None:
        self._loops[owner] = tasks = [
            asyncio.create_task(_forever(loop()), name=name) for name, loop in loops.items()
        ]
        for task in tasks:
            task.add_done_callback(self._loop_ended)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not self._ended.done():
            self._ended.set_result(task)

    async def _stop_loops(self, *owners: object) -> None:
        tasks = [task for owner in owners for task in self._loops.pop(owner)]
        for task in tasks:
            task.remove_done_callback(self._loop_ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        self._member.sessions.on_leadership(False)
        await self._server.stop(STOP_GRACE_SECONDS)
        await _close(self._parts)

    def _made_leaving(self, home: Home, worker: WorkerPart) -> Leaving:
        common, member = self._common, self._member

        def stay() -> None:
            worker.stay()
            member.uplink.registered.clear()  # It may have lost its vote.

        return Leaving(
            home,
            connection=common.connection,
            was_refused=lambda: member.consensus.removal is not None,
            is_removed=lambda: removed_by_most(
                common.peers.targets(), common.node_id, common.certificate.tls
            ),
            drain=worker.leave,
            stay=stay,
            clock=common.clock,
        )

    async def _publish_health(self) -> None:
        while True:
            self._standard_health.set_serving(self.health.is_serving)
            await asyncio.sleep(HEALTH_INTERVAL_SECONDS)

    def _serve(self) -> None:
        gate = self._member.gate
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        described = (*DESCRIBED, health, reflection.SERVICE_NAME)
        gate.serve(HealthServicer(self.health.get_health), self._standard_health)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            ReflectionServicer(described), gate
        )


async def _close(parts: Iterable[Part]) -> None:
    """Close all of them, the last first, whatever fails."""
    async with AsyncExitStack() as closing:
        for part in parts:
            closing.push_async_callback(part.close)


async def _forever(loop: Awaitable[None]) -> None:
    await loop

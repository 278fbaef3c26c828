"""Builds a node from its parts, runs it, and stops it in order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from ipfs_cluster_node.access.context import CallerClass
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.net.tls import ServerTls, bind_port, make_server
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.health import NodeHealth
from ipfs_cluster_node.node.parts.common import CommonPart
from ipfs_cluster_node.node.parts.log import LogPart
from ipfs_cluster_node.node.parts.master import MasterPart
from ipfs_cluster_node.node.parts.member import MemberPart
from ipfs_cluster_node.node.parts.part import STOP_GRACE_SECONDS, Loop, Part
from ipfs_cluster_node.node.parts.worker import WorkerPart
from ipfs_cluster_node.services.health import HealthServicer
from ipfs_cluster_node.services.reflection import ReflectionServicer
from ipfs_cluster_node.services.standard_health import StandardHealthServicer
from ipfs_cluster_node.v1 import health_pb2_grpc as own_health_pb2_grpc

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
        log = LogPart(common) if common.is_master else None
        self._member = member = MemberPart(common, log)
        worker = WorkerPart(common, member)
        self._parts: list[Part] = [common, worker, member]
        if log is not None:
            self._parts += [log, MasterPart(common, log, member, self._standard_health)]
        self.node_id = common.node_id
        self.health = NodeHealth(
            node_id=self.node_id,
            name=settings.node.name,
            role=settings.node.role,
            consensus=member.consensus,
            uplink=member.uplink,
            store=member.store,
            worker=worker.worker,
            pool=worker.pool if worker.worker else None,
            home=home,
            space=member.space,
            certificate=common.certificate,
            loop_gaps=common.loop_gaps,
            clock=member.clock,
        )
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
        """Serve until cancelled.

        Args:
            on_ready: Called with where the node listens, once it does.

        Raises:
            ClusterError: PORT_IN_USE, MEMBER_RUNS_TWICE, or what made the node stop.
        """
        certificate, bound = self._common.certificate, self._common.bind_to
        mutual = ServerTls(certificate.tls, mutual=True)
        certificate.servers.append(mutual)
        bind_port(self._server, bound, mutual.credentials, flag="--bind")
        for part in self._parts:
            part.bind()
        for part in self._parts:
            await part.prepare()
        try:
            await self._server.start()
            for part in self._parts:
                await part.begin()
            on_ready(bound)
            await self._run_loops()
        finally:
            await self._stop()

    async def _run_loops(self) -> None:
        loops: dict[str, Loop] = {"health": self._publish_health}
        for part in self._parts:
            loops |= part.loops
        tasks = [asyncio.create_task(_forever(loop()), name=name) for name, loop in loops.items()]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # A loop that ends ends the node: none may fail silently.
        except asyncio.CancelledError:
            # On a stop, a worker returns its attempts while the loops still run.
            for part in self._parts:
                await part.leave()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        self._member.sessions.on_leadership(False)
        await self._server.stop(STOP_GRACE_SECONDS)
        for part in reversed(self._parts):
            await part.close()

    async def _publish_health(self) -> None:
        while True:
            self._standard_health.set_serving(self.health.is_serving)
            await asyncio.sleep(HEALTH_INTERVAL_SECONDS)

    def _serve(self) -> None:
        gate = self._member.gate
        for part in self._parts:
            part.serve(gate)
        server = gate.as_server
        own_health_pb2_grpc.add_HealthServiceServicer_to_server(
            HealthServicer(self.health.get_health), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._standard_health, server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            ReflectionServicer(
                (
                    *DESCRIBED,
                    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                    reflection.SERVICE_NAME,
                )
            ),
            server,
        )


async def _forever(loop: Awaitable[None]) -> None:
    await loop

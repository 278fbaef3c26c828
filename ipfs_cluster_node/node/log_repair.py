"""Repairs a master's damaged log: until it is replaced, only health is served.

The master may have acknowledged, or voted for, what it has lost. So it never votes under its old
name again: the leader gives it a new incarnation, for which it creates an empty log, and it
continues like a master that has just joined.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import grpc

from ipfs_cluster_node import __version__
from ipfs_cluster_node.access.authorizer import Authorizer
from ipfs_cluster_node.access.identify import MemberIdentification
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.net.tls import ServerTls, bind_port, make_server
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.codec.enums import ROLE
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSettings
from ipfs_cluster_node.core.endpoints import Endpoint, parse_endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.internal.v1 import masters_pb2
from ipfs_cluster_node.node.files import NodeFiles
from ipfs_cluster_node.node.log_replacement import (
    begin_replacement,
    begun_replacement,
    put_new_log,
)
from ipfs_cluster_node.node.node import HEALTH_NAMES
from ipfs_cluster_node.node.own_certificate import OwnCertificate
from ipfs_cluster_node.services.gate import Gate
from ipfs_cluster_node.services.health import HealthServicer
from ipfs_cluster_node.services.standard_health import StandardHealthServicer
from ipfs_cluster_node.v1.health_pb2 import GetHealthResponse, HealthCheck

log = logging.getLogger(__name__)

ASK_SECONDS_MAX: Final = 15.0
"""For all attempts of one request to reach the leader."""
PAUSE_SECONDS_MIN: Final = 0.2
PAUSE_SECONDS_MAX: Final = 5.0
STOP_GRACE_SECONDS: Final = 0.5


class LogRepair:
    """One repair. `run` ends once an empty log has replaced the damaged one."""

    def __init__(
        self, home: Home, settings: NodeSettings, files: NodeFiles, damage: str, *, clock: Clock
    ) -> None:
        """Prepare it, with the error in the log as `damage`; nothing runs or listens yet.

        Raises:
            ClusterError: HOME_DAMAGED, if no other master is known that could help.
        """
        self._home, self._settings, self._damage = home, settings, damage
        self._clock = clock
        self._node_id = files.identity.node_id
        self._tls = files.tls
        self._started = self._clock.monotonic()
        self._waits_for = "no master was asked yet"
        self._standard_health = StandardHealthServicer(HEALTH_NAMES)
        self._peers = PeerBook(home.masters)
        others = [target for target in self._peers.targets() if target[1] != self._node_id]
        if not others:
            raise ClusterError(
                Reason.HOME_DAMAGED,
                f"the log: {damage}; another master gives this one a new log, and none is known "
                "here, which does not mean that there is none. If others run, name one: "
                "ipfs-cluster-node serve --master NODE_ID@HOST:PORT (see `node list`). If this was "
                f"the only one, or all others are lost for good, keep {home.path}, and see "
                "ipfs-cluster-node recover --help",
            )
        self._connection = Connection(others, self._tls)
        # With an invalid certificate, no other node would answer this one.
        self._own = OwnCertificate(
            home, files.identity, files.credentials, self._connection, clock=clock
        )
        self._own.on_renewed = [self._connection.renew]

    async def run(self, on_ready: Callable[[Endpoint], None]) -> None:
        """Serve health, and ask for a new log, until it is replaced.

        `on_ready` takes where the node listens, once it does.

        Raises:
            ClusterError: PORT_IN_USE.
        """
        log.error("log damaged, asking for a new one", extra={"damage": self._damage})
        bind = parse_endpoint(self._settings.node.bind)
        server = make_server()
        server.add_generic_rpc_handlers((self._services(),))
        tls = ServerTls(self._tls, mutual=True)
        self._own.servers.append(tls)
        bind_port(server, bind, tls.credentials, flag="--bind")
        renewing = asyncio.create_task(self._own.run(), name="certificate")
        try:
            await server.start()
            on_ready(bind)
            replacement = begun_replacement(self._home)
            if replacement is None:
                replacement = begin_replacement(self._home, self._node_id)
            granted = await self._ask(
                masters_pb2.ReplaceLogRequest(
                    request_id=replacement.request_id,
                    incarnation=replacement.incarnation or None,
                )
            )
            await asyncio.to_thread(
                put_new_log,
                self._home,
                self._node_id,
                replacement,
                granted,
                now=self._clock.wall(),
            )
            log.warning("log replaced by an empty one", extra={"incarnation": granted})
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await server.stop(STOP_GRACE_SECONDS)
            await self._connection.close()

    async def _ask(self, request: masters_pb2.ReplaceLogRequest) -> int:
        pause = PAUSE_SECONDS_MIN
        while True:
            try:
                response: masters_pb2.ReplaceLogResponse = await self._connection.unary(
                    request, timeout=ASK_SECONDS_MAX
                )
                return response.incarnation
            except ClusterError as error:
                if error.message != self._waits_for:
                    log.warning("log not replaced yet", extra={"error": error.message})
                self._waits_for = error.message
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    def get_health(self) -> GetHealthResponse:
        """The node's own view."""
        detail = (
            f"{self._damage}; it is replaced from the other masters once a majority of all "
            f"runs without this one ({self._waits_for}); where that can't be, as with two masters, "
            f"keep {self._home.raft}, and let the master whose log ends last go on alone, or begin "
            "again from a backup: ipfs-cluster-node recover --help"
        )
        return GetHealthResponse(
            node_id=self._node_id,
            name=self._settings.node.name,
            role=ROLE.numbers[self._settings.node.role],
            version=__version__,
            checks=[HealthCheck(name="log", ok=False, detail=detail), self._own.check()],
            uptime_seconds=self._clock.monotonic() - self._started,
        )

    def _services(self) -> Gate:
        """Serve health; every other method refers its caller to another master."""
        # Any member may learn that nothing else is answered here.
        rules = {
            method: replace(rule, command=None, changes=False)
            for method, rule in RULES_BY_METHOD.items()
        }
        now_ms = self._clock.wall_ms
        no_log = Consensus(self._node_id, peers=self._peers, now_ms=now_ms)
        gate = Gate(
            MemberIdentification(
                known_state=no_log.known_state, is_master=self._peers.is_master, now_ms=now_ms
            ),
            Authorizer(node_id=self._node_id, holder=no_log, now_ms=now_ms, clock=self._clock),
            rules,
            clock=self._clock,
        )
        for method in rules:
            _, service, name = method.split("/")
            # Calls of every kind take it as the end of a stream.
            handler: Any = grpc.stream_stream_rpc_method_handler(_refuse)
            gate.add_registered_method_handlers(service, {name: handler})
        gate.serve(HealthServicer(self.get_health), self._standard_health)
        return gate


async def _refuse(_requests: Any, _context: Any) -> None:
    raise ClusterError(
        Reason.LOG_STORAGE_FAILED,
        "this node's log is damaged, and is being replaced; ask another master",
    )

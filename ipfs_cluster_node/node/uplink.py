"""A node's uplink to the leader: it registers, then renews its lease while it runs."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.access.identify import REMOVED_KEY
from ipfs_cluster_node.access.revocations import Revocations
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.net.tls import DEAD_CONNECTION_SECONDS_MAX
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.cluster.peers import PeerBook
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.worker.v1 import node_pb2 as pb

log = logging.getLogger(__name__)

CALL_SECONDS_MAX: Final = 10.0
HEARTBEAT_ATTEMPT_SECONDS_MAX: Final = 1.0
"""One node that does not answer must not use up the lease."""
RETRY_SECONDS: Final = 0.2
RUNS_TWICE_SECONDS_MAX: Final = 2.5 * DEAD_CONNECTION_SECONDS_MAX
"""How long a node is continuously refused its place before it stops: much longer than the
connection of its own former process may seem alive after a loss of power."""
HEARTBEATS_PER_LEASE: Final = 5
HEARTBEAT_SECONDS_MAX: Final = 1.0


class Uplink:
    """Keeps this node known as alive."""

    def __init__(
        self,
        *,
        connection: Connection,
        peers: PeerBook,
        registration: pb.RegisterNodeRequest,
        room_bytes: Callable[[], int],
        content_bytes: Callable[[], int],
        revocations: Revocations,
        votes_alone: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Register with `registration` at the start; put revocations into `revocations`.

        `votes_alone` says whether this node is the only voter: then it can't be a connection of its
        own former process that keeps it from its place.
        """
        self.certificate_epoch: Callable[[], int] = lambda: 0
        self.want_epoch: Callable[[int], None] = lambda _epoch: None
        self.on_time: Callable[[NodeId, Timestamp, float, float], None] = lambda *_: None
        """Takes the leader's wall clock, and the boottime clock before and after it was read."""
        self.on_removal: Callable[[ClusterError | None], None] = lambda _error: None
        """Takes a master's answer that this node was removed for good; None once one hears it."""
        self._clock = clock
        self._revocations = revocations
        self.connection = connection
        self._peers = peers
        self._votes_alone = votes_alone
        self.registration = registration
        self._room_bytes, self._content_bytes = room_bytes, content_bytes
        self._lease_ends = 0.0
        self.lapse_count = 0
        """How often the lease was renewed after it had expired: others may have taken over this
        node's attempts meanwhile."""
        self.registered = asyncio.Event()
        self.last_error = "not registered yet"

    @property
    def lease_holds(self) -> bool:
        """Whether the cluster may still consider this node alive."""
        return self.lease_seconds_left > 0

    @property
    def lease_seconds_left(self) -> float:
        """Remaining time of the lease; negative once it has expired."""
        return self._lease_ends - self._clock.monotonic()

    @property
    def boot(self) -> int:
        """Identifies this process among those of the same identity."""
        return int(self.registration.boot)

    def register_as(
        self,
        *,
        incarnation: int = 0,
        seal_key: bytes = b"",
        enrolment_endpoints: Iterable[str] = (),
    ) -> None:
        """Register again, by default as a node without a log."""
        changed = pb.RegisterNodeRequest()
        changed.CopyFrom(self.registration)
        changed.ClearField("incarnation")
        if incarnation:
            changed.incarnation = incarnation
        changed.seal_key = seal_key
        changed.ClearField("enrolment_endpoints")
        changed.enrolment_endpoints.extend(enrolment_endpoints)
        self.registration = changed
        self.registered.clear()

    async def run(self) -> None:
        """Register, then heartbeat, until cancelled.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE, once every answer for a long time was that another
                process runs: it can't be a former one of this node. At once on the only voter: it
                would acknowledge writes that the other one, which leads, never gets.
        """
        refused_since: float | None = None
        while True:
            try:
                if not self.registered.is_set():
                    await self._register()
                interval = await self._heartbeat()
                self.last_error = ""
                self.on_removal(None)
                refused_since = None
                await asyncio.sleep(interval)
            except ClusterError as error:
                if error.message != self.last_error:
                    log.warning("no contact with the leader", extra={"error": error.message})
                self.last_error = error.message
                if REMOVED_KEY in error.metadata:
                    self.on_removal(error)
                if error.reason is Reason.MEMBER_RUNS_TWICE:
                    refused_since = (
                        self._clock.monotonic() if refused_since is None else refused_since
                    )
                    refused_seconds = self._clock.monotonic() - refused_since
                    if self._votes_alone() or refused_seconds > RUNS_TWICE_SECONDS_MAX:
                        raise
                else:
                    # A leader that was paused meanwhile has not noticed dead connections.
                    refused_since = None
                if not self.lease_holds:
                    self._peers.leader = None  # It may have lost leadership.
                if error.reason is Reason.MEMBER_NOT_FOUND:
                    self.registered.clear()
                await asyncio.sleep(RETRY_SECONDS)

    async def _register(self) -> None:
        sent = self.registration
        await self.connection.unary(sent, timeout=CALL_SECONDS_MAX)
        if sent is self.registration:
            self.registered.set()
            log.info("registered")

    async def _heartbeat(self) -> float:
        sent_at, sent_boottime = self._clock.monotonic(), self._clock.boottime()
        response: pb.HeartbeatResponse = await self.connection.unary(
            pb.HeartbeatRequest(
                room_bytes=self._room_bytes(),
                content_bytes=self._content_bytes(),
                certificate_epoch=self.certificate_epoch(),
                revocations_version=self._revocations.version,
                boot=self.boot,
            ),
            timeout=CALL_SECONDS_MAX,
            attempt_timeout=HEARTBEAT_ATTEMPT_SECONDS_MAX,
        )
        lease_seconds = response.node_lease.ToTimedelta().total_seconds()
        if not self.lease_holds and self._lease_ends:
            self.lapse_count += 1
        # Measured from before the call: the leader measures from later, so it never expires first.
        self._lease_ends = sent_at + lease_seconds
        leader = next((NodeId(m.node_id) for m in response.masters if m.leader), None)
        self._peers.learn(
            ((NodeId(m.node_id), tuple(m.endpoints)) for m in response.masters), leader
        )
        self.connection.learn(self._peers.targets())
        if leader is not None and response.HasField("time"):
            self.on_time(leader, response.time, sent_boottime, self._clock.boottime())
        if response.HasField("revocations"):
            self._revocations.take(response.revocations)
        self.want_epoch(response.certificate_epoch)
        return min(HEARTBEAT_SECONDS_MAX, lease_seconds / HEARTBEATS_PER_LEASE)

"""One ordered stream to one peer, which reconnects when it breaks."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import grpc

from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.framing import Framer
from ipfs_cluster_node.adapters.raft.wake import Wake
from ipfs_cluster_node.adapters.raft.witness import Mark, mark_to_proto
from ipfs_cluster_node.codec.errors import error_from_rpc, is_being_cancelled
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId, VoterId, node_id_of_voter
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from ipfs_cluster_node.internal.v1.raft_pb2_grpc import RaftServiceStub

log = logging.getLogger(__name__)

RECONNECT_DELAY_MIN_SECONDS: Final = 0.05

STALE_ATTEMPT_SECONDS: Final = 0.5
"""An attempt that has lasted longer may have begun while the peer could not be reached."""

Dial = Callable[[NodeId], grpc.aio.Channel | None]
"""Opens a channel to a node, for consensus only; None while no address of it is known."""


class Link:
    """Messages to one voter, in order or not at all.

    A queued message that can't be sent is lost together with its connection, and the replica is
    told that the connection broke: there is never a gap within one (hazard H23).
    """

    def __init__(
        self,
        *,
        own: VoterId,
        peer: VoterId,
        dial: Dial,
        config: RaftConfig,
        on_change: Callable[[VoterId, bool], None],
        boot: int,
        claim: Callable[[], Mark],
        on_refused: Callable[[VoterId, ClusterError], None],
    ) -> None:
        """Make a link that `run` keeps up; `on_refused` is told why the peer ended the stream."""
        self._own = own
        self._peer = peer
        self._dial = dial
        self._config = config
        self._on_change = on_change
        self._boot = boot
        self._claim = claim
        self._on_refused = on_refused
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = Wake()
        self.up = asyncio.Event()
        self._overflown = False
        self._redial = False
        self._attempt: asyncio.Timeout | None = None
        self._attempt_began = 0.0

    def reconnect_now(self) -> None:
        """Restart an attempt that has lasted long: the peer has just reached this node."""
        if self._attempt is not None and now() - self._attempt_began > STALE_ATTEMPT_SECONDS:
            with suppress(RuntimeError):  # It has just timed out.
                self._attempt.reschedule(asyncio.get_running_loop().time())
            self._attempt = None

    def redial(self) -> None:
        """Send what is queued, then reconnect, with the current certificate."""
        self._redial = self.up.is_set()
        self._wake.set()

    def send(self, message: pb.RaftMessage) -> None:
        """Queue a message; dropped while the link is down."""
        if not self.up.is_set():
            return
        data = message.SerializeToString()
        self._queued_bytes += len(data)
        self._queue.append(data)
        if self._queued_bytes > self._config.outbox_bytes_max:
            self._overflown = True
        self._wake.set()

    async def run(self) -> None:
        """Connect, send, and connect again, until cancelled."""
        delay = RECONNECT_DELAY_MIN_SECONDS
        while True:
            try:
                if await self._connect_and_send():
                    delay = RECONNECT_DELAY_MIN_SECONDS
            except asyncio.CancelledError as error:
                if is_being_cancelled():
                    raise
                log.debug("raft link broke", extra={"peer": self._peer, "error": repr(error)})
            except Exception as error:
                # Whatever it was: a link that gave up would leave a voter cut off for good.
                log.debug("raft link broke", extra={"peer": self._peer, "error": repr(error)})
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._config.reconnect_delay_max.total_seconds())

    async def _connect_and_send(self) -> bool:
        channel = self._dial(node_id_of_voter(self._peer))
        if channel is None:
            return False
        try:
            call = RaftServiceStub(channel).Exchange()
            self._attempt_began = now()
            async with asyncio.timeout(
                self._config.connect_timeout.total_seconds()
            ) as self._attempt:
                hello = pb.ExchangeHello(voter=self._own, boot=self._boot)
                await call.write(pb.ExchangeRequest(hello=hello))
                # The connection is up: a restart would only take longer.
                self._attempt = None
                confirmed = await call.read()
                if not isinstance(confirmed, pb.ExchangeResponse) or confirmed.voter != self._peer:
                    return False
                # Made only now, so that it is newer than what the peer knew when it answered.
                await call.write(pb.ExchangeRequest(claim=mark_to_proto(self._own, self._claim())))
                # Nothing is sent before the claim is judged: a refusal must not be missed.
                admitted = await call.read()
            if not isinstance(admitted, pb.ExchangeResponse):
                return False
            await self._send_until_broken(call, Framer(admitted.epoch))
        except grpc.aio.AioRpcError as error:
            self._on_refused(self._peer, error_from_rpc(error))
            raise
        finally:
            self._attempt = None
            if self.up.is_set():
                self.up.clear()
                self._on_change(self._peer, False)
            self._queue.clear()
            self._queued_bytes = 0
            self._overflown = False
            self._redial = False
            await channel.close()
        return True

    async def _send_until_broken(
        self,
        call: grpc.aio.StreamStreamCall,  # type: ignore[type-arg]
        framer: Framer,
    ) -> None:
        # The peer sends nothing more: the read ends when the stream does.
        ended = asyncio.ensure_future(call.read())
        ended.add_done_callback(lambda _ended: self._wake.set())
        self.up.set()
        self._on_change(self._peer, True)
        try:
            while True:
                await self._wake.wait()
                while self._queue:
                    data = self._queue.popleft()
                    self._queued_bytes -= len(data)
                    for frame in framer.frames(data):
                        if ended.done() or self._overflown:
                            return
                        await call.write(pb.ExchangeRequest(frame=frame))
                if ended.done() or self._overflown or self._redial:
                    return
        finally:
            call.cancel()
            ended.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await ended

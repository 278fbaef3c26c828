"""A replica's connections: a link to each other voter, a stream from each, and what they bring."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.framing import FrameError, Unframer
from ipfs_cluster_node.adapters.raft.link import Dial, Link
from ipfs_cluster_node.adapters.raft.replica_state import ReplicaState
from ipfs_cluster_node.adapters.raft.witness import Mark, mark_from_proto
from ipfs_cluster_node.core.boots import Boots
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, VoterId, node_id_of_voter
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Stream:
    reader: "asyncio.Task[Any] | None" = None
    """Set once it only waits for messages."""
    ended: bool = False

    def end(self) -> None:
        if self.reader is not None:
            self.ended = True
            self.reader.cancel()


class ReplicaPeers(ReplicaState):
    """Exchanges messages with the other voters."""

    def __init__(
        self, engine: Engine, config: RaftConfig, *, dial: Dial, boot: int, boots: Boots
    ) -> None:
        super().__init__(engine, config)
        self._dial, self._boot, self._boots = dial, boot, boots
        self._inbox: deque[tuple[VoterId, pb.RaftMessage, int]] = deque()
        """Messages that the next step takes, their senders and sizes in bytes."""
        self._inbox_bytes = 0
        self._inbox_has_room = asyncio.Event()
        self._inbound: dict[VoterId, _Stream] = {}
        """The newest stream of each peer; what comes on an older one is dropped."""
        self._links: dict[VoterId, tuple[Link, asyncio.Task[None]]] = {}
        self._joining: set[VoterId] = set()
        """Nodes that are about to become learners."""
        self._changing = asyncio.Lock()
        """Held while who votes is changed: one change at a time (hazard H12)."""

    async def exchange(
        self, peer: NodeId, requests: AsyncIterator[pb.ExchangeRequest]
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Serve one stream of a peer, whose node id TLS has proved.

        Raises:
            ClusterError: CALLER_NOT_ALLOWED for another node's name, INVALID_ARGUMENT for bytes
                that are no message, LOG_ROLLED_BACK, MEMBER_RUNS_TWICE, SHUTTING_DOWN.
        """
        self._check()
        messages = aiter(requests)
        first = await anext(messages, None)
        sender = VoterId(first.hello.voter) if first is not None else VoterId("")
        if node_id_of_voter(sender) != peer:
            raise ClusterError(Reason.CALLER_NOT_ALLOWED, "a voter speaks for itself only")
        assert first is not None
        self._boots.joined(peer, first.hello.boot)
        stream = self._inbound[sender] = _Stream()
        try:
            if sender in self._links:
                self._links[sender][0].reconnect_now()
            epoch = secrets.randbits(64)
            unframer = Unframer(epoch)
            known = self.engine.mark_of(sender)
            yield pb.ExchangeResponse(voter=self.voter)
            second = await anext(messages, None)
            if second is None:
                return
            if second.WhichOneof("message") != "claim":
                raise ClusterError(Reason.INVALID_ARGUMENT, "the claim is missing")
            self.engine.admit(sender, mark_from_proto(second.claim), known)
            yield pb.ExchangeResponse(voter=self.voter, epoch=epoch)
            stream.reader = asyncio.current_task()
            self._check()
            async for request in messages:
                message = unframer.take(request.frame)
                if message is None:
                    continue
                self.engine.arrived(sender)
                self._check()
                if self._inbox_bytes >= self._config.inbox_bytes_max:
                    await self._until_room()
                if self._inbound.get(sender) is not stream:
                    return  # A newer stream took its place: what this one brings is old.
                self._inbox.append((sender, message, unframer.size_bytes))
                self._inbox_bytes += unframer.size_bytes
                if not self.engine.can_wait(sender, message):
                    self._wake.set()
        except FrameError as error:
            raise ClusterError(Reason.INVALID_ARGUMENT, str(error)) from error
        except asyncio.CancelledError:
            if stream.ended and stream.reader is not None:
                stream.reader.uncancel()
                self._check()  # Its peer is told why: raises.
            raise
        finally:
            self._boots.left(peer)
            if self._inbound.get(sender) is stream:
                del self._inbound[sender]

    def _end_streams(self) -> None:
        """End those of the other voters, which would wait for ever: nothing is read any longer."""
        for stream in self._inbound.values():
            stream.end()

    async def _until_room(self) -> None:
        while self._inbox_bytes >= self._config.inbox_bytes_max:
            self._inbox_has_room.clear()
            await self._inbox_has_room.wait()
            self._check()

    def redial(self) -> None:
        """Reconnect to every other voter, with the current certificate."""
        for link, _ in self._links.values():
            link.redial()

    def _keep_links(self) -> None:
        """Keep links to all voters, learners and nodes that have a stream here; end the others."""
        wanted = self.engine.peers | self._joining | self._inbound.keys()
        for peer in list(self._links):
            if peer not in wanted:
                _, task = self._links.pop(peer)
                task.cancel()
        for peer in wanted:
            self._link(peer)

    def _link(self, peer: VoterId) -> Link:
        known = self._links.get(peer)
        if known is None:
            link = Link(
                own=self.voter,
                peer=peer,
                dial=self._dial,
                config=self._config,
                on_change=self._link_changed,
                boot=self._boot,
                claim=self._claim,
                on_refused=self._refused,
            )
            task = asyncio.create_task(link.run(), name=f"raft-link-{peer}")
            known = self._links[peer] = (link, task)
        return known[0]

    def _is_connected(self, voter: VoterId) -> bool:
        return voter in self._links and self._links[voter][0].up.is_set()

    def _claim(self) -> Mark:
        return self.engine.claim()  # The engine may have been replaced.

    def _refused(self, peer: VoterId, error: ClusterError) -> None:
        if error.reason is Reason.MEMBER_RUNS_TWICE:
            log.error("refused by a voter", extra={"peer": peer, "error": error.message})
        if error.reason is Reason.LOG_ROLLED_BACK and self._damage is None:
            # This node may have voted for, or acknowledged, what it no longer has: it falls silent.
            log.critical("log rolled back", extra={"peer": peer, "error": error.message})
            self._damage = LogDamagedError(error.message)
            self._wake.set()

    def _link_changed(self, peer: VoterId, up: bool) -> None:  # noqa: FBT001
        log.info("link changed", extra={"peer": peer, "up": up})
        self.engine.connected(peer, up=up)
        self._wake.set()

"""Messages of a voter, held until the step's sync is done."""

from collections.abc import Callable
from typing import Final

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from ipfs_cluster_node.adapters.raft.messages import Message, Outbox, encode_message
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

NANOSECONDS: Final = 1_000_000_000


class OutTransport(Transport):  # type: ignore[misc]  # PySyncObj has no types.
    """Gathers the messages of a tick; the replica sends them after the sync."""

    ready = True

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.outbox: Outbox = []
        self.appends: Outbox = []
        """A leader's entries, which wait for no sync."""
        self.term: Callable[[], int] = lambda: 0
        self.verified_next: int | None = None
        """While an append is handled: the next index that may be acknowledged (hazard H3)."""
        self.answered_sent_at_ns = 0
        """While an append is handled: its time stamp, which the answer repeats."""
        self.transfer = False
        """Whether the leader asked for the candidacy that begins."""

    def tryGetReady(self) -> None:
        """Nothing to wait for."""

    def addNode(self, node: Node) -> None:
        """Nothing to do: links follow the configuration."""

    def dropNode(self, node: Node) -> None:
        """Nothing to do: links follow the configuration."""

    def destroy(self) -> None:
        """Nothing is held here."""

    def send(self, node: Node, message: Message) -> bool:
        """Queue one of PySyncObj's messages."""
        if message["type"] == "next_node_idx" and message["success"]:
            if self.verified_next is None:
                return True  # Only a verified append is acknowledged (hazards H3, H6).
            message = {**message, "next_node_idx": self.verified_next}
        encoded = encode_message(message, self.term())
        if encoded is None:
            return True
        match message["type"]:
            case "next_node_idx":
                encoded.append_result.sent_at_ns = self.answered_sent_at_ns
            case "request_vote":
                encoded.request_vote.transfer = self.transfer
        self.post(VoterId(node.id), encoded)
        return True

    def take_appends(self) -> Outbox:
        """Take a leader's entries: they wait for no sync."""
        taken, self.appends = self.appends, []
        return taken

    def take_outbox(self) -> Outbox:
        """Take all that is queued."""
        taken, self.outbox = self.outbox, []
        return taken

    def post_append(self, voter: VoterId, message: pb.RaftMessage) -> None:
        """Queue a leader's entries, or its heartbeat."""
        self.appends.append((voter, message))

    def post(self, voter: VoterId, message: pb.RaftMessage) -> None:
        """Queue one of our own messages."""
        self.outbox.append((voter, message))

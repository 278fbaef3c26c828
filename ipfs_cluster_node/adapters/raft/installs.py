"""Snapshots on their way to followers that need what the log has no more."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import Disk, OpenFile
from ipfs_cluster_node.adapters.raft.snapshot import (
    SNAPSHOT_NAME,
    Snapshot,
    decode_snapshot_file,
    snapshot_position,
)
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 512 * 1024
OFFER_IDLE_SECONDS: Final = 5.0
"""An offer that nobody answered for so long is made anew; the follower says where to go on."""
PART_NAME: Final = "snapshot.part"


@dataclass(slots=True)
class _Offer:
    file: OpenFile
    index: int
    crc: int
    touched: float


@dataclass(slots=True)
class _Receipt:
    """A snapshot that is coming: which one, and how much of it is here."""

    index: int
    size_bytes: int
    crc: int
    have_bytes: int = 0

    def is_of(self, chunk: pb.SnapshotChunk) -> bool:
        return (self.index, self.size_bytes, self.crc) == (
            chunk.index,
            chunk.size_bytes,
            chunk.crc,
        )


class SnapshotInstalls:
    """Sends and receives snapshots, a piece at a time, the next after the answer to the last."""

    def __init__(
        self,
        *,
        disk: Disk,
        send: Callable[[VoterId, pb.RaftMessage], None],
        clock: Callable[[], float],
        size_bytes_max: int,
    ) -> None:
        """Send the snapshot on `disk`; gather a received one beside it."""
        self._disk = disk
        self._send = send
        self._clock = clock
        self._size_bytes_max = size_bytes_max
        self._offers: dict[VoterId, _Offer] = {}
        self._receipt: _Receipt | None = None
        disk.remove(PART_NAME)

    def offer(self, peer: VoterId) -> None:
        """Begin to send the newest snapshot to a follower, unless that is under way."""
        now = self._clock()
        known = self._offers.get(peer)
        if known is not None and now - known.touched < OFFER_IDLE_SECONDS:
            return
        if known is not None:
            known.file.close()
        file = self._disk.open(SNAPSHOT_NAME)
        assert file is not None, "a log is never trimmed without a snapshot"
        index, crc = snapshot_position(file)
        self._offers[peer] = _Offer(file, index, crc, now)
        self._send_chunk(peer, self._offers[peer], 0)

    def take_result(self, peer: VoterId, message: pb.RaftMessage) -> int | None:
        """Go on with an offer; returns the snapshot's index once the follower has loaded it."""
        offer = self._offers.get(peer)
        result = message.snapshot_result
        if offer is None or result.index != offer.index:
            return None
        offer.touched = self._clock()
        if 0 <= result.next_offset < offer.file.size_bytes:
            self._send_chunk(peer, offer, result.next_offset)
            return None
        offer.file.close()
        del self._offers[peer]
        return result.index if result.next_offset == offer.file.size_bytes else None

    def forget_offers(self) -> None:
        """Stop sending: the leadership changed."""
        for offer in self._offers.values():
            offer.file.close()
        self._offers.clear()

    def take_chunk(self, sender: VoterId, message: pb.RaftMessage) -> Snapshot | None:
        """Take a piece; returns the snapshot once it is whole and checked (H6).

        A snapshot that came in part from another leader, or over a connection that broke, goes on
        where it stopped.
        """
        chunk = message.snapshot_chunk
        if not 0 < chunk.size_bytes <= self._size_bytes_max:
            log.warning("snapshot of a wrong size refused", extra={"sender": sender})
            return None
        receipt = self._receipt
        if receipt is None or not receipt.is_of(chunk):
            if chunk.offset != 0:
                return None
            self._disk.remove(PART_NAME)
            receipt = self._receipt = _Receipt(chunk.index, chunk.size_bytes, chunk.crc)
        if chunk.offset == receipt.have_bytes and chunk.data:
            self._disk.append(PART_NAME, chunk.data)
            receipt.have_bytes += len(chunk.data)
        elif chunk.offset != 0:
            return None  # Late or twice; the answer to the first one goes its way.
        if receipt.have_bytes < chunk.size_bytes:
            self._answer(sender, chunk.index, receipt.have_bytes, message.term)
            return None
        return self._received(sender)

    def installed(self, sender: VoterId, snapshot: Snapshot, term: int) -> None:
        """Tell the sender that its snapshot is durable and loaded."""
        self._answer(sender, snapshot.index, snapshot.size_bytes, term)

    def _received(self, sender: VoterId) -> Snapshot | None:
        self._receipt = None
        data = self._disk.read(PART_NAME) or b""
        self._disk.remove(PART_NAME)
        try:
            return decode_snapshot_file(data)
        except ClusterError:
            log.warning("received snapshot is damaged", extra={"sender": sender})
            return None

    def _answer(self, peer: VoterId, index: int, next_offset: int, term: int) -> None:
        result = pb.SnapshotResult(index=index, next_offset=next_offset)
        self._send(peer, pb.RaftMessage(term=term, snapshot_result=result))

    def _send_chunk(self, peer: VoterId, offer: _Offer, offset: int) -> None:
        chunk = pb.SnapshotChunk(
            index=offer.index,
            offset=offset,
            data=offer.file.read_at(offset, CHUNK_BYTES),
            size_bytes=offer.file.size_bytes,
            crc=offer.crc,
        )
        self._send(peer, pb.RaftMessage(snapshot_chunk=chunk))

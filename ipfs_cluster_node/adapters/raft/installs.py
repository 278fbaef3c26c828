"""Snapshots on their way to followers that need entries which the log no longer has.

A follower answers each piece with the offset that it needs next: the size, once it has loaded the
whole; `BUSY` while it can take nothing, above all while it loads; `DAMAGED` if it can't use it. So
a leader sends the same file until it is loaded, however long that takes, and keeps the log after it
meanwhile.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ipfs_cluster_node.adapters.raft.disk import UNSYNCED_BYTES_MAX, Disk, OpenFile
from ipfs_cluster_node.adapters.raft.snapshot import SNAPSHOT_NAME, snapshot_crc, snapshot_index
from ipfs_cluster_node.adapters.raft.snapshotting import RECEIVED_NAME
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 512 * 1024
OFFER_IDLE_SECONDS: Final = 5.0
"""An offer without an answer for this long is repeated; the follower says where to go on."""
BUSY: Final = -1
DAMAGED: Final = -2


@dataclass(slots=True)
class _Offer:
    file: OpenFile
    index: int
    crc: int
    touched: float


@dataclass(slots=True)
class _Receipt:
    """A snapshot that is being received, and how much of it is here."""

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
    """Sends and receives snapshots piece by piece, each after the answer to the one before."""

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
        self._unsynced_bytes = 0
        disk.remove(RECEIVED_NAME)

    def offer(self, peer: VoterId, *, log_begins: int) -> None:
        """Send a snapshot to a follower, unless one is under way.

        One from before `log_begins`, where this node's log does, is useless by now: the newest is
        sent instead.
        """
        now = self._clock()
        known = self._offers.get(peer)
        if known is not None and now - known.touched < OFFER_IDLE_SECONDS:
            return
        if known is not None and known.index < log_begins:
            known.file.close()
            known = None
        if known is None:
            file = self._disk.open(SNAPSHOT_NAME)
            assert file is not None, "a log is never trimmed without a snapshot"
            known = _Offer(file, snapshot_index(file), snapshot_crc(file), now)
            self._offers[peer] = known
        known.touched = now
        self._send_chunk(peer, known, 0)

    def offered_index(self, peer: VoterId) -> int:
        """Index of the snapshot that is being sent to a follower; 0 if none is."""
        offer = self._offers.get(peer)
        return 0 if offer is None else offer.index

    def take_result(self, peer: VoterId, message: pb.RaftMessage) -> int | None:
        """Go on with an offer; returns the snapshot's index once the follower has loaded it."""
        offer = self._offers.get(peer)
        result = message.snapshot_result
        if offer is None or result.index != offer.index:
            return None
        offer.touched = self._clock()
        if result.next_offset == BUSY:
            return None
        if 0 <= result.next_offset < offer.file.size_bytes:
            self._send_chunk(peer, offer, result.next_offset)
            return None
        if result.next_offset == DAMAGED:
            # Sent again it would be no better: the newest one is next.
            log.error("a snapshot that was sent is damaged", extra={"peer": peer})
        offer.file.close()
        del self._offers[peer]
        return result.index if result.next_offset == offer.file.size_bytes else None

    def forget_offers(self) -> None:
        """Stop sending: the leadership changed."""
        for offer in self._offers.values():
            offer.file.close()
        self._offers.clear()

    def take_chunk(self, sender: VoterId, message: pb.RaftMessage) -> bool:
        """Take a piece; returns whether the snapshot is whole now, to be checked and loaded.

        A snapshot that came in part from another leader, or over a connection that broke, goes on
        where it stopped.
        """
        chunk = message.snapshot_chunk
        if not 0 < chunk.size_bytes <= self._size_bytes_max:
            log.warning("snapshot of a wrong size refused", extra={"sender": sender})
            return False
        receipt = self._receipt
        if receipt is None or not receipt.is_of(chunk):
            if chunk.offset != 0:
                return False
            self._disk.remove(RECEIVED_NAME)
            receipt = self._receipt = _Receipt(chunk.index, chunk.size_bytes, chunk.crc)
        if chunk.offset == receipt.have_bytes and chunk.data:
            self._disk.append(RECEIVED_NAME, chunk.data)
            receipt.have_bytes += len(chunk.data)
            self._unsynced_bytes += len(chunk.data)
        elif chunk.offset != 0:
            return False  # It is late, or came twice; the first one has been answered.
        if receipt.have_bytes < chunk.size_bytes:
            self.answer(sender, chunk.index, receipt.have_bytes, message.term)
            return False
        self._receipt = None
        return True

    def take_sync(self) -> Callable[[], None] | None:
        """A blocking function that syncs what has been received; None while that is little.

        None after the last piece too: whoever loads the file syncs it.
        """
        if self._receipt is None or self._unsynced_bytes < UNSYNCED_BYTES_MAX:
            return None
        self._unsynced_bytes = 0
        return partial(self._disk.sync, RECEIVED_NAME)

    def answer(self, peer: VoterId, index: int, next_offset: int, term: int) -> None:
        """Tell a leader which offset of its snapshot is next; the size once it is loaded."""
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

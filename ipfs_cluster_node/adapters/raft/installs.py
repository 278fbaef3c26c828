"""Snapshots on their way to followers that need what the log has no more."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipfs_cluster_node.adapters.raft.snapshot import Snapshot, decode_snapshot_file
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 512 * 1024
OFFER_IDLE_SECONDS: Final = 5.0
"""An offer that nobody answered for so long is made anew."""


@dataclass(slots=True)
class _Offer:
    file: int
    index: int
    size_bytes: int
    touched: float


class SnapshotInstalls:
    """Sends and receives snapshots, a piece at a time, the next after the answer to the last."""

    def __init__(
        self, *, path: Path, part_path: Path, send: Callable[[VoterId, pb.RaftMessage], None]
    ) -> None:
        """Send the snapshot at `path`; gather a received one at `part_path`."""
        self._path = path
        self._part_path = part_path
        self._send = send
        self._offers: dict[VoterId, _Offer] = {}
        self._receiving: tuple[VoterId, int, int] | None = None

    def offer(self, peer: VoterId) -> None:
        """Begin to send the newest snapshot to a follower, unless that is under way."""
        now = time.monotonic()
        known = self._offers.get(peer)
        if known is not None and now - known.touched < OFFER_IDLE_SECONDS:
            return
        if known is not None:
            os.close(known.file)
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(file).st_size
        index = decode_snapshot_file(os.pread(file, size, 0)).index
        self._offers[peer] = _Offer(file, index, size, now)
        self._send_chunk(peer, self._offers[peer], 0)

    def take_result(self, peer: VoterId, message: pb.RaftMessage) -> int | None:
        """Go on with an offer; returns the snapshot's index once the follower has loaded it."""
        offer = self._offers.get(peer)
        result = message.snapshot_result
        if offer is None or result.index != offer.index:
            return None
        offer.touched = time.monotonic()
        if 0 <= result.next_offset < offer.size_bytes:
            self._send_chunk(peer, offer, result.next_offset)
            return None
        os.close(offer.file)
        del self._offers[peer]
        return result.index if result.next_offset == offer.size_bytes else None

    def forget_offers(self) -> None:
        """Stop sending: the leadership changed."""
        for offer in self._offers.values():
            os.close(offer.file)
        self._offers.clear()

    def take_chunk(self, sender: VoterId, message: pb.RaftMessage) -> Snapshot | None:
        """Take a piece; returns the snapshot once it is whole and checked (H6)."""
        chunk = message.snapshot_chunk
        if chunk.offset == 0:
            self._part_path.write_bytes(b"")
            self._part_path.chmod(0o600)
            self._receiving = (sender, chunk.index, 0)
        if self._receiving != (sender, chunk.index, chunk.offset):
            return None  # Not what was asked for; the sender begins anew when nothing comes.
        with self._part_path.open("ab") as part:
            part.write(chunk.data)
        next_offset = chunk.offset + len(chunk.data)
        self._receiving = (sender, chunk.index, next_offset)
        if next_offset < chunk.size_bytes:
            result = pb.SnapshotResult(index=chunk.index, next_offset=next_offset)
            self._send(sender, pb.RaftMessage(term=message.term, snapshot_result=result))
            return None
        self._receiving = None
        data = self._part_path.read_bytes()
        self._part_path.unlink()
        try:
            snapshot = decode_snapshot_file(data)
        except ClusterError:
            log.warning("received snapshot is damaged", extra={"sender": sender})
            return None
        self._installed_bytes = chunk.size_bytes
        return snapshot

    def installed_message(self, index: int, term: int) -> pb.RaftMessage:
        """Tell the sender that its snapshot is durable and loaded."""
        result = pb.SnapshotResult(index=index, next_offset=self._installed_bytes)
        return pb.RaftMessage(term=term, snapshot_result=result)

    def _send_chunk(self, peer: VoterId, offer: _Offer, offset: int) -> None:
        chunk = pb.SnapshotChunk(
            index=offer.index,
            offset=offset,
            data=os.pread(offer.file, CHUNK_BYTES, offset),
            size_bytes=offer.size_bytes,
        )
        self._send(peer, pb.RaftMessage(snapshot_chunk=chunk))

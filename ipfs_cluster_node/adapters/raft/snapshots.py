"""One voter's snapshots: when one is made, sent or loaded, and what of the log may then go."""

import logging
import math
from collections.abc import Callable

from ipfs_cluster_node.adapters.raft.applying import Applier
from ipfs_cluster_node.adapters.raft.clock import now
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import Disk
from ipfs_cluster_node.adapters.raft.guarded.voter import GuardedSyncObj
from ipfs_cluster_node.adapters.raft.installs import BUSY, DAMAGED, SnapshotInstalls
from ipfs_cluster_node.adapters.raft.journal import SegmentedJournal
from ipfs_cluster_node.adapters.raft.outages import SNAPSHOT_RETRY_SECONDS
from ipfs_cluster_node.adapters.raft.snapshot import Position
from ipfs_cluster_node.adapters.raft.snapshotting import Loading, Making
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb

log = logging.getLogger(__name__)


class Snapshots:
    """Snapshots of one voter, of its own state or of its leader's; one at a time."""

    def __init__(
        self,
        *,
        disk: Disk,
        applier: Applier,
        journal: SegmentedJournal,
        raft: GuardedSyncObj,
        config: RaftConfig,
        index: int,
    ) -> None:
        """Begin with the snapshot at `index`, after which the log begins."""
        self._disk, self._applier, self._journal = disk, applier, journal
        self._raft, self._config = raft, config
        self._installs = SnapshotInstalls(
            disk=disk, send=raft.post, clock=now, size_bytes_max=config.snapshot_bytes_max
        )
        self._index = index
        self._log_bytes = journal.entry_bytes
        """Size of the log's entries when the snapshot was made."""
        self._received: tuple[VoterId, int] | None = None
        """The sender and index of a snapshot that is whole and waits to be loaded."""
        self._running: Making | Loading | None = None
        self._not_before = -math.inf
        """When one may be made again, after there was no room for it."""
        self.take_sync = self._installs.take_sync
        self.forget_offers = self._installs.forget_offers

    def position(self) -> Position:
        """The place in the log that the present state is from."""
        index = self._raft.applied_index
        term, voters = self._journal.term_at(index) or 0, self._journal.voters(up_to=index)
        return Position(index=index, term=term, voters=voters)

    def offer(self, peer: VoterId) -> None:
        """Send the snapshot to a follower that needs what the log no longer has."""
        self._installs.offer(peer, log_begins=self._journal.first_index)

    def receive_chunk(self, sender: VoterId, message: pb.RaftMessage) -> None:
        """Handle a piece of a leader's snapshot; `take` loads a whole one. May raise OSError."""
        # A leader takes none: the sender leads a newer term, and its appends say so first.
        if message.term < self._raft.current_term() or self._raft.leads:
            return
        chunk = message.snapshot_chunk
        if chunk.index <= self._raft.applied_index:
            # All of it is here; the answer that said so may have been lost.
            self._installs.answer(sender, chunk.index, chunk.size_bytes, message.term)
        elif self._running is not None or self._received is not None:
            # One of our own would take its place; one that is being loaded must not change.
            self._installs.answer(sender, chunk.index, BUSY, message.term)
        elif self._installs.take_chunk(sender, message):
            self._received = (sender, chunk.index)

    def receive_result(self, sender: VoterId, message: pb.RaftMessage) -> None:
        """Handle a follower's answer to a piece of this leader's snapshot."""
        if message.term == self._raft.current_term() and self._raft.leads:
            installed = self._installs.take_result(sender, message)
            if installed is not None:
                self._raft.installed(sender, installed)

    def take(self) -> Callable[[], None] | None:
        """Begin to load a received snapshot, or to make one if the log has grown enough.

        The returned function does the work; it blocks, so call it in a thread, then `taken` or
        `failed`. None if there is nothing to do.
        """
        if self._running is not None:
            return None
        if self._received is not None:
            self._running = Loading(self._disk, self._applier.machine, *self._received)
            self._received = None
            return self._running.run
        index = self._raft.applied_index
        if index < self._applier.index:
            return None
        grown = index - self._index >= self._config.snapshot_entries or (
            self._journal.entry_bytes - self._log_bytes > self._config.snapshot_log_bytes
            and index > self._index
        )
        if not grown or now() < self._not_before:
            return None
        self._running = Making(self._disk, self._applier.machine, self.position())
        return self._running.run

    def taken(self) -> None:
        """Use the snapshot: what `take` returned has made it durable."""
        done, self._running = self._running, None
        if isinstance(done, Loading):
            self._loaded(done)
        elif done is not None:
            self._made(done)

    def failed(self) -> bool:
        """Note that there was no room for it; returns whether the log can go on without it."""
        made, self._running = self._running, None
        self._not_before = now() + SNAPSHOT_RETRY_SECONDS
        return isinstance(made, Making)

    def _made(self, made: Making) -> None:
        """Trim what the snapshot covers from the log, but for the newest entries (hazard H18)."""
        self._index = made.position.index
        log.info("snapshot made", extra={"index": self._index})
        config = self._config
        trailing = self._index - config.trailing_entries
        needed = max(self._needed_behind(), self._index - config.catch_up_entries)
        index = min(
            self._within(trailing, config.trailing_bytes_max),
            self._within(needed, config.catch_up_bytes_max),
        )
        self._journal.trim(index, self._journal.voters(up_to=index))
        self._log_bytes = self._journal.entry_bytes

    def _needed_behind(self) -> int:
        """The lowest index that some reachable follower is known to have.

        Without the entries above it, that follower would need the next snapshot as soon as it has
        this one, for as long as snapshots are made faster than they are sent and loaded.
        """
        if not self._raft.leads:
            return self._index
        return min(
            (
                max(self._raft.match_index(peer), self._installs.offered_index(peer))
                for peer in self._raft.reachable
            ),
            default=self._index,
        )

    def _within(self, index: int, bytes_max: int) -> int:
        """The lowest index from `index` on, above which covered entries have that many bytes."""
        first = self._journal.first_index
        index = max(index, first)
        covered = self._journal[index - first + 1 : max(0, self._index - first + 1)]
        kept_bytes = 0
        for command, entry_index, _ in reversed(covered):
            kept_bytes += len(command)
            if kept_bytes > bytes_max:
                return entry_index
        return index

    def _loaded(self, loaded: Loading) -> None:
        position, term = loaded.position, self._raft.current_term()
        if position is None:
            self._installs.answer(loaded.sender, loaded.index, DAMAGED, term)
            return
        self._index = position.index
        # Another leader may have extended the log meanwhile.
        if position.index > self._raft.applied_index:
            self._journal.rebase(position.index, position.term, position.voters)
            loaded.use()
            self._applier.index = position.index
            self._raft.skip_to(position.index)
            self._raft.use_voters(self._journal.voters())
        self._log_bytes = self._journal.entry_bytes
        log.info("snapshot installed", extra={"index": position.index, "sender": loaded.sender})
        self._installs.answer(loaded.sender, position.index, loaded.size_bytes, term)

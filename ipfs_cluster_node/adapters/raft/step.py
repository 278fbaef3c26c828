"""What must be written, and what may be sent, in one step of an engine."""

from collections.abc import Callable
from dataclasses import dataclass

from ipfs_cluster_node.adapters.raft.journal import Pending, SegmentedJournal
from ipfs_cluster_node.adapters.raft.messages import Outbox
from ipfs_cluster_node.adapters.raft.witness import Note


@dataclass(slots=True)
class Step:
    """What must be durable before the step ends."""

    journal: SegmentedJournal
    pending: Pending | None
    appends: Outbox
    """A leader's entries, which wait for no write."""
    sync_received: Callable[[], None] | None
    """Syncs what has been received of a snapshot."""
    note: Note | None
    """What voters are known to have, this one included; written after the log it is of."""

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        return self.pending is not None or self.sync_received is not None or self.note is not None

    def write(self) -> None:
        """Write and sync; blocks. After an OSError the engine must not be used again."""
        if self.pending is not None:
            self.journal.write_and_sync(self.pending)
        if self.sync_received is not None:
            self.sync_received()
        if self.note is not None:
            self.note.write()

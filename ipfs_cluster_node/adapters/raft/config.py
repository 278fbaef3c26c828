"""How a replica behaves."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason

TRAILING_ENTRIES: Final = 1_000
HEARTBEAT_INTERVAL_MIN: Final = timedelta(milliseconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """How a replica takes part in consensus."""

    heartbeat_interval: timedelta = timedelta(milliseconds=100)
    election_timeout_min: timedelta = timedelta(milliseconds=600)
    election_timeout_max: timedelta = timedelta(milliseconds=1200)
    tick_interval: timedelta = timedelta(milliseconds=20)
    """Longest wait between two ticks when nothing happens."""
    command_bytes_max: int = 2 * 1024 * 1024
    batch_bytes_max: int = 512 * 1024
    """Commands that are committed together; one that is longer goes alone. An entry is applied at
    once: of small commands as many take some 50 ms."""
    batch_commands_max: int = 512
    """At most so many of them, which all hear at once what became of them."""
    proposals_waiting_max: int = 20_000
    """Beyond it proposals are refused as OVERLOADED."""
    inbox_bytes_max: int = 32 * 1024 * 1024
    """Received and not yet handled; full means that senders wait."""
    step_bytes_max: int = 16 * 1024 * 1024
    """Handled before the next sync."""
    outbox_bytes_max: int = 32 * 1024 * 1024
    """Waiting for one peer; full means that its connection is given up and made anew."""
    window_bytes_max: int = 8 * 1024 * 1024
    """Entries under way to one follower; the rest waits in the log. Well below the outbox."""
    snapshot_log_bytes: int = 64 * 1024 * 1024
    snapshot_entries: int = 20_000
    """A snapshot is made once the log has grown by so much since the last."""
    trailing_entries: int = TRAILING_ENTRIES
    """Kept behind a snapshot, so that a follower a little behind needs no snapshot."""
    trailing_bytes_max: int = 16 * 1024 * 1024
    """At most so much of them."""
    catch_up_entries: int = 200_000
    """A leader keeps so many for a follower that gets them, or a snapshot before them."""
    catch_up_bytes_max: int = 256 * 1024 * 1024
    """At most so much of them."""
    segment_bytes_max: int = 64 * 1024 * 1024
    """A journal file that has grown beyond it is followed by a new one."""
    snapshot_bytes_max: int = 4 * 1024 * 1024 * 1024
    connect_timeout: timedelta = timedelta(seconds=3)
    """For a peer to confirm a stream, and for a new voter to be reached."""
    catch_up_timeout: timedelta = timedelta(seconds=3)
    """How long a call waits for a learner to have the whole log; it goes on without it."""
    reconnect_delay_max: timedelta = timedelta(milliseconds=500)

    @property
    def fallback_timeout(self) -> timedelta:
        """A leader that no majority answers for so long, or whose disk does not, leads no more."""
        return 1.5 * self.election_timeout_min

    def __post_init__(self) -> None:
        """Check that the times go together."""
        if self.heartbeat_interval < HEARTBEAT_INTERVAL_MIN:
            raise ClusterError(
                Reason.CONFIG_INVALID, "raft.heartbeat_interval must be at least 10ms"
            )
        if self.election_timeout_min <= 3 * self.heartbeat_interval:
            raise ClusterError(
                Reason.CONFIG_INVALID,
                "raft.election_timeout_min must be more than 3 x raft.heartbeat_interval",
            )
        if self.snapshot_entries < 10:
            raise ClusterError(Reason.CONFIG_INVALID, "raft.snapshot_entries must be at least 10")
        if self.election_timeout_max < 1.5 * self.election_timeout_min:
            raise ClusterError(
                Reason.CONFIG_INVALID,
                "raft.election_timeout_max must be at least 1.5 x raft.election_timeout_min",
            )

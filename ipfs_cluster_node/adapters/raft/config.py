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
    """Size of the commands that are committed together; a longer one is committed alone. An entry
    is applied in one go, which takes some 50 ms if the commands are small."""
    batch_commands_max: int = 512
    """Number of commands that are committed together; all of them are answered at once."""
    proposals_waiting_max: int = 20_000
    """Further proposals are refused as OVERLOADED."""
    inbox_bytes_max: int = 32 * 1024 * 1024
    """Messages received and not yet handled; senders wait while it is full."""
    step_bytes_max: int = 16 * 1024 * 1024
    """Messages handled before the next sync."""
    outbox_bytes_max: int = 32 * 1024 * 1024
    """Messages that wait to be sent to one peer; beyond it the connection is replaced."""
    window_bytes_max: int = 8 * 1024 * 1024
    """Entries in flight to one follower; the rest waits in the log. Well below the outbox."""
    snapshot_log_bytes: int = 64 * 1024 * 1024
    snapshot_entries: int = 20_000
    """A snapshot is made once the log has grown by either of these since the last one."""
    trailing_entries: int = TRAILING_ENTRIES
    """Entries that stay in the log after a snapshot, so that a follower a little behind needs
    none."""
    trailing_bytes_max: int = 16 * 1024 * 1024
    """Most bytes of trailing entries."""
    catch_up_entries: int = 200_000
    """Most entries that a leader keeps for a follower that is catching up."""
    catch_up_bytes_max: int = 256 * 1024 * 1024
    """Most bytes of these entries."""
    segment_bytes_max: int = 64 * 1024 * 1024
    """Size from which a journal file is followed by a new one."""
    snapshot_bytes_max: int = 4 * 1024 * 1024 * 1024
    connect_timeout: timedelta = timedelta(seconds=3)
    """Time for a peer to confirm a stream, and for a new voter to be reached."""
    catch_up_timeout: timedelta = timedelta(seconds=3)
    """How long a call waits for a learner to get the whole log, which goes on after it."""
    reconnect_delay_max: timedelta = timedelta(milliseconds=500)

    @property
    def fallback_timeout(self) -> timedelta:
        """A leader stops leading if a majority, or its own disk, does not answer for this long."""
        return 1.5 * self.election_timeout_min

    def __post_init__(self) -> None:
        if self.heartbeat_interval < HEARTBEAT_INTERVAL_MIN:
            raise _invalid("heartbeat_interval must be at least 10ms")
        if self.election_timeout_min <= 3 * self.heartbeat_interval:
            raise _invalid("election_timeout_min must be more than 3 x raft.heartbeat_interval")
        if self.snapshot_entries < 10:
            raise _invalid("snapshot_entries must be at least 10")
        if self.election_timeout_max < 1.5 * self.election_timeout_min:
            raise _invalid("election_timeout_max must be at least 1.5 x raft.election_timeout_min")


def _invalid(rule: str) -> ClusterError:
    return ClusterError(Reason.CONFIG_INVALID, f"raft.{rule}")

"""What a leader hears from the members and does not log: lost with the leadership."""

from collections.abc import Callable

from ipfs_cluster_node.core.backoff import Backoff
from ipfs_cluster_node.core.ids import NodeId, TaskId


class Observations:
    """The one owner of what a leader has heard from members; empty on a node that does not lead."""

    def __init__(self, listened_seconds: Callable[[], float]) -> None:
        """Start empty.

        Silence is measured by the clock `listened_seconds`, which stands still while this node
        can't hear others, as when its event loop is blocked.
        """
        self.listened_seconds = listened_seconds
        self.heard_at: dict[NodeId, float] = {}
        """When each node was last heard, by `listened_seconds`."""
        self.revived: set[NodeId] = set()
        """Nodes that sent a heartbeat while the log has them as dead."""
        self.room_bytes: dict[NodeId, int] = {}
        """Free space for files on each node, by its last heartbeat."""
        self.contents: dict[NodeId, tuple[int, float]] = {}
        """Bytes of the blocks that each node stores, by its last heartbeat, and when that came, by
        the monotonic clock."""
        self.epochs: dict[NodeId, int] = {}
        """The epoch of each node's certificate, by its last heartbeat."""
        self.backoffs: dict[NodeId, Backoff] = {}
        """Back-offs of workers that handed attempts back; they outlive sessions."""
        self.progress: dict[TaskId, tuple[float, str]] = {}
        """Progress of running attempts, 0 to 1, and a note."""

    def hear(self, node_id: NodeId) -> None:
        """Record that a node was heard just now."""
        self.heard_at[node_id] = self.listened_seconds()

    def clear(self) -> None:
        """Forget everything: the leadership has changed."""
        for each in (
            *(self.heard_at, self.revived, self.room_bytes, self.contents),
            *(self.epochs, self.backoffs, self.progress),
        ):
            each.clear()

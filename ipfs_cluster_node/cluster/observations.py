"""What a leader hears from the members and does not write down: it is lost with the leadership."""

from collections.abc import Callable

from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.rests import Rest


class Observations:
    """The one owner of a leader's soft state; empty on a node that does not lead."""

    def __init__(self, listened_seconds: Callable[[], float]) -> None:
        """Have heard nobody.

        Args:
            listened_seconds: The time that silence is measured by, in seconds. It stands still
                while this node can't hear anybody.
        """
        self.listened_seconds = listened_seconds
        self.heard_at: dict[NodeId, float] = {}
        """When each node was last heard, by `listened_seconds`."""
        self.returned: set[NodeId] = set()
        """Nodes that were heard though the log has them as dead."""
        self.running_counts: dict[NodeId, int] = {}
        """Attempts that run on each node, by its last heartbeat."""
        self.room_bytes: dict[NodeId, int] = {}
        """What each node can still take of files, by its last heartbeat."""
        self.epochs: dict[NodeId, int] = {}
        """Of the certificate that each node uses, by its last heartbeat."""
        self.rests: dict[NodeId, Rest] = {}
        """Of workers that gave attempts back; they outlive sessions."""
        self.progress: dict[TaskId, tuple[float, str]] = {}
        """How far running attempts are, 0 to 1, and a note."""

    def hear(self, node_id: NodeId) -> None:
        """Note that a node was heard just now."""
        self.heard_at[node_id] = self.listened_seconds()

    def clear(self) -> None:
        """Forget all of it: the leadership has changed."""
        for each in (
            *(self.heard_at, self.returned, self.running_counts, self.room_bytes),
            *(self.epochs, self.rests, self.progress),
        ):
            each.clear()

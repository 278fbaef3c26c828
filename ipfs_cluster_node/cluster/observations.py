"""What a leader hears from the members and does not log: lost with the leadership."""

from collections.abc import Callable

from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.rests import Rest


class Observations:
    """The one owner of what a leader has heard from members; empty on a node that does not lead."""

    def __init__(self, listened_seconds: Callable[[], float]) -> None:
        """Measure silence in `listened_seconds`, which stop while no other can be heard."""
        self.listened_seconds = listened_seconds
        self.heard_at: dict[NodeId, float] = {}
        """When each node was last heard, by `listened_seconds`."""
        self.returned: set[NodeId] = set()
        """Nodes that were heard although the log has them as dead."""
        self.running_counts: dict[NodeId, int] = {}
        """Attempts running on each node, by its last heartbeat."""
        self.room_bytes: dict[NodeId, int] = {}
        """Room for files on each node, by its last heartbeat."""
        self.epochs: dict[NodeId, int] = {}
        """Of each node's current certificate, by its last heartbeat."""
        self.rests: dict[NodeId, Rest] = {}
        """Rests of workers that returned attempts; they outlive sessions."""
        self.progress: dict[TaskId, tuple[float, str]] = {}
        """Progress of running attempts, 0 to 1, and a note."""

    def hear(self, node_id: NodeId) -> None:
        """Record that a node was heard just now."""
        self.heard_at[node_id] = self.listened_seconds()

    def clear(self) -> None:
        """Forget everything: the leadership has changed."""
        for each in (
            *(self.heard_at, self.returned, self.running_counts, self.room_bytes),
            *(self.epochs, self.rests, self.progress),
        ):
            each.clear()

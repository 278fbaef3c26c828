"""A log that can't be trusted."""

from ipfs_cluster_node.core.errors import ClusterError, Reason


class LogDamagedError(ClusterError):
    """What is on this disk is not what was written: nothing of it may be served, or voted with."""

    def __init__(self, what: str) -> None:
        """Say what is wrong with it."""
        super().__init__(Reason.HOME_DAMAGED, f"this node's log is damaged: {what}")

"""A log that can't be trusted, or not be read by this release."""

from ipfs_cluster_node.core.errors import ClusterError, Reason


class LogDamagedError(ClusterError):
    """What is on this disk is not what was written: nothing of it may be served, or voted with."""

    def __init__(self, what: str) -> None:
        """Say what is wrong with it."""
        super().__init__(Reason.HOME_DAMAGED, f"this node's log is damaged: {what}")


def of_another_release(what: str) -> ClusterError:
    """What is there is whole, and not damage: to replace it would help nobody."""
    return ClusterError(
        Reason.RELEASE_TOO_OLD,
        f"{what} was written by another release, which this one can't read; install the release "
        "that wrote it on this node and start it again: nothing is lost",
    )

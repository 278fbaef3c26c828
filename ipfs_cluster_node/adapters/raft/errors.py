"""Errors of the log: it can't be trusted, or this release can't read it."""

from ipfs_cluster_node.core.errors import ClusterError, Reason


class ConsensusViolationError(Exception):
    """A committed entry would have to be cut: the node stops rather than go on."""


class LogDamagedError(ClusterError):
    """The log on disk is not what was written: it is never served, and its node does not vote."""

    def __init__(self, what: str) -> None:
        """Name the damage, as the end of the sentence that operators read."""
        super().__init__(Reason.HOME_DAMAGED, f"this node's log is damaged: {what}")


def of_another_release(what: str) -> ClusterError:
    """The files are whole, so replacing the log would not help."""
    return ClusterError(
        Reason.RELEASE_TOO_OLD,
        f"{what} was written by another release, which this one can't read; install the release "
        "that wrote it on this node and start it again: nothing is lost",
    )

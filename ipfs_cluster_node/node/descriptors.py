"""Raises the limit of open files and connections of the process."""

from contextlib import suppress

from ipfs_cluster_node.adapters.net.tls import DESCRIPTORS_MAX


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one; does nothing where there is none.

    It is often 1,024: a few unknown connections would use it up, and the log could not be
    written.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

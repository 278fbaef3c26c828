"""The versions of the protocol of worker sessions, `worker.v1.WorkerService`."""

from collections.abc import Collection
from typing import Final

from ipfs_cluster_node.core.errors import ClusterError, Reason

PROTOCOL_VERSIONS: Final = frozenset({1})
"""Those that this release speaks, as a worker and as a leader."""


def agreed_version(worker: Collection[int], leader: Collection[int] = PROTOCOL_VERSIONS) -> int:
    """The version that holds for a session: the highest that both sides speak.

    Raises:
        ClusterError: PROTOCOL_UNSUPPORTED if there is none.
    """
    both = set(worker) & set(leader)
    if not both:
        raise _unsupported(worker, leader)
    return max(both)


def check_version(said: int, own: Collection[int] = PROTOCOL_VERSIONS) -> None:
    """Refuse a session whose leader said a version that this worker did not offer.

    Raises:
        ClusterError: PROTOCOL_UNSUPPORTED.
    """
    if said not in own:
        raise _unsupported(own, (said,))


def _unsupported(worker: Collection[int], leader: Collection[int]) -> ClusterError:
    return ClusterError(
        Reason.PROTOCOL_UNSUPPORTED,
        f"the worker speaks {_named(worker)} of the session protocol, the leader {_named(leader)}; "
        "upgrade the older one",
    )


def _named(versions: Collection[int]) -> str:
    named = ", ".join(str(version) for version in sorted(versions) if version)
    return f"version {named}" if named else "no version"

"""Re-issues a client's preset delegations when its certificate is renewed."""

from collections.abc import Sequence
from datetime import datetime

from ipfs_cluster_node.adapters.keys.delegation import delegate_grant
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.core.authorization import GRANTS
from ipfs_cluster_node.core.delegations import StoredDelegation
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.state import ClusterState


def renewed_grants(
    state: ClusterState, did: Did, authority: Identity, now: datetime, *, until: datetime
) -> Sequence[StoredDelegation]:
    """The delegations of a client's grant, valid until its new certificate ends.

    Empty for a node, and for a client whose grant was revoked: revoking a delegation that the
    cluster itself issued ends the grant (`ClusterState`).
    """
    client = state.members.get(did)
    if client is None or client.removed or client.grant not in GRANTS:
        return ()
    return delegate_grant(
        authority,
        did,
        client.grant,
        expires_s=int(until.timestamp()),
        at_ms=int(now.timestamp() * 1000),
        seed=f"renewal {did} {int(until.timestamp())}",
    )

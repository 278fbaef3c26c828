"""What the leader sends to nodes without a log: revocations, and the list of nodes."""

from datetime import datetime
from hashlib import sha256

from ipfs_cluster_node.codec.members import serial_text
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.worker.v1 import node_pb2 as pb


class RevocationList:
    """The message that the leader sends; rebuilt when something has changed."""

    def __init__(self) -> None:
        self._made_of: tuple[object, ...] = ()
        self._message = pb.Revocations()

    def of(self, state: ClusterState, now: datetime) -> pb.Revocations:
        """All revocations that TLS alone would not enforce, and every node."""
        now_s = int(now.timestamp())
        table = state.certificates
        made_of = (id(table), table.version, len(state.members), now_s // 60)
        if made_of != self._made_of:
            self._message = _message(state, now_s)
            self._made_of = made_of
        return self._message


def _message(state: ClusterState, now_s: int) -> pb.Revocations:
    table = state.certificates
    removed = (p.did for p in state.members.principals() if p.removed)
    # TLS accepts no certificate of a member whose newest one is forgotten.
    dids: set[str] = {
        did for did in (*removed, *table.revoked_dids()) if table.newest(did) is not None
    }
    serials = {r.serial for r in table.revocations() if r.serial and r.until_s >= now_s}
    message = pb.Revocations(
        dids=sorted(dids),
        serials=map(serial_text, sorted(serials)),
        node_dids=sorted(node.did for node in state.members.nodes()),
    )
    content = message.SerializeToString(deterministic=True)
    message.version = int.from_bytes(sha256(content).digest()[:7]) + 1
    return message

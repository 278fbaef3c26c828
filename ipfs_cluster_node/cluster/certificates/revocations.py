"""What counts no more, and who is a node, where there is no log: as the leader told it."""

from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256

from ipfs_cluster_node.codec.derived import serial_bytes
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import membership_pb2 as pb


class Revocations:
    """What one node without a log knows."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.version = 0
        self.on_change: Callable[[], None] = lambda: None
        self._dids: frozenset[str] = frozenset()
        self._serials: frozenset[int] = frozenset()
        self._node_dids: frozenset[str] = frozenset()

    def take(self, told: pb.Revocations) -> None:
        """Take what the leader told: all there is, not what is new."""
        self.version = told.version
        self._dids = frozenset(told.dids)
        self._serials = frozenset(map(int.from_bytes, told.serials))
        self._node_dids = frozenset(told.node_dids)
        self.on_change()

    def revokes_certificate(self, serial: int, did: Did) -> bool:
        """Whether a certificate counts no more: it, or its owner, was revoked or removed."""
        return serial in self._serials or did in self._dids

    def knows_node(self, did: Did) -> bool:
        """Whether this is a node of the cluster: the CA's key alone makes nobody one."""
        return did in self._node_dids


class RevocationList:
    """What the leader tells; made anew when something has changed."""

    def __init__(self) -> None:
        """Start with nothing made."""
        self._made_of: tuple[object, ...] = ()
        self._message = pb.Revocations()

    def of(self, state: ClusterState, now: datetime) -> pb.Revocations:
        """Everything that counts no more, and that TLS would still let in; and every node."""
        now_s = int(now.timestamp())
        table = state.certificates
        made_of = (id(table), table.version, len(state.members), now_s // 60)
        if made_of != self._made_of:
            self._message = _message(state, now_s)
            self._made_of = made_of
        return self._message


def _message(state: ClusterState, now_s: int) -> pb.Revocations:
    table = state.certificates
    # Whose newest certificate is not remembered any more has none that TLS would let in.
    dids: set[str] = {
        did for did in (*_removed(state), *table.revoked_dids()) if table.newest(did) is not None
    }
    serials = {r.serial for r in table.revocations() if r.serial and r.until_s >= now_s}
    message = pb.Revocations(
        dids=sorted(dids),
        serials=map(serial_bytes, sorted(serials)),
        node_dids=sorted(node.did for node in state.members.nodes()),
    )
    content = message.SerializeToString(deterministic=True)
    message.version = int.from_bytes(sha256(content).digest()[:7]) + 1
    return message


def _removed(state: ClusterState) -> Iterable[Did]:
    return (p.did for p in state.members.principals() if p.removed)

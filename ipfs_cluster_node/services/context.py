"""Who calls."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from ipfs_cluster_node.core.ids import Did, NodeId, node_id_from_did


class CallerClass(StrEnum):
    """What a caller is; the authorization table speaks of these."""

    JOINER = "joiner"
    """Nobody yet: on the enrolment port only."""
    CLIENT = "client"
    NODE = "node"
    """A worker or leecher."""
    MASTER = "master"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose certificate was checked."""

    did: Did
    kind: CallerClass

    @property
    def node_id(self) -> NodeId:
        """The caller's key as a PeerID."""
        return node_id_from_did(self.did)


JOINER = Caller(Did(""), CallerClass.JOINER)

# Each call of grpc.aio runs in a context of its own, so no call sees another's caller.
_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """The caller of the call that runs."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Note the caller of the call that runs."""
    _caller.set(caller)

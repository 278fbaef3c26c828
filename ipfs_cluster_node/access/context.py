"""The caller of the current call, and the consistency it wants."""

import math
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ipfs_cluster_node.core.authorization import ItemArgs
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import Did, NodeId, node_id_from_did
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.ucan.commands import Command


class CallerClass(StrEnum):
    """What a caller is; authorization rules use these."""

    JOINER = "joiner"
    """Not a member yet: on the enrolment port only."""
    CLIENT = "client"
    NODE = "node"
    """A worker or leecher."""
    MASTER = "master"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose certificate was verified."""

    did: Did
    kind: CallerClass

    @property
    def node_id(self) -> NodeId:
        """The caller's key as a PeerID."""
        return node_id_from_did(self.did)


@dataclass(slots=True)
class Reading:
    """How a call reads the state."""

    stale: bool = False
    """Whether the caller accepts this node's local state."""
    age_ms: int | None = None
    """How old the state was when read."""


class StateHolder(Protocol):
    """Has the replicated state as far as this node knows it: while it has a log."""

    removal: ClusterError | None
    """A master's answer that this node was removed for good; None unless that was the last one."""

    def check_in_cluster(self) -> None:
        """Raise NODE_REMOVED if it was removed as far as it can know."""

    def known_state(self) -> ClusterState | None:
        """The state; None without a log, or if nothing of it is applied."""

    def state(self) -> ClusterState:
        """The state; raises NOT_LEADER or NO_LEADER if there is none."""


class Permissions(Protocol):
    """Permissions of the current call's caller."""

    @property
    def caller(self) -> Caller:
        """The caller; of a signed invocation, its issuer."""

    @property
    def delegation_cids(self) -> tuple[str, ...]:
        """The delegations used: the last link of each chain."""

    def allows(self, item: ItemArgs) -> bool:
        """Whether an item with these arguments may be shown; called for each item."""

    @property
    def rights(self) -> frozenset[object] | None:
        """What `allows` depends on, equal while it is the same; None if it allows everything."""

    def allows_under(self, command: Command, item: ItemArgs) -> bool:
        """Whether it may be named in an answer, if another command than the method's judges it."""

    async def renew(self) -> None:
        """Check the call's permissions again; raises ClusterError if they ended."""


JOINER = Caller(Did(""), CallerClass.JOINER)

# grpc.aio runs each call in its own context, so no call sees another's caller.
_reading: ContextVar[Reading] = ContextVar("reading")
_permissions: ContextVar[Permissions] = ContextVar("permissions")
_ending: ContextVar["Ending"] = ContextVar("ending")


@dataclass(slots=True)
class Ending:
    """When the gate ends a stream, however slowly its caller reads."""

    at: float = math.inf
    """By the loop's clock."""


def current_caller() -> Caller:
    """The current call's caller."""
    return _permissions.get().caller


def shown_certificate(context: Any) -> bytes:
    """The certificate of the caller's connection, in PEM; empty on the enrolment port."""
    certificates = context.auth_context().get("x509_pem_cert", ())
    certificate = next(iter(certificates), b"")
    return certificate if isinstance(certificate, bytes) else str(certificate).encode()


def current_permissions() -> Permissions:
    """Permissions of the current call's caller."""
    return _permissions.get()


def set_permissions(permissions: Permissions) -> None:
    """Set the permissions of the current call's caller."""
    _permissions.set(permissions)


def current_ending() -> Ending:
    """When the current stream ends; one that is called without a gate never does."""
    return _ending.get(None) or Ending()


def set_ending(ending: Ending) -> None:
    """Set when the current stream ends."""
    _ending.set(ending)


def current_reading() -> Reading:
    """How the current call reads the state."""
    return _reading.get()


def set_reading(reading: Reading) -> None:
    """Set how the current call reads the state."""
    _reading.set(reading)

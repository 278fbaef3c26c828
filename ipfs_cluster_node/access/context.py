"""Who calls, and how fresh an answer they want."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did, NodeId, node_id_from_did
from ipfs_cluster_node.core.state import ClusterState


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


@dataclass(slots=True)
class Reading:
    """How a call reads the state."""

    stale: bool = False
    """Whether the caller takes what this node has."""
    age_ms: int | None = None
    """How old that was, once it was read."""


class StateHolder(Protocol):
    """Has the replicated state as far as this node knows it."""

    state: ClusterState


class Permissions(Protocol):
    """What the caller of the call that runs may do."""

    @property
    def caller(self) -> Caller:
        """Who asks; with a signed invocation, its issuer."""

    @property
    def delegation_cids(self) -> tuple[str, ...]:
        """By which delegations: the last link of each chain that was used."""

    def allows(self, args: Mapping[str, Value]) -> bool:
        """Whether an item with these arguments may be shown; asked anew for each."""

    async def renew(self) -> None:
        """Check again what the call was let through by; raises ClusterError if it is gone."""


JOINER = Caller(Did(""), CallerClass.JOINER)

# Each call of grpc.aio runs in a context of its own, so no call sees another's caller.
_caller: ContextVar[Caller] = ContextVar("caller")
_reading: ContextVar[Reading] = ContextVar("reading")
_permissions: ContextVar[Permissions] = ContextVar("permissions")


def current_caller() -> Caller:
    """The caller of the call that runs."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Note the caller of the call that runs."""
    _caller.set(caller)


def shown_certificate(context: Any) -> bytes:
    """The certificate that the caller's connection shows, in PEM; empty on the enrolment port."""
    certificates = context.auth_context().get("x509_pem_cert", ())
    certificate = next(iter(certificates), b"")
    return certificate if isinstance(certificate, bytes) else str(certificate).encode()


def current_permissions() -> Permissions:
    """What the caller of the call that runs may do."""
    return _permissions.get()


def set_permissions(permissions: Permissions) -> None:
    """Note what the caller of the call that runs may do."""
    _permissions.set(permissions)


def current_reading() -> Reading:
    """How the call that runs reads the state."""
    return _reading.get()


def set_reading(reading: Reading) -> None:
    """Note how the call that runs reads the state."""
    _reading.set(reading)

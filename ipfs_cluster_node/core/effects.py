"""What apply answers, and what it asks of the shell. Data only; the shell carries it out."""

from dataclasses import dataclass
from typing import NamedTuple

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import AttemptId
from ipfs_cluster_node.core.tables import Touched


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command took effect, or had done so before under the same request id."""

    ids: tuple[str, ...] = ()
    """What the command made: task ids, or role and incarnation of a joiner."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The command changed nothing that its caller asked for."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class AttemptsRevoked:
    """A worker is to kill these attempts."""

    node_id: NodeId
    ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class AttemptsAssigned:
    """A worker is to run these attempts."""

    node_id: NodeId
    ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class CertificatesRevoked:
    """Certificates count no more: TLS sessions that were made with them must not be resumed."""


Effect = AttemptsRevoked | AttemptsAssigned | CertificatesRevoked


class Applied(NamedTuple):
    """What a command came to."""

    outcome: Accepted | Rejected
    """The answer to its caller."""
    effects: tuple[Effect, ...]
    """What the shell is to do."""
    touched: Touched
    """The rows that changed, and no others."""

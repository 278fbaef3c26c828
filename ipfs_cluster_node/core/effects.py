"""Results of `apply`: the answer, and effects that the shell carries out. Data only."""

from dataclasses import dataclass
from typing import NamedTuple

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import AttemptId
from ipfs_cluster_node.core.tables import Touched


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command took effect, now or before under the same request id."""

    ids: tuple[str, ...] = ()
    """What the command created: task ids, or a joiner's role and incarnation. Of a file that it
    removed: its size, and its holders."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The command did not do what its caller requested."""

    reason: Reason
    message: str


Answer = Accepted | Rejected
"""To a command's caller."""


@dataclass(frozen=True, slots=True)
class AttemptsRevoked:
    """A worker must kill these attempts."""

    node_id: NodeId
    ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class AttemptsAssigned:
    """A worker must run these attempts."""

    node_id: NodeId
    ids: tuple[AttemptId, ...]


@dataclass(frozen=True, slots=True)
class CertificatesRevoked:
    """Certificates were revoked: TLS sessions made with them must not be resumed."""


Effect = AttemptsRevoked | AttemptsAssigned | CertificatesRevoked


class Applied(NamedTuple):
    """The result of a command."""

    outcome: Answer
    effects: tuple[Effect, ...]
    """What the shell must do."""
    touched: Touched
    """The rows that changed, and no others."""

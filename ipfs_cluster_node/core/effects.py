"""What apply answers, and what it asks of the shell. Data only; the shell carries it out."""

from dataclasses import dataclass

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import AttemptId


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
class TasksChanged:
    """Watchers of these tasks have something new to read."""

    task_ids: tuple[TaskId, ...]


@dataclass(frozen=True, slots=True)
class TasksPending:
    """There is something to schedule."""


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
class MembersChanged:
    """Principals, their roles, endpoints or liveness changed."""


@dataclass(frozen=True, slots=True)
class CertificatesRevoked:
    """Certificates count no more: TLS sessions that were made with them must not be resumed."""


Effect = (
    TasksChanged
    | TasksPending
    | AttemptsRevoked
    | AttemptsAssigned
    | MembersChanged
    | CertificatesRevoked
)


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer to a command's caller, and what the shell is to do."""

    outcome: Accepted | Rejected
    effects: tuple[Effect, ...] = ()

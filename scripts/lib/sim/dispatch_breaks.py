"""Guards of workers and sessions to take out, so that it is seen that the simulation finds it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from ipfs_cluster_node.cluster import worker_sessions
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.codec.sessions import Introduction, welcome_to_proto
from ipfs_cluster_node.codec.tasks import attempt_from_proto
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import AttemptId
from ipfs_cluster_node.core.scheduler import WorkerOffer
from ipfs_cluster_node.core.tasks import TaskTable
from ipfs_cluster_node.node.worker import Worker
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb

_unsent = Worker._unsent  # noqa: SLF001 - so that it can be called from its replacement.


def _forget(self: Worker) -> list[pb.AttemptOutcome]:
    sent = _unsent(self)
    for outcome in sent:
        self._held.pop(attempt_from_proto(outcome.id))
    return sent


def _lose_nothing(_self: Worker) -> None:
    """A fence that kills nothing."""


async def _welcome_all(
    _self: WorkerSessions, _node_id: NodeId, _held: set[AttemptId], said: Introduction
) -> pb.WorkerSessionResponse:
    return pb.WorkerSessionResponse(welcome=welcome_to_proto(said))


def _hoard(self: Worker) -> int:
    return max(0, 100 - self.running_count - self._granted)


def _blind_offer(
    node_id: NodeId, task_types: frozenset[str], credit: int, _free_slots: int
) -> WorkerOffer:
    return WorkerOffer(node_id, task_types, credit)


@contextmanager
def _hoarding() -> Iterator[None]:
    """Three guards, of which each is enough: what is asked for, free slots first, back-off."""
    with (
        patch.object(Worker, "_credit", _hoard),
        patch.object(worker_sessions, "WorkerOffer", _blind_offer),
        patch.object(worker_sessions, "backoff_after", lambda before, _outcomes, _now: before),
    ):
        yield


def _any_attempt(self: TaskTable, attempt: AttemptId, node_id: NodeId) -> bool:
    task = self.get(attempt.task_id)
    return task is not None and not task.state.is_terminal and task.node_id == node_id


DISPATCH_BREAKS: Final[dict[str, Callable[[], Any]]] = {
    "no-fence": lambda: patch.object(Worker, "_lose_all", _lose_nothing),
    "forgotten-outcomes": lambda: patch.object(Worker, "_unsent", _forget),
    "no-requeue": lambda: patch.object(WorkerSessions, "_welcome", _welcome_all),
    "hoarding": _hoarding,
    "any-attempt": lambda: patch.object(TaskTable, "is_current", _any_attempt),
}
"""Name to a context in which the guard is gone."""

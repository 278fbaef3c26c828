"""The tasks of the replicated state: legal transitions and their indexes.

pending -> running            a worker is assigned; the attempt number grows
running -> pending            the attempt was lost, or failed and may be repeated
running -> succeeded, failed  the current attempt ended
pending, running -> cancelled

Nothing leaves a terminal state but expiry.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import (
    ATTEMPT_LOST_MAX,
    AttemptId,
    AttemptOutcome,
    Task,
    TaskFailure,
    TaskSpec,
    TaskState,
)


class TaskTable:
    """All tasks, in the order of their submission."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        """Start from `tasks`, ordered by `sequence`."""
        self._tasks: dict[TaskId, Task] = {}
        self._pending: dict[int, dict[str, dict[TaskId, None]]] = {}
        self._running: dict[NodeId, dict[TaskId, None]] = {}
        self._finished: dict[TaskId, None] = {}
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.stored_bytes = 0
        self._sequence_last = 0
        loaded = list(tasks)
        for task in loaded:
            self._put(task)
        # Expiry reads this index from its front, so it is ordered by the time of ending.
        ended = sorted(
            (task for task in loaded if task.state.is_terminal), key=lambda t: t.finished_at_ms
        )
        self._finished = {task.task_id: None for task in ended}

    def __len__(self) -> int:
        """How many tasks there are, ended or not."""
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        """Every task in the order of submission."""
        return iter(self._tasks.values())

    def get(self, task_id: TaskId) -> Task | None:
        """The task, if it is there."""
        return self._tasks.get(task_id)

    def newest_first(self) -> Iterator[Task]:
        """Every task, the newest submission first."""
        return reversed(self._tasks.values())

    def copy(self) -> tuple[Task, ...]:
        """Every task in the order of submission, as of now."""
        return tuple(self._tasks.values())

    def pending(self) -> Iterator[tuple[str, Mapping[TaskId, None]]]:
        """Task types with their waiting tasks, the highest priority first."""
        for priority in sorted(self._pending, reverse=True):
            yield from self._pending[priority].items()

    def running_on(self, node_id: NodeId) -> tuple[AttemptId, ...]:
        """The attempts assigned to a node."""
        return tuple(
            AttemptId(task_id, self._tasks[task_id].attempt)
            for task_id in self._running.get(node_id, ())
        )

    def running_count(self, node_id: NodeId) -> int:
        """How many attempts are assigned to a node."""
        return len(self._running.get(node_id, ()))

    def is_current(self, attempt: AttemptId, node_id: NodeId) -> bool:
        """Whether this attempt runs on this node as far as the log knows."""
        task = self._tasks.get(attempt.task_id)
        return (
            task is not None
            and task.state is TaskState.RUNNING
            and task.attempt == attempt.attempt
            and task.node_id == node_id
        )

    def submit(self, task_id: TaskId, spec: TaskSpec, submitter: Did, at_ms: int) -> None:
        """Add a task."""
        self._put(
            Task(
                task_id=task_id,
                sequence=self._sequence_last + 1,
                spec=spec,
                submitter=submitter,
                submitted_at_ms=at_ms,
            )
        )

    def assign(self, task_id: TaskId, node_id: NodeId, at_ms: int) -> AttemptId | None:
        """Give a pending task to a node; None if it is not pending any more."""
        task = self._tasks.get(task_id)
        if task is None or task.state is not TaskState.PENDING:
            return None
        assigned = replace(
            task,
            state=TaskState.RUNNING,
            attempt=task.attempt + 1,
            node_id=node_id,
            assigned_at_ms=at_ms,
        )
        self._put(assigned)
        return AttemptId(task_id, assigned.attempt)

    def finish(self, outcome: AttemptOutcome, node_id: NodeId, at_ms: int) -> bool:
        """Take the outcome of an attempt; False if the attempt is not the current one."""
        if not self.is_current(outcome.id, node_id):
            return False
        task = self._tasks[outcome.id.task_id]
        if outcome.failure is None:
            self._end(replace(task, state=TaskState.SUCCEEDED, result=outcome.result), at_ms)
            return True
        if outcome.failure.reason is Reason.WORKER_LOST:
            return self.lose(outcome.id, at_ms)  # Its worker had to give it up: no failure of its.
        failed = replace(task, failure=outcome.failure, failed_count=task.failed_count + 1)
        if outcome.retryable and failed.failed_count < task.spec.attempt_count_max:
            self._put(replace(failed, state=TaskState.PENDING))
        else:
            self._end(replace(failed, state=TaskState.FAILED), at_ms)
        return True

    def lose(self, attempt: AttemptId, at_ms: int) -> bool:
        """Take an attempt from a worker that is gone; False if it is not the current one."""
        task = self._tasks.get(attempt.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.attempt != attempt.attempt:
            return False
        lost = replace(task, lost_count=task.lost_count + 1)
        if lost.lost_count < ATTEMPT_LOST_MAX:
            self._put(replace(lost, state=TaskState.PENDING))
        else:
            failure = TaskFailure(
                Reason.WORKER_LOST, f"{ATTEMPT_LOST_MAX} attempts were lost with their workers"
            )
            self._end(replace(lost, state=TaskState.FAILED, failure=failure), at_ms)
        return True

    def cancel(self, task_id: TaskId, at_ms: int) -> None:
        """End a task that has not ended."""
        self._end(replace(self._tasks[task_id], state=TaskState.CANCELLED), at_ms)

    def expire(self, finished_before_ms: int, count_max: int) -> int:
        """Forget tasks that ended before, at most so many; returns how many."""
        oldest = list(islice(self._finished, count_max))
        for count, task_id in enumerate(oldest):
            if self._tasks[task_id].finished_at_ms >= finished_before_ms:
                return count  # Ordered by the time of ending.
            self._drop(self._tasks[task_id])
            del self._tasks[task_id]
        return len(oldest)

    def _end(self, task: Task, at_ms: int) -> None:
        # The payload is of no more use, and the state must fit in memory.
        self._put(replace(task, finished_at_ms=at_ms, spec=replace(task.spec, payload=b"")))

    def _put(self, task: Task) -> None:
        before = self._tasks.get(task.task_id)
        if before is not None:
            self._drop(before)
        self._tasks[task.task_id] = task
        self._sequence_last = max(self._sequence_last, task.sequence)
        self.counts[task.state] += 1
        self.stored_bytes += task.stored_bytes
        if task.state is TaskState.PENDING:
            by_type = self._pending.setdefault(task.spec.priority, {})
            by_type.setdefault(task.spec.task_type, {})[task.task_id] = None
        elif task.state is TaskState.RUNNING and task.node_id is not None:
            self._running.setdefault(task.node_id, {})[task.task_id] = None
        else:
            self._finished[task.task_id] = None

    def _drop(self, task: Task) -> None:
        self.counts[task.state] -= 1
        self.stored_bytes -= task.stored_bytes
        if task.state is TaskState.PENDING:
            by_type = self._pending[task.spec.priority]
            del by_type[task.spec.task_type][task.task_id]
            if not by_type[task.spec.task_type]:
                del by_type[task.spec.task_type]
        elif task.state is TaskState.RUNNING and task.node_id is not None:
            del self._running[task.node_id][task.task_id]
        else:
            self._finished.pop(task.task_id, None)

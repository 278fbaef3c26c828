"""The tasks of the replicated state: legal transitions and their indexes.

pending -> running            a worker is assigned; the attempt number grows
running -> pending            the attempt was lost or handed back, or failed and may be repeated
running -> succeeded, failed  the current attempt ended
pending, running -> cancelled
pending, running -> failed    the time from its submission is over

A terminal state is final; the task is then deleted by expiry, or to make room for new ones. The
order of deletion depends on the tasks alone, so that a restored replica deletes the same.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.file_needs import FileNeeds
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import (
    ATTEMPT_LOST_MAX,
    ATTEMPT_MESSAGE_CHARS_MAX,
    ATTEMPTS_KEPT_MAX,
    PAYLOAD_KEPT_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
    EndedAttempt,
    Task,
    TaskFailure,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.queue import TaskQueue
from ipfs_cluster_node.core.tables import Notes, Table, TableName
from ipfs_cluster_node.core.task_deadlines import TaskDeadlines

LOST: Final = TaskFailure(Reason.WORKER_LOST, "its worker was lost")


class TaskTable:
    """All tasks, in the order of their submission."""

    def __init__(
        self,
        tasks: Iterable[Task] = (),
        notes: Notes | None = None,
        needs: FileNeeds | None = None,
    ) -> None:
        """Start from `tasks`, ordered by `sequence`; note in `needs` which files they need."""
        self._needs = needs or FileNeeds()
        self._tasks: Table[TaskId, Task] = Table(TableName.TASKS, notes)
        self._pending: dict[int, dict[str, TaskQueue]] = {}
        self._running: dict[NodeId, dict[TaskId, None]] = {}
        self._ended: list[tuple[int, int, TaskId]] = []
        """A heap by end time, then by sequence: times may be equal, and clocks go back."""
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.stored_bytes = 0
        self.ended_bytes = 0
        """The part of `stored_bytes` that ended tasks hold."""
        self._deadlines = TaskDeadlines()
        self._sequence_last = 0
        for task in tasks:
            self._put(task)
            if not task.state.is_terminal:
                self._deadlines.add(task)
                self._needs.begin(task)
            else:
                self._needs.end(task)
            self._sequence_last = task.sequence

    def __len__(self) -> int:
        """The number of tasks, ended or not."""
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        """Every task in the order of submission."""
        return iter(self._tasks.values())

    def get(self, task_id: TaskId) -> Task | None:
        """The task, if it exists."""
        return self._tasks.get(task_id)

    def copy(self) -> tuple[Task, ...]:
        """A copy of all tasks in the order of submission."""
        return tuple(self._tasks.values())

    def by_id(self) -> Mapping[TaskId, Task]:
        """A copy of all tasks by their ids."""
        return dict(self._tasks)

    @property
    def ended_count(self) -> int:
        """The number of ended tasks."""
        return len(self._ended)

    @property
    def unfinished_count(self) -> int:
        """The number of pending and running tasks."""
        return len(self._tasks) - len(self._ended)

    def pending(self) -> Iterator[Mapping[str, TaskQueue]]:
        """Pending tasks by type, highest priority first."""
        for priority in sorted(self._pending, reverse=True):
            yield self._pending[priority]

    def ahead_of(
        self, task: Task, task_types: AbstractSet[str], count_max: int
    ) -> tuple[int | None, int]:
        """How many pending tasks of some types go before a pending one, and how many there are.

        The first is None if it is more than `count_max`, which bounds the work.
        """
        ahead, count = 0, 0
        for priority, by_type in self._pending.items():
            for queue in (queue for each, queue in by_type.items() if each in task_types):
                count += len(queue)
                if priority > task.spec.priority:
                    ahead += len(queue)
                elif priority == task.spec.priority and ahead <= count_max:
                    ahead += queue.ahead_of(task.sequence, count_max - ahead)
        return None if ahead > count_max else ahead, count

    def running_on(self, node_id: NodeId) -> tuple[AttemptId, ...]:
        """The attempts assigned to a node."""
        return tuple(
            AttemptId(task_id, self._tasks[task_id].attempt)
            for task_id in self._running.get(node_id, ())
        )

    def running_count(self, node_id: NodeId) -> int:
        """The number of attempts assigned to a node."""
        return len(self._running.get(node_id, ()))

    def is_current(self, attempt: AttemptId, node_id: NodeId) -> bool:
        """Whether this is the current attempt, assigned to this node."""
        task = self._tasks.get(attempt.task_id)
        return (
            task is not None
            and task.state is TaskState.RUNNING
            and task.attempt == attempt.attempt
            and task.node_id == node_id
        )

    def submit(
        self, task_id: TaskId, spec: TaskSpec, submitter: Did, at_ms: int, *, request_id: str = ""
    ) -> None:
        """Add a task; one with a request id has a history."""
        self._sequence_last += 1
        task = Task(
            task_id=task_id,
            sequence=self._sequence_last,
            spec=spec,
            submitter=submitter,
            submitted_at_ms=at_ms,
            request_id=request_id,
        )
        self._put(task)
        self._deadlines.add(task)
        if spec.inputs:
            self._needs.begin(task)

    def assign(self, task_id: TaskId, node_id: NodeId, at_ms: int) -> AttemptId | None:
        """Assign a pending task to a node; None if it is no longer pending."""
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
        """Record the outcome of an attempt; False if the attempt is not the current one."""
        if not self.is_current(outcome.id, node_id):
            return False
        task = self._tasks[outcome.id.task_id]
        if outcome.failure is None:
            self._end(task, at_ms, state=TaskState.SUCCEEDED, result=outcome.result)
            return True
        if outcome.handed_back:
            self._put(_waiting_again(task, outcome.failure, at_ms))
            return True
        if outcome.failure.reason is Reason.WORKER_LOST:
            # A loss, not a failed attempt.
            return self.lose(outcome.id, at_ms, outcome.failure)
        failed = replace(task, failure=outcome.failure, failed_count=task.failed_count + 1)
        if outcome.retryable and failed.failed_count < task.spec.attempt_count_max:
            self._put(_waiting_again(failed, outcome.failure, at_ms))
        else:
            self._end(failed, at_ms, state=TaskState.FAILED)
        return True

    def lose(self, attempt: AttemptId, at_ms: int, failure: TaskFailure = LOST) -> bool:
        """Requeue an attempt of a lost worker; False if it is not the current one."""
        task = self._tasks.get(attempt.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.attempt != attempt.attempt:
            return False
        lost = replace(task, lost_count=task.lost_count + 1)
        if lost.lost_count < ATTEMPT_LOST_MAX:
            self._put(_waiting_again(lost, failure, at_ms))
        else:
            failure = TaskFailure(
                Reason.WORKER_LOST, f"{ATTEMPT_LOST_MAX} attempts were lost with their workers"
            )
            self._end(lost, at_ms, state=TaskState.FAILED, failure=failure)
        return True

    def cancel(self, task_id: TaskId, at_ms: int) -> None:
        """Cancel a task that has not ended."""
        self._end(self._tasks[task_id], at_ms, state=TaskState.CANCELLED)

    def fail(self, task_id: TaskId, failure: TaskFailure, at_ms: int) -> None:
        """End a task that has not ended."""
        self._end(self._tasks[task_id], at_ms, state=TaskState.FAILED, failure=failure)

    def overdue(self, now_ms: int, count_max: int) -> tuple[TaskId, ...]:
        """Tasks whose time from submission is over, at most `count_max`."""
        return self._deadlines.overdue(now_ms, count_max)

    def expire(self, finished_before_ms: int, count_max: int) -> int:
        """Delete tasks that ended earlier, at most `count_max`; returns how many."""
        count = 0
        while count < count_max and self._ended and self._ended[0][0] < finished_before_ms:
            self._forget_oldest()
            count += 1
        return count

    def make_room(
        self, *, count: int, count_keep: int, stored_bytes: int, bytes_keep: int, forget_max: int
    ) -> int:
        """Delete ended tasks, oldest first, while there are too many; returns how many.

        Args:
            count: Limit of all tasks.
            count_keep: The number of ended tasks that are kept in any case.
            stored_bytes: Limit of the bytes of all tasks.
            bytes_keep: The bytes of ended tasks that are kept in any case.
            forget_max: The most to delete now.
        """
        gone = 0
        while (
            gone < forget_max
            and self._ended
            and (
                (len(self._tasks) > count and len(self._ended) > count_keep)
                or (self.stored_bytes > stored_bytes and self.ended_bytes > bytes_keep)
            )
        ):
            self._forget_oldest()
            gone += 1
        return gone

    def _forget_oldest(self) -> None:
        _, _, task_id = heapq.heappop(self._ended)
        task = self._tasks.drop(task_id)
        self._needs.forget(task)
        self.counts[task.state] -= 1
        self.stored_bytes -= task.stored_bytes
        self.ended_bytes -= task.stored_bytes

    def _end(self, task: Task, at_ms: int, **changes: Any) -> None:
        self._deadlines.remove(task)
        # The payload is no longer needed, and the state must fit in memory.
        # A small one stays, so that people see what was asked.
        spec = task.spec
        if len(spec.payload) > (PAYLOAD_KEPT_BYTES_MAX if task.has_history else 0):
            spec = replace(spec, payload=b"")
        ended = replace(task, finished_at_ms=at_ms, spec=spec, **changes)
        self._needs.end(ended)
        self._put(ended)

    def _put(self, task: Task) -> None:
        before = self._tasks.get(task.task_id)
        if before is not None:
            self._unindex(before)
        self._tasks.put(task.task_id, task)
        self.counts[task.state] += 1
        self.stored_bytes += task.stored_bytes
        if task.state is TaskState.PENDING:
            by_type = self._pending.setdefault(task.spec.priority, {})
            queue = by_type.get(task.spec.task_type)
            if queue is None:
                queue = by_type[task.spec.task_type] = TaskQueue()
            queue.add(task.sequence, task.task_id)
        elif task.state is TaskState.RUNNING and task.node_id is not None:
            self._running.setdefault(task.node_id, {})[task.task_id] = None
        else:
            heapq.heappush(self._ended, (task.finished_at_ms, task.sequence, task.task_id))
            self.ended_bytes += task.stored_bytes

    def _unindex(self, task: Task) -> None:
        """Remove a task that has not ended from the indexes."""
        self.counts[task.state] -= 1
        self.stored_bytes -= task.stored_bytes
        if task.state is TaskState.PENDING:
            by_type = self._pending[task.spec.priority]
            by_type[task.spec.task_type].remove(task.sequence, task.task_id)
            if not by_type[task.spec.task_type]:
                del by_type[task.spec.task_type]
        elif task.node_id is not None:
            del self._running[task.node_id][task.task_id]


def _waiting_again(task: Task, failure: TaskFailure, at_ms: int) -> Task:
    """The task after an attempt that ended without ending it."""
    if not task.has_history or task.node_id is None:
        return replace(task, state=TaskState.PENDING)
    ended = EndedAttempt(
        attempt=task.attempt,
        node_id=task.node_id,
        assigned_at_ms=task.assigned_at_ms,
        ended_at_ms=at_ms,
        reason=failure.reason,
        message=failure.message[:ATTEMPT_MESSAGE_CHARS_MAX],
    )
    latest = (*task.ended_attempts, ended)[-ATTEMPTS_KEPT_MAX:]
    return replace(task, state=TaskState.PENDING, ended_attempts=latest)

"""What is said of one task beyond its record: names, its attempts, and what it waits for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.members import MemberTable
from ipfs_cluster_node.core.model import Liveness, Principal, Task, TaskState
from ipfs_cluster_node.core.tasks import TaskTable
from ipfs_cluster_node.core.views import ListedAttempt, TaskWaiting

COUNTED_MAX: Final = 10_000
"""Pending tasks that are counted for a place in the queue: half a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails:
    """The answers of `GetTask` that a record does not have."""

    submitter_name: str
    node_name: str
    attempts: tuple[ListedAttempt, ...]
    waiting: TaskWaiting | None


def details_of(
    task: Task,
    members: MemberTable,
    tasks: TaskTable,
    may_list: Callable[[Principal], bool] = lambda _node: True,
) -> TaskDetails:
    """The details of a task, for a caller that may list some of the nodes."""
    waits = task.state is TaskState.PENDING
    return TaskDetails(
        submitter_name=members.name_of(task.submitter),
        node_name=members.node_name(task.node_id),
        attempts=tuple(_attempts(task, members)),
        waiting=waiting_of(task, members, tasks, may_list) if waits else None,
    )


def _attempts(task: Task, members: MemberTable) -> Iterator[ListedAttempt]:
    """The attempts that are known, the oldest first."""
    last = 0
    for each in task.ended_attempts:
        last = each.attempt
        yield ListedAttempt(
            attempt=each.attempt,
            node_id=each.node_id,
            node_name=members.node_name(each.node_id),
            assigned_at_ms=each.assigned_at_ms,
            ended_at_ms=each.ended_at_ms,
            reason=each.reason,
            message=each.message,
        )
    if last == task.attempt:
        return  # The last one ended without ending the task, or there was none.
    reason, message = None, ""
    if task.failure is not None and task.state is TaskState.FAILED:
        reason, message = task.failure.reason, task.failure.message
    elif task.state is TaskState.CANCELLED:
        reason, message = Reason.TASK_CANCELLED, "the task was cancelled"
    yield ListedAttempt(
        attempt=task.attempt,
        node_id=task.node_id or "",
        node_name=members.node_name(task.node_id),
        assigned_at_ms=task.assigned_at_ms,
        ended_at_ms=task.finished_at_ms,
        reason=reason,
        message=message,
    )


def waiting_of(
    task: Task, members: MemberTable, tasks: TaskTable, may_list: Callable[[Principal], bool]
) -> TaskWaiting:
    """What a pending task waits for."""
    task_type = task.spec.task_type
    workers = [
        node
        for node in members.nodes()
        if node.liveness is Liveness.ALIVE and node.slot_count and task_type in node.task_types
    ]
    if not workers:
        able = [n for n in members.nodes() if n.liveness is Liveness.ALIVE and n.task_types]
        listed = list(filter(may_list, able))
        return TaskWaiting(
            live_task_types=tuple(sorted({each for node in listed for each in node.task_types})),
            has_unlisted_workers=len(listed) < len(able),
        )
    competing = frozenset(each for node in workers for each in node.task_types)
    ahead, count = tasks.ahead_of(task, competing, COUNTED_MAX)
    return TaskWaiting(
        worker_count=len(workers),
        slot_count=sum(node.slot_count for node in workers),
        assigned_count=sum(tasks.running_count(node.node_id) for node in workers),
        position=None if ahead is None else ahead + 1,
        pending_count=count,
    )


def waiting_words(task_type: str, waiting: TaskWaiting) -> str:
    """What a pending task waits for, in words."""
    if not waiting.worker_count:
        others = ", ".join(waiting.live_task_types)
        alive = f"those that are alive run {others}" if others else "none is alive"
        if waiting.has_unlisted_workers:
            alive = f"{alive}, besides those you may not list" if others else "you may list none"
        return f"no live worker runs {task_type}: {alive}; start one"
    slots = f"{_counted(waiting.slot_count, 'slot')} of {_counted(waiting.worker_count, 'worker')}"
    if waiting.position is None:
        return f"one of {waiting.pending_count} tasks that wait for {slots}"
    nth = f"{ordinal(waiting.position)} of {_counted(waiting.pending_count, 'waiting task')}"
    return f"{nth} for {slots}, with {_counted(waiting.assigned_count, 'attempt')} assigned"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 20 else ending}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

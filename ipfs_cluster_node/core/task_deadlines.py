"""When the tasks that have not ended time out."""

from bisect import bisect_left, insort

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import MESSAGE_CHARS_MAX, Task, TaskFailure


class TaskDeadlines:
    """Tasks by the second in which their time ends.

    Most tasks have the same timeout, so that a second is mostly added at the end.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._by_second: dict[int, dict[TaskId, None]] = {}
        self._seconds: list[int] = []
        """The keys, sorted."""

    def add(self, task: Task) -> None:
        """Add a task; one without a timeout is left out."""
        timeout_ms = task.spec.task_timeout_ms
        if timeout_ms:
            second = (task.submitted_at_ms + timeout_ms) // 1000
            if second not in self._by_second:
                self._by_second[second] = {}
                insort(self._seconds, second)
            self._by_second[second][task.task_id] = None

    def remove(self, task: Task) -> None:
        """Remove a task that was added."""
        timeout_ms = task.spec.task_timeout_ms
        if timeout_ms:
            second = (task.submitted_at_ms + timeout_ms) // 1000
            tasks = self._by_second[second]
            del tasks[task.task_id]
            if not tasks:
                del self._by_second[second]
                del self._seconds[bisect_left(self._seconds, second)]

    def overdue(self, now_ms: int, count_max: int) -> tuple[TaskId, ...]:
        """Tasks whose second is over, the longest overdue first; at most `count_max`."""
        found: list[TaskId] = []
        for second in self._seconds:
            if 1000 * second + 1000 > now_ms or len(found) >= count_max:
                break
            found += self._by_second[second]
        return tuple(found[:count_max])


def timed_out(task: Task, *, has_worker: bool) -> TaskFailure:
    """The failure of a task whose time is over.

    Args:
        task: As it is.
        has_worker: Whether a node that is alive has a handler for its type.
    """
    seconds = task.spec.task_timeout_ms / 1000
    if task.attempt:
        why = f"it had not ended {seconds:g} s after its submission, in {task.attempt} attempts"
    elif has_worker:
        why = f"no worker had a free slot for it within {seconds:g} s"
    else:
        why = (
            f"no worker that is alive has a handler for {task.spec.task_type!r}, and none came "
            f"within {seconds:g} s"
        )
    output_tail = ""
    if task.failure is not None:
        why = f"{why}; an attempt failed: {task.failure.message} [{task.failure.reason}]"
        output_tail = task.failure.output_tail
    return TaskFailure(Reason.TASK_TIMED_OUT, why[:MESSAGE_CHARS_MAX], output_tail)

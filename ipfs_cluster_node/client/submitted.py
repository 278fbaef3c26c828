"""A submitted task: its id, and how it ends."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol, Self

from ipfs_cluster_node.client.values import decoded
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.views import ListedFailure, ListedResult, ListedTask

TASK_TIMEOUT_DEFAULT: Final = timedelta(hours=1)
"""How long a task's end is waited for; the task itself continues."""


class Waits(Protocol):
    """What a submitted task needs of the client."""

    async def wait_tasks(
        self, task_ids: Iterable[str], *, timeout: timedelta
    ) -> Mapping[str, ListedTask]:
        """Wait until every task has ended."""

    async def cancel_task(self, task_id: str) -> None:
        """Cancel a task."""


class TaskFailedError(ClusterError):
    """A task failed or was cancelled.

    `reason` and `message` are those of its last attempt; a traceback shows the end of the handler's
    output, with its own traceback, as a note.
    """

    def __init__(self, task: ListedTask) -> None:
        """Take a task that has ended without a result."""
        failure = task.status.failure
        if failure is None or task.status.state is TaskState.CANCELLED:  # Perhaps after an attempt.
            said = f"{task.task_id} was cancelled"
            failure = ListedFailure(reason=Reason.TASK_CANCELLED, message=said)
        super().__init__(failure.reason, failure.message, metadata={"task_id": task.task_id})
        self.task = task
        self.output_tail = failure.output_tail or ""
        """The end of the handler's output, with its traceback; empty if it wrote nothing."""
        self.add_note(f"task {task.task_id}, {task.spec.task_type}: {failure.reason}")
        if self.output_tail:
            self.add_note(f"the end of the handler's output:\n{self.output_tail.rstrip()}")


class SubmittedTask(str):
    """The id of a task, usable wherever an id is; `result` waits for its end."""

    __slots__ = ("_client", "_ended")
    _client: Waits
    _ended: ListedTask | None

    def __new__(cls, task_id: str, client: Waits) -> Self:
        """Name a task of a client's cluster."""
        made = super().__new__(cls, task_id)
        made._client, made._ended = client, None
        return made

    async def wait(self, *, timeout: timedelta = TASK_TIMEOUT_DEFAULT) -> ListedTask:
        """Wait until it has succeeded, failed or was cancelled; returns it.

        Raises:
            ClusterError: DEADLINE_EXCEEDED, if it has not ended; TASK_NOT_FOUND.
        """
        if self._ended is None:
            ended = await self._client.wait_tasks([str(self)], timeout=timeout)
            [self._ended] = ended.values()
        return self._ended

    async def result(self, *, timeout: timedelta = TASK_TIMEOUT_DEFAULT) -> Any:
        """Wait for its end; returns what the handler returned.

        A dict, list or other value from JSON, a str from text, bytes otherwise; a `ListedResult` if
        the handler made a file: `cid` names it for `get_content`.

        Raises:
            TaskFailedError: It failed or was cancelled.
            ClusterError: DEADLINE_EXCEEDED, if it has not ended; TASK_NOT_FOUND.
        """
        return decoded(result_of(await self.wait(timeout=timeout)))

    async def cancel(self) -> None:
        """Cancel it; a running attempt is killed.

        Raises:
            ClusterError: TASK_FINISHED, TASK_NOT_FOUND.
        """
        await self._client.cancel_task(str(self))


def result_of(task: ListedTask) -> ListedResult:
    """The result of a task that has ended.

    Raises:
        TaskFailedError: It has none.
    """
    if task.status.result is None:
        raise TaskFailedError(task)
    return task.status.result

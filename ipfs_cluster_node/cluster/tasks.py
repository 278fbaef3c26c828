"""Tasks: submit, get, list, watch, cancel. The leader's side; start reading here."""

import asyncio
import secrets
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from ipfs_cluster_node.access.turns import current_turn
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.core.commands import CancelTask, SubmitTasks
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, TaskId
from ipfs_cluster_node.core.model import Principal, Task, TaskSpec
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.tables import TableName, Touched
from ipfs_cluster_node.core.task_details import TaskDetails, details_of

WATCH_BATCH_MAX: Final = 200
"""Tasks in one message of a watch; keeps it under the message limit with inline results."""
WATCH_BATCH_BYTES_MAX: Final = 1024 * 1024


class _Watcher:
    def __init__(self, task_ids: Iterable[TaskId]) -> None:
        self.changed: dict[TaskId, None] = dict.fromkeys(task_ids)
        self.wake = asyncio.Event()


class Tasks:
    """Clients' operations on tasks."""

    def __init__(self, consensus: Consensus, observations: Observations) -> None:
        """Answer while this node leads."""
        self._consensus = consensus
        self._watchers: dict[TaskId, set[_Watcher]] = {}
        self.progress = observations.progress

    async def submit_tasks(
        self, specs: Sequence[TaskSpec], *, fingerprint: bytes, caller: Did, request_id: str
    ) -> tuple[TaskId, ...]:
        """Commit tasks, all or none; a repeat of the request gets the first ids."""
        self._consensus.check_leads()
        task_ids = tuple(TaskId(secrets.token_hex(10)) for _ in specs)
        body = SubmitTasks(
            task_ids=task_ids, specs=tuple(specs), fingerprint=fingerprint, with_history=True
        )
        ids = await self._consensus.propose(body, caller=caller, request_id=request_id)
        return tuple(map(TaskId, ids))

    async def cancel_task(self, task_id: TaskId, *, caller: Did, request_id: str) -> None:
        """Commit that a task is cancelled."""
        self._consensus.check_leads()
        await self._consensus.propose(
            CancelTask(task_id=task_id), caller=caller, request_id=request_id
        )

    def get_task(self, task_id: TaskId) -> Task:
        """Read one task."""
        return self._task(self._consensus.read_state(), task_id)

    def details_of(self, task: Task, may_list: Callable[[Principal], bool]) -> TaskDetails:
        """What is said of a task beyond its record, to a caller that may list some nodes."""
        state = self._consensus.state()
        return details_of(task, state.members, state.tasks, may_list)

    def names_of(self, task: Task) -> tuple[str, str]:
        """The names of a task's submitter and of its node, empty if it has none."""
        members = self._consensus.state().members
        return members.name_of(task.submitter), members.node_name(task.node_id)

    @staticmethod
    def _task(state: ClusterState, task_id: TaskId) -> Task:
        task = state.tasks.get(task_id)
        if task is None:
            raise ClusterError(
                Reason.TASK_NOT_FOUND,
                f"there is no task {task_id}; list the tasks, ended ones are kept for a time only",
            )
        return task

    def newest_first(self, before: int | None) -> Iterable[Task]:
        """The present tasks, the newest first; only those of a sequence below `before`."""
        tasks = self._consensus.read_state().tasks.copy()
        end = len(tasks)
        if before is not None:
            end = bisect_left(tasks, before, key=lambda task: task.sequence)
        return (tasks[at] for at in range(end - 1, -1, -1))

    async def watch_tasks(self, task_ids: Sequence[TaskId]) -> AsyncIterator[list[Task]]:
        """Yield tasks as they are, then their changes, until each has ended."""
        task_ids = list(dict.fromkeys(task_ids))
        # Subscribed before reading, so that no change in between is lost.
        watcher = _Watcher(task_ids)
        waiting = set(task_ids)
        turn = current_turn()
        try:
            for task_id in task_ids:
                self._watchers.setdefault(task_id, set()).add(watcher)
                if turn.over:
                    await turn.next()
            state = self._consensus.read_state()
            for task_id in task_ids:
                self._task(state, task_id)
                if turn.over:
                    await turn.next()
            while waiting:
                batch = self._take_changed(watcher)
                if batch:
                    # An ended task only ever changes by being deleted, which watchers are not told.
                    ended = {task.task_id for task in batch if task.state.is_terminal}
                    self._unsubscribe(watcher, ended)
                    waiting -= ended
                    yield batch
                else:
                    watcher.wake.clear()
                    await watcher.wake.wait()
        finally:
            self._unsubscribe(watcher, waiting)

    def _unsubscribe(self, watcher: _Watcher, task_ids: Iterable[TaskId]) -> None:
        for task_id in task_ids:
            watchers = self._watchers.get(task_id, set())
            watchers.discard(watcher)
            if not watchers:
                self._watchers.pop(task_id, None)

    def _take_changed(self, watcher: _Watcher) -> list[Task]:
        state = self._consensus.leader_state()
        batch: list[Task] = []
        batch_bytes = 0
        while watcher.changed and len(batch) < WATCH_BATCH_MAX:
            task = self._task(state, next(iter(watcher.changed)))
            batch_bytes += task.stored_bytes
            if batch and batch_bytes > WATCH_BATCH_BYTES_MAX:
                break
            del watcher.changed[task.task_id]
            batch.append(task)
        return batch

    def on_change(self, _revision: int, touched: Touched | None) -> None:
        """Wake the watchers of what changed."""
        if touched is None:
            self.progress.clear()
            for task_id in self._watchers:
                self._changed(task_id)
        elif tasks := touched.get(TableName.TASKS):
            if progress := self.progress:
                for task_id in progress.keys() & tasks:
                    del progress[task_id]  # Of an attempt that has ended.
            if self._watchers:
                for task_id in self._watchers.keys() & tasks:
                    self._changed(task_id)

    def on_progress(self, task_id: TaskId, ratio: float, note: str) -> None:
        """Record the progress of a running attempt."""
        self.progress[task_id] = (ratio, note)
        self._changed(task_id)

    def on_leadership(self, leads: bool) -> None:  # noqa: FBT001
        """Wake every watcher when leadership is lost: its next read raises NOT_LEADER."""
        if not leads:
            for watcher in {w for watchers in self._watchers.values() for w in watchers}:
                watcher.wake.set()

    def _changed(self, task_id: TaskId) -> None:
        for watcher in self._watchers.get(task_id, ()):
            watcher.changed[task_id] = None
            watcher.wake.set()

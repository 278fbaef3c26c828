"""Which tasks need which files: a needed file is not removed, and a result goes with its task.

A file without `Content.goes_with` is kept until it is removed. One with it goes once that task is
deleted, no other task has it as its result, and none that has not ended has it as an input.
"""

from collections.abc import Sequence

from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import Content, Task


class FileNeeds:
    """The files of tasks, by CID. It costs nothing for a task without files."""

    def __init__(self) -> None:
        self._inputs: dict[str, dict[TaskId, None]] = {}
        """By file: the tasks that have not ended and have it as an input."""
        self._results: dict[str, int] = {}
        """By file: how many tasks have it as their result."""
        self._made: dict[TaskId, list[str]] = {}
        """By task: the files that came as its results, named by an outcome or not."""
        self.released: dict[str, None] = {}
        """Files that may have lost their last need since they were last taken; always this dict."""

    def begin(self, task: Task) -> None:
        """Note a task that has not ended."""
        for each in task.spec.inputs:
            self._inputs.setdefault(each.cid, {})[task.task_id] = None

    def end(self, task: Task) -> None:
        """Note that a task ended, before that it began: its inputs may go, its result stays."""
        for each in task.spec.inputs:
            tasks = self._inputs.get(each.cid)
            if tasks is not None and tasks.pop(task.task_id, self) is None:
                self.released[each.cid] = None
                if not tasks:
                    del self._inputs[each.cid]
        if task.result is not None and task.result.cid:
            self._results[task.result.cid] = self._results.get(task.result.cid, 0) + 1

    def forget(self, task: Task) -> None:
        """Note that an ended task is deleted."""
        if task.result is not None and (cid := task.result.cid):
            self._results[cid] -= 1
            if not self._results[cid]:
                del self._results[cid]
            self.released[cid] = None
        for cid in self._made.pop(task.task_id, ()):
            self.released[cid] = None

    def made(self, content: Content) -> None:
        """Note with which task a file goes."""
        if content.goes_with:
            self._made.setdefault(content.goes_with, []).append(content.cid)

    def needed_by(self, cid: str) -> TaskId | None:
        """A task that has not ended and has the file as an input; None if there is none."""
        return next(iter(self._inputs.get(cid, ())), None)

    def is_result(self, cid: str) -> bool:
        """Whether a task that is not deleted yet has the file as its result."""
        return cid in self._results

    def take_released(self) -> Sequence[str]:
        """Return `released`, and start again with none."""
        released = tuple(self.released)
        self.released.clear()
        return released

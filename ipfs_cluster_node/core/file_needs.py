"""Which tasks need which files: a needed file is not removed, and a result goes with its task.

A file stays where it is kept until it is removed there; where it is a result, until no task of that
namespace has it as its result. It goes once no namespace has it, and no task that has not ended
has it as an input.
"""

from collections import Counter
from collections.abc import Sequence

from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import Content, Task


class FileNeeds:
    """The files of tasks, by CID. It costs nothing for a task without files."""

    def __init__(self) -> None:
        self._inputs: dict[str, dict[TaskId, None]] = {}
        """By file: the tasks that have not ended and have it as an input."""
        self._results: dict[str, str | Counter[str]] = {}
        """By file: the namespace of the task that has it as its result; of several, how many have
        it in each."""
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
            cid, namespace = task.result.cid, task.spec.namespace
            known = self._results.get(cid)
            if known is None:
                self._results[cid] = namespace
            elif isinstance(known, str):
                self._results[cid] = Counter((known, namespace))
            else:
                known[namespace] += 1

    def forget(self, task: Task) -> None:
        """Note that an ended task is deleted."""
        if task.result is not None and (cid := task.result.cid):
            known = self._results[cid]
            if isinstance(known, Counter):
                known[task.spec.namespace] -= 1
            if not isinstance(known, Counter) or not known.total():
                del self._results[cid]
            self.released[cid] = None
        for cid in self._made.pop(task.task_id, ()):
            self.released[cid] = None

    def made(self, content: Content) -> None:
        """Note with which tasks a file goes."""
        for task_id in {content.goes_with, *(each.task_id for each in content.makers)}:
            if task_id:
                self._made.setdefault(task_id, []).append(content.cid)

    def needed_by(self, cid: str) -> TaskId | None:
        """A task that has not ended and has the file as an input; None if there is none."""
        return next(iter(self._inputs.get(cid, ())), None)

    def is_result(self, cid: str) -> bool:
        """Whether a task that is not deleted yet has the file as its result."""
        return cid in self._results

    def is_result_in(self, cid: str, namespace: str) -> bool:
        """Whether a task of this namespace that is not deleted yet has it as its result."""
        known = self._results.get(cid, "")
        return known == namespace if isinstance(known, str) else known[namespace] > 0

    def take_released(self) -> Sequence[str]:
        """Return `released`, and start again with none."""
        released = tuple(self.released)
        self.released.clear()
        return released

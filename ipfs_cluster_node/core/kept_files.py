"""Which files are kept, which go with a task, and which may be removed."""

from collections.abc import Container, Iterable
from dataclasses import replace

from ipfs_cluster_node.core.commands import AddContent, KeepContent, RemoveContent
from ipfs_cluster_node.core.contents import ContentTable
from ipfs_cluster_node.core.effects import Accepted, Answer, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.file_namespaces import (
    is_named,
    kept_in,
    made_in,
    named,
    namespaces_of,
    not_made_in,
    without,
)
from ipfs_cluster_node.core.file_needs import FileNeeds
from ipfs_cluster_node.core.ids import NO_TASK, TaskId
from ipfs_cluster_node.core.model import (
    DEFAULT_NAMESPACE,
    AttemptOutcome,
    Content,
    TaskFailure,
)
from ipfs_cluster_node.core.tasks import TaskTable


class KeptFiles:
    """Changes the table of files as the tasks allow it."""

    def __init__(self, contents: ContentTable, tasks: TaskTable, needs: FileNeeds) -> None:
        """Start from the files of `contents`; `needs` are those of `tasks`."""
        self._contents, self._tasks, self._needs = contents, tasks, needs
        for content in contents.values():
            needs.made(content)

    def add(self, body: AddContent, at_ms: int) -> Answer:
        """Add a file, or holders of one."""
        task = self._tasks.get(body.goes_with) if body.goes_with else None
        if body.goes_with and task is None:
            return Rejected(
                Reason.STALE_ATTEMPT, f"the task {body.goes_with}, whose result it is, was deleted"
            )
        existing = self._contents.get(body.cid)
        content = existing or Content(
            cid=body.cid,
            size_bytes=body.size_bytes,
            holders=(),
            name=body.name,
            added_at_ms=at_ms,
            goes_with=body.goes_with,
        )
        if body.namespace or (existing is not None and is_named(existing)):
            namespace = body.namespace or (task.spec.namespace if task else DEFAULT_NAMESPACE)
            if existing is not None:
                content = named(existing, self._tasks.get)
            if body.goes_with:
                content = made_in(content, namespace, body.goes_with)
            else:
                content = kept_in(content, (namespace,))
        elif content.goes_with:
            content = replace(content, goes_with=body.goes_with)
        self._contents.add(content, body.holders)
        self._needs.made(content)
        return Accepted((body.cid,))

    def remove(self, body: RemoveContent) -> Answer:
        """Remove a file, or remove it from namespaces; the answer has its size.

        It has its holders too, if the file is in no namespace any more, and so is gone.
        """
        content = self._contents.get(body.cid)
        names = _asked(body)
        if content is None or not self._is_in(content, names):
            return _not_found(body)
        left = without(named(content, self._tasks.get), names) if names else None
        if left is not None and is_named(left):
            if self._maker_of(content, names) is not None:
                return _needed(body.cid)
            self._contents.put(body.cid, left)
            return Accepted((str(content.size_bytes),))
        if self.needed_by(content) is not None:
            return _needed(body.cid)
        holders = self._contents.holders_of(content)
        self._contents.remove(body.cid)
        return Accepted((str(content.size_bytes), *holders))

    def keep(self, body: KeepContent) -> Answer:
        """Keep a file until it is removed, where it is a result."""
        content = self._contents.get(body.cid)
        names = _asked(body)
        if content is None or not self._is_in(content, names):
            return _not_found(body)
        if names or is_named(content):
            content = named(content, self._tasks.get)
            inside = namespaces_of(content, self._tasks.get)
            kept = kept_in(content, (each for each in inside if not names or each in names))
        else:
            kept = replace(content, goes_with=NO_TASK)
        if kept != content:
            self._contents.put(body.cid, kept)
        return Accepted((body.cid,))

    def keep_result(self, task_id: TaskId, cid: str) -> None:
        """Keep the result of a task that has just ended, if it was submitted so."""
        task, content = self._tasks.get(task_id), self._contents.get(cid)
        if task is None or content is None or not task.spec.keep_result:
            return
        self._contents.put(cid, kept_in(named(content, self._tasks.get), (task.spec.namespace,)))

    def drop_released(self) -> None:
        """Remove the results that went with their tasks since this was last called."""
        for cid in self._needs.take_released():
            content = self._contents.get(cid)
            if content is None:
                continue
            left = self._still_made(content)
            if self._may_go(content, left):
                self._contents.remove(cid)
            elif left is not content:
                self._contents.put(cid, left)

    def needed_by(self, content: Content) -> TaskId | None:
        """A task that has not ended and needs the file, as an input or as its result."""
        return self._maker_of(content) or self._needs.needed_by(content.cid)

    def _maker_of(self, content: Content, names: Container[str] = ()) -> TaskId | None:
        """A task that has not ended whose result it is; only one in these namespaces, if given."""
        makers = [each.task_id for each in content.makers if not names or each.namespace in names]
        if content.goes_with and not is_named(content):
            makers.append(content.goes_with)
        for task_id in makers:
            task = self._tasks.get(task_id)
            if task is not None and not task.state.is_terminal:
                return task_id
        return None

    def _is_in(self, content: Content, names: Iterable[str]) -> bool:
        """Whether a file is in one of these namespaces; any is, if none are given."""
        inside = namespaces_of(content, self._tasks.get)
        return not names or any(each in inside for each in names)

    def _still_made(self, content: Content) -> Content:
        """Without the namespaces whose tasks no longer have it as their result."""
        gone = [
            each.namespace
            for each in content.makers
            if self._tasks.get(each.task_id) is None
            and not self._needs.is_result_in(content.cid, each.namespace)
        ]
        return not_made_in(content, gone) if gone else content

    def _may_go(self, content: Content, left: Content) -> bool:
        if is_named(left) or not content.goes_with:
            return False
        if self._needs.needed_by(content.cid) is not None:
            return False
        # A task that names it may have had it removed from its namespace.
        return is_named(content) or not (
            self._tasks.get(content.goes_with) is not None or self._needs.is_result(content.cid)
        )


def with_its_file(outcome: AttemptOutcome, contents: Container[str]) -> AttemptOutcome:
    """The outcome of an attempt with a file; a failure if the cluster does not hold the file."""
    if outcome.result is None or outcome.result.cid in contents:
        return outcome
    failure = TaskFailure(
        Reason.CONTENT_NOT_FOUND,
        f"the result's file {outcome.result.cid} was not added to the cluster first, or removed",
    )
    return replace(outcome, result=None, failure=failure, retryable=True)


def _asked(body: RemoveContent | KeepContent) -> tuple[str, ...]:
    return (body.namespace,) if body.namespace else body.among


def _not_found(body: RemoveContent | KeepContent) -> Rejected:
    within = f" in {body.namespace}" if body.namespace else ""
    return Rejected(
        Reason.CONTENT_NOT_FOUND, f"the cluster has no file {body.cid}{within}; see `content list`"
    )


def _needed(cid: str) -> Rejected:
    return Rejected(
        Reason.CONTENT_NEEDED,
        f"a task that has not ended needs {cid}; wait for its end, or cancel it",
    )

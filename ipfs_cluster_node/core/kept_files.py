"""Which files are kept, which go with a task, and which may be removed."""

from collections.abc import Container
from dataclasses import replace

from ipfs_cluster_node.core.commands import AddContent
from ipfs_cluster_node.core.contents import ContentTable
from ipfs_cluster_node.core.effects import Accepted, Answer, Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.file_needs import FileNeeds
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import AttemptOutcome, Content, TaskFailure
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
        if body.goes_with and self._tasks.get(body.goes_with) is None:
            return Rejected(
                Reason.STALE_ATTEMPT, f"the task {body.goes_with}, whose result it is, was deleted"
            )
        content = Content(
            cid=body.cid,
            size_bytes=body.size_bytes,
            holders=(),
            name=body.name,
            added_at_ms=at_ms,
            goes_with=body.goes_with,
        )
        self._contents.add(content, body.holders)
        self._needs.made(self._contents[body.cid])
        return Accepted((body.cid,))

    def remove(self, cid: str) -> Answer:
        """Remove a file; the answer has its size and its holders."""
        content = self._contents.get(cid)
        if content is None:
            return _not_found(cid)
        task_id = self.needed_by(content)
        if task_id is not None:
            return Rejected(
                Reason.CONTENT_NEEDED,
                f"task {task_id}, which has not ended, needs {cid}; wait for its end, or cancel it",
            )
        holders = self._contents.holders_of(content)
        self._contents.remove(cid)
        return Accepted((str(content.size_bytes), *holders))

    def keep(self, cid: str) -> Answer:
        """Keep a file until it is removed."""
        if cid not in self._contents:
            return _not_found(cid)
        self._contents.keep(cid)
        return Accepted((cid,))

    def drop_released(self) -> None:
        """Remove the results that went with their tasks since this was last called."""
        for cid in self._needs.take_released():
            content = self._contents.get(cid)
            if content is not None and self._may_go(content):
                self._contents.remove(cid)

    def needed_by(self, content: Content) -> TaskId | None:
        """A task that has not ended and needs the file, as an input or as its result."""
        maker = self._tasks.get(content.goes_with) if content.goes_with else None
        if maker is not None and not maker.state.is_terminal:
            return maker.task_id
        return self._needs.needed_by(content.cid)

    def _may_go(self, content: Content) -> bool:
        return bool(content.goes_with) and not (
            self._tasks.get(content.goes_with) is not None
            or self._needs.is_result(content.cid)
            or self._needs.needed_by(content.cid) is not None
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


def _not_found(cid: str) -> Rejected:
    return Rejected(Reason.CONTENT_NOT_FOUND, f"the cluster has no file {cid}; see `content list`")

"""Write your own task handlers.

    from ipfs_cluster_node.tasks import TaskContext, task_handler

    @task_handler("word_count")
    def word_count(task: TaskContext) -> dict:
        text = task.inputs["input"].path.read_text()
        return {"words": len(text.split())}

Put the file into the node's home, under `handlers`, or name it with `serve --handlers`; a package
offers handlers under the entry point group `ipfs_cluster_node.task_handlers`. A handler is a plain
function or an `async def`. See docs/handlers.md.

Each attempt runs in its own process, forked from one that has loaded the modules; start no threads
while a module loads. The process, and all that it started, ends with the attempt.
If the machine supports namespaces, it can write only to `task.scratch`, to `/dev/shm` and to the
paths of `[tasks] writable_paths`; temporary files go to the scratch directory.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import parse_name
from ipfs_cluster_node.core.model import DEFAULT_CONTENT_TYPE

ENTRY_POINT_GROUP: Final = "ipfs_cluster_node.task_handlers"
TASK_TYPE_ATTRIBUTE: Final = "__task_type__"


@dataclass(frozen=True, slots=True)
class TaskInputFile:
    """An input file, named in the task by its CID."""

    path: Path
    """Its bytes, readable; gone when the attempt ends."""
    cid: str
    format: str
    """`csv`, `parquet`, `arrow`; or empty if the bytes must tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """The argument of a handler."""

    task_id: str
    attempt: int
    """From 1; above 1, an earlier attempt failed or was lost."""
    task_type: str
    payload: bytes
    content_type: str
    inputs: Mapping[str, TaskInputFile]
    scratch: Path
    """An empty directory of this attempt; removed when it ends."""
    _report: Callable[[float, str], None] = field(default=lambda _ratio, _note: None, repr=False)

    def json(self) -> Any:
        """The payload as JSON.

        Raises:
            TaskError: TASK_INPUT_INVALID.
        """
        try:
            return json.loads(self.payload)
        except RecursionError:
            raise TaskError(
                Reason.TASK_INPUT_INVALID, "the payload is JSON that is nested too deep"
            ) from None
        except ValueError as error:
            raise TaskError(
                Reason.TASK_INPUT_INVALID, f"the payload is not JSON: {error}"
            ) from error

    def progress(self, ratio: float, note: str = "") -> None:
        """Report progress, 0 to 1; reports that come too often are dropped.

        Raises:
            ValueError: Not a number.
        """
        self._report(ratio, note)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """A handler's result, if bytes, text or JSON alone are not enough."""

    data: bytes = b""
    content_type: str = DEFAULT_CONTENT_TYPE
    file: Path | None = None
    """A regular file in the scratch directory, not a link; stored, and named in the result by its
    CID. With it, `data` has at most 64 KiB."""


class TaskError(Exception):
    """A handler's own failure, reported to the submitter unchanged."""

    def __init__(self, reason: Reason | str, message: str, *, retryable: bool = False) -> None:
        """Give the reason; `retryable` if another attempt may succeed.

        An unknown reason becomes HANDLER_FAILED, and its name is put before the message.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


HandlerResult = bytes | str | dict[str, Any] | list[Any] | TaskResult | None
Handler = Callable[[TaskContext], HandlerResult | Awaitable[HandlerResult]]
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])


def task_handler(task_type: str) -> Callable[[AnyHandler], AnyHandler]:
    """Mark a function as the handler of a task type.

    Args:
        task_type: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.

    Raises:
        ValueError: Another name.
    """
    parse_name(task_type, what="a task type")

    def mark(function: AnyHandler) -> AnyHandler:
        setattr(function, TASK_TYPE_ATTRIBUTE, task_type)
        return function

    return mark

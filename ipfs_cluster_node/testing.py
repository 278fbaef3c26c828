"""Test your own task handlers, without a cluster.

from ipfs_cluster_node.testing import run_handler
from word_count import word_count

def test_it_counts_words(tmp_path):
(tmp_path / "text.txt").write_text("three short words")
assert run_handler(word_count, inputs={"text": tmp_path / "text.txt"}).value == {"words": 3}
"""

import asyncio
import inspect
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.files import ResultFileError, open_result
from ipfs_cluster_node.adapters.worker.runner import InvalidResultError, encode_result
from ipfs_cluster_node.client.values import Payload, decoded, encoded
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.views import ListedResult
from ipfs_cluster_node.tasks import (
    TASK_TYPE_ATTRIBUTE,
    Handler,
    TaskContext,
    TaskError,
    TaskInputFile,
)

_NO_INPUTS: Final[Mapping[str, Path]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class HandlerRun:
    """What one attempt would report."""

    value: Any
    """What `result()` of the Python client returns: JSON as its value, text as str, else bytes."""
    content_type: str
    file: bytes | None
    """The content of its result file, if it made one."""
    progress: tuple[tuple[float, str], ...]
    """Each report: ratio and note. A worker drops those that come too often."""


def run_handler(
    handler: Handler,
    payload: Payload = b"",
    *,
    inputs: Mapping[str, Path] = _NO_INPUTS,
    attempt: int = 1,
) -> HandlerRun:
    """Run one attempt in this process, not isolated and without limits.

    Args:
        handler: A function marked with `@task_handler`, `async` or not.
        payload: As for `submit_task`.
        inputs: A file for each input's name; the handler gets copies.
        attempt: The number of the attempt, from 1.

    Raises:
        TaskError: As the handler raised it; or TASK_RESULT_INVALID for what a worker would refuse.
        ClusterError: INVALID_ARGUMENT for the payload.
        Exception: Any other that the handler raised; a worker would retry the task.
    """
    data, content_type = encoded(payload)
    progress: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory(prefix="handler-") as directory:
        scratch = Path(directory)
        task = TaskContext(
            task_id="test",
            attempt=attempt,
            task_type=getattr(handler, TASK_TYPE_ATTRIBUTE),
            payload=data,
            content_type=content_type,
            inputs={
                name: TaskInputFile(Path(shutil.copy(given, scratch / f"input-{n}")), "", "")
                for n, (name, given) in enumerate(inputs.items())
            },
            scratch=scratch,
            _report=lambda ratio, note: progress.append((ratio, note)),
        )
        returned: Any = handler(task)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
        try:
            answer, body = encode_result(returned, scratch)
            file = _content(scratch, answer["file"])
        except (InvalidResultError, ResultFileError) as error:
            raise TaskError(Reason.TASK_RESULT_INVALID, str(error)) from error
    result = ListedResult(data=body, content_type=answer["content_type"])
    return HandlerRun(decoded(result), answer["content_type"], file, tuple(progress))


def _content(scratch: Path, name: str | None) -> bytes | None:
    if name is None:
        return None
    directory = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.fdopen(open_result(directory, name), "rb") as file:
            return file.read()
    finally:
        os.close(directory)


async def _awaited(result: Any) -> Any:
    return await result

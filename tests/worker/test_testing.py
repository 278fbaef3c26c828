"""A handler is tested without a cluster, and the test sees what a submitter would."""

import os
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.worker.builtin.echo import echo
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.tasks import TaskContext, TaskError, TaskResult, task_handler
from ipfs_cluster_node.testing import run_handler


@task_handler("of_all")
def of_all(task: TaskContext) -> dict[str, object]:
    task.progress(0.5, "half")
    text = task.inputs["text"].path.read_text()
    task.inputs["text"].path.write_text("changed")
    return {"text": text, "payload": task.json(), "who": [task.task_type, task.attempt]}


@task_handler("waits")
async def waits(task: TaskContext) -> str:
    return str(task.content_type)


@task_handler("writes")
def writes(task: TaskContext) -> TaskResult:
    (task.scratch / "out").write_bytes(b"written")
    return TaskResult(file=task.scratch / "out", data=b"beside", content_type="text/plain")


@task_handler("wrong")
def wrong(task: TaskContext) -> object:
    if task.payload == b"link":
        (task.scratch / "out").symlink_to("/etc/hostname")
        return TaskResult(file=task.scratch / "out")
    return 5


@task_handler("refuses")
def refuses(task: TaskContext) -> None:
    if not task.payload:
        raise TaskError(Reason.TASK_INPUT_INVALID, "it is empty")
    os.stat("/no/such/file")  # noqa: PTH116


def test_it_returns_what_a_submitter_gets(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("words")
    run = run_handler(of_all, {"a": 1}, inputs={"text": text}, attempt=2)
    assert run.value == {"text": "words", "payload": {"a": 1}, "who": ["of_all", 2]}
    assert run.content_type == "application/json"
    assert (run.file, run.progress) == (None, ((0.5, "half"),))
    assert text.read_text() == "words"
    assert run_handler(waits, "x").value == "text/plain; charset=utf-8"
    assert run_handler(echo, b"\0").value == b"\0"
    written = run_handler(writes)
    assert (written.file, written.value) == (b"written", "beside")


def test_it_fails_as_a_worker_would() -> None:
    for payload in ("link", "number"):
        with pytest.raises(TaskError) as caught:
            run_handler(wrong, payload)  # type: ignore[arg-type]
        assert caught.value.reason is Reason.TASK_RESULT_INVALID
    with pytest.raises(TaskError, match="it is empty"):
        run_handler(refuses)
    with pytest.raises(FileNotFoundError):
        run_handler(refuses, "x")

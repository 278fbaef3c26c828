"""What a worker sends of an attempt is what its leader takes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker.pool import Attempt, AttemptSucceeded
from ipfs_cluster_node.codec.tasks import outcome_from_proto, outcome_to_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    CONTENT_TYPE_CHARS_MAX,
    MESSAGE_CHARS_MAX,
    OUTPUT_TAIL_BYTES_MAX,
    RESULT_INLINE_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
    TaskFailure,
    TaskResult,
)
from ipfs_cluster_node.node.attempts import AttemptRunner, failed, nameless_file, sendable
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb

WHICH = AttemptId(TaskId("t"), 1)


def succeeded(*, data: bytes = b"", content_type: str = "", cid: str = "") -> AttemptOutcome:
    result = TaskResult(data=data, content_type=content_type, cid=cid, size_bytes=len(data))
    return AttemptOutcome(id=WHICH, result=result)


def test_what_can_be_sent_is_sent_as_it_is() -> None:
    for outcome in (
        succeeded(data=bytes(RESULT_INLINE_BYTES_MAX), content_type="t" * CONTENT_TYPE_CHARS_MAX),
        failed(WHICH, Reason.SQL_FAILED, "words", retryable=True, output_tail="printed"),
    ):
        assert sendable(outcome) is outcome
        assert outcome_from_proto(outcome_to_proto(outcome)) == outcome


@pytest.mark.parametrize(
    "outcome",
    [
        succeeded(data=bytes(RESULT_INLINE_BYTES_MAX + 1)),
        succeeded(content_type="t" * (CONTENT_TYPE_CHARS_MAX + 1)),
        succeeded(content_type="\ud800"),
        succeeded(cid="no cid"),
        AttemptOutcome(id=WHICH),
        AttemptOutcome(id=WHICH, failure=TaskFailure(Reason.SQL_FAILED, "\ud800", "")),
    ],
    ids=lambda outcome: "",
)
def test_what_can_not_be_sent_is_a_failure_that_can(outcome: AttemptOutcome) -> None:
    told = sendable(outcome)
    assert told.failure is not None
    assert told.failure.reason is Reason.TASK_RESULT_INVALID
    assert "can't be sent" in told.failure.message
    assert not told.retryable
    assert outcome_from_proto(outcome_to_proto(told)) == told


@pytest.mark.parametrize(
    "text", ["m" * 10 * MESSAGE_CHARS_MAX, "\ud800" * 3, "\0\x1b", "\U0010ffff"]
)
def test_a_failure_can_be_sent_whatever_was_said(text: str) -> None:
    outcome = failed(WHICH, Reason.HANDLER_FAILED, text, retryable=True)
    assert sendable(outcome) is outcome
    assert outcome.failure is not None
    assert len(outcome.failure.message) <= MESSAGE_CHARS_MAX


def test_output_that_is_too_long_loses_its_beginning() -> None:
    for letter in ("a", "\u20ac", "\U0010ffff"):
        long = failed(
            WHICH, Reason.HANDLER_FAILED, "m", retryable=True, output_tail=letter * 90_000
        )
        for told in (
            outcome_from_proto(outcome_to_proto(long)),
            outcome_from_proto(
                pb.AttemptOutcome(
                    id=pb.AttemptId(task_id="t", attempt=1),
                    failure=pb.AttemptFailure(
                        reason=outcome_to_proto(long).failure.reason,
                        output_tail=letter * 90_000,
                    ),
                )
            ),
        ):
            assert told.failure is not None
            size = len(told.failure.output_tail.encode())
            assert OUTPUT_TAIL_BYTES_MAX - 4 < size <= OUTPUT_TAIL_BYTES_MAX


def test_a_large_result_is_written_to_no_other_directory(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    directory = os.open(ours, os.O_RDONLY | os.O_DIRECTORY)
    ours.rename(tmp_path / "moved")
    ours.symlink_to(other)
    with nameless_file(directory) as file:
        file.write(b"result")
        assert os.fstat(file.fileno()).st_nlink == 0
    os.close(directory)
    assert list(other.iterdir()) == []


class Pool:
    """Lends what answers as it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @asynccontextmanager
    async def lease(self, task_type: str) -> AsyncIterator[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer

        async def run(attempt: Attempt) -> Any:
            assert attempt.task_type == task_type
            return self.answer

        yield SimpleNamespace(run=run, directory=-1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (
            AttemptSucceeded(data=b"", content_type="t" * 129, file=None),
            Reason.TASK_RESULT_INVALID,
            False,
        ),
        (ClusterError(Reason.HANDLER_FAILED, "no process"), Reason.HANDLER_FAILED, True),
        (ClusterError(Reason.CONTENT_NOT_FOUND, "gone"), Reason.CONTENT_NOT_FOUND, False),
        (OSError(28, "full"), Reason.STORAGE_FULL, True),
        (OSError(24, "too many files"), Reason.INTERNAL, True),
    ],
)
async def test_an_attempt_ends_with_an_outcome_whatever_happens(
    answer: Any,
    reason: Reason,
    retryable: bool,  # noqa: FBT001
) -> None:
    runner = AttemptRunner(
        uplink=None,  # type: ignore[arg-type]
        pool=Pool(answer),  # type: ignore[arg-type]
        contents=None,  # type: ignore[arg-type]
        channel_to=lambda _node: None,
    )
    spec = pb.TaskSpec(task_type="x")
    spec.attempt_timeout.FromSeconds(5)
    outcome = await runner.run(WHICH, spec)
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.retryable) == (reason, retryable)

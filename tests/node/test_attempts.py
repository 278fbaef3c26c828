"""What a worker sends about an attempt is what its leader accepts."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker.pool import AttemptFailed, AttemptSucceeded
from ipfs_cluster_node.client.content import AddedContent
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY
from ipfs_cluster_node.codec.tasks import outcome_from_proto, outcome_to_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
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
from ipfs_cluster_node.node import attempts
from ipfs_cluster_node.node.attempts import AttemptRunner, failed, nameless_file, sendable
from ipfs_cluster_node.v1 import content_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from tests.support.attempts import CID, WHICH, Pool, runner_of, spec_of, succeeded
from tests.support.dispatch import rpc_error
from tests.support.virtual_time import virtual_time


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
    outcome = await runner_of(Pool(answer)).run(WHICH, spec_of())
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.retryable) == (reason, retryable)


@pytest.mark.asyncio
@pytest.mark.parametrize("retryable", [False, True])
async def test_what_a_handler_fails_with_is_told_as_it_was_said(*, retryable: bool) -> None:
    said = AttemptFailed(
        reason=Reason.SQL_FAILED, message="words", retryable=retryable, output_tail="printed"
    )
    outcome = await runner_of(Pool(said)).run(WHICH, spec_of())
    assert outcome == AttemptOutcome(
        id=WHICH,
        failure=TaskFailure(Reason.SQL_FAILED, "words", "printed"),
        retryable=retryable,
    )


class Inputs:
    """What fetches and writes inputs: slowly, or of damaged blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 0.0) -> None:
        self.fetched: list[bool] = []
        self.seconds, self.failures = seconds, list[ClusterError]()
        monkeypatch.setattr(AttemptRunner, "_fetch", self._fetch)
        monkeypatch.setattr(attempts, "materialize", self._write)

    async def _fetch(self, cid: Any, attempt: AttemptId, *, check: bool = False) -> None:
        assert (cid, attempt) == (CID, WHICH)
        self.fetched.append(check)
        await asyncio.sleep(self.seconds)

    async def _write(self, cid: Any, _store: Any, name: str, *, directory: int) -> None:
        assert (cid, name, directory) == (CID, f"input-{len(self.fetched) - 1}", -1)
        if self.failures:
            self.fetched.pop()
            raise self.failures.pop()


@virtual_time
async def test_a_handler_has_the_time_that_fetching_its_inputs_left() -> None:
    with pytest.MonkeyPatch.context() as patch:
        inputs = Inputs(patch, seconds=1.5)
        pool = Pool(AttemptSucceeded(data=b"", content_type="", file=None))
        await runner_of(pool).run(WHICH, spec_of("a", "b"))
        [asked] = pool.asked
        assert asked.timeout.total_seconds() == 2.0
        assert {name: each.path.name for name, each in asked.inputs.items()} == {
            "a": "input-0",
            "b": "input-1",
        }
        inputs.fetched.clear()
        inputs.seconds = 4.0
        outcome = await runner_of(pool).run(WHICH, spec_of("a", "b"))
    assert outcome.failure is not None
    assert outcome.failure.reason is Reason.ATTEMPT_TIMED_OUT
    assert "the inputs were not here within 5 s" in outcome.failure.message
    assert not outcome.retryable
    assert len(pool.asked) == 1


@pytest.mark.asyncio
async def test_where_a_block_was_damaged_all_of_the_file_is_looked_at_and_fetched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = Inputs(monkeypatch)
    pool = Pool(AttemptSucceeded(data=b"", content_type="", file=None))
    inputs.failures = [ClusterError(Reason.CONTENT_NOT_FOUND, "a block is damaged")]
    looked: list[bool] = []
    fetch = AttemptRunner._fetch

    async def noted(self: Any, *given: Any, check: bool = False) -> None:
        looked.append(check)
        await fetch(*given, check=check)

    monkeypatch.setattr(AttemptRunner, "_fetch", noted)
    assert (await runner_of(pool).run(WHICH, spec_of("a"))).result is not None
    assert looked == [False, True]
    # Any other error is told, and only one is repaired.
    for failures in (
        [ClusterError(Reason.STORAGE_FULL, "full")],
        [ClusterError(Reason.CONTENT_NOT_FOUND, "gone")] * 2,
    ):
        inputs.fetched.clear()
        inputs.failures = list(failures)
        outcome = await runner_of(pool).run(WHICH, spec_of("a"))
        assert outcome.failure is not None
        assert outcome.failure.reason is failures[0].reason


class Cluster:
    """A leader that says who holds a file, and takes files."""

    targets = (
        ("h:1", NodeId("far")),
        ("h:2", NodeId("gone")),
        ("h:3", NodeId("near")),
        ("h:4", None),
    )

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def following(self, operation: Any, *, timeout: float) -> Any:
        assert timeout > 0
        return await operation(self, 3.0)

    def unary_unary(self, method: str, **_: Any) -> Any:
        async def call(request: Any, **options: Any) -> Any:
            assert method.endswith("StatContent")
            assert (request.cid, options["timeout"]) == (str(CID), 3.0)
            assert options["metadata"] == ((ATTEMPT_KEY, "t.1"),)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        return call

    unary_stream = stream_unary = unary_unary


@pytest.mark.asyncio
async def test_the_masters_that_hold_a_file_are_asked_first_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    async def fetch(_cid: Any, *, sources: Any, **_: Any) -> None:
        asked.append([each.name for each in sources])

    monkeypatch.setattr(attempts, "fetch", fetch)
    held = content_pb2.StatContentResponse()
    held.content.holders.add(node_id="near", endpoints=["h:3"])
    held.content.holders.add(node_id="far")  # Nobody knows where it is now.
    await runner_of(Pool(), Cluster(held))._fetch(CID, WHICH)
    # A file that the leader does not know may be there all the same: it lost a node just now.
    unknown = rpc_error(ClusterError(Reason.CONTENT_NOT_FOUND, "not here"))
    await runner_of(Pool(), Cluster(unknown))._fetch(CID, WHICH)
    assert asked == [["near", "far"], ["far", "near"]]
    with pytest.raises(ClusterError) as caught:
        refused = rpc_error(ClusterError(Reason.STALE_ATTEMPT, "taken back"))
        await runner_of(Pool(), Cluster(refused))._fetch(CID, WHICH)
    assert caught.value.reason is Reason.STALE_ATTEMPT


@pytest.mark.asyncio
async def test_a_result_is_a_file_if_it_is_too_long_to_be_sent_or_its_handler_made_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploaded: list[bytes] = []

    async def upload(_connection: Any, file: Any, **options: Any) -> AddedContent:
        assert options["metadata"] == ((ATTEMPT_KEY, "t.1"),)
        file.seek(0)
        uploaded.append(file.read())
        return AddedContent(str(CID), len(uploaded[-1]), ())

    monkeypatch.setattr(attempts, "upload", upload)
    short, long = bytes(RESULT_INLINE_BYTES_MAX), bytes(RESULT_INLINE_BYTES_MAX + 1)

    async def result_of(data: bytes, file: Any = None) -> TaskResult | None:
        pool = Pool(AttemptSucceeded(data=data, content_type="t", file=file), tmp_path)
        return (await runner_of(pool).run(WHICH, spec_of())).result

    def made(data: bytes, cid: str, size: int) -> TaskResult:
        return TaskResult(data=data, content_type="t", cid=cid, size_bytes=size)

    assert await result_of(short) == made(short, "", len(short))
    assert uploaded == []
    assert await result_of(long) == made(b"", str(CID), len(long))
    assert uploaded.pop() == long
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "own").write_bytes(b"own")
    with (tmp_path / "own").open("rb") as file:
        assert await result_of(short, file) == made(short, str(CID), 3)
        assert await result_of(long, file) is None  # No message holds it: a failure.
    assert uploaded == [b"own", b"own"]


@pytest.mark.asyncio
async def test_an_attempt_that_finds_its_worker_s_disk_full_is_handed_back() -> None:
    outcome = await runner_of(Pool(OSError(28, "full")), has_room=False).run(WHICH, spec_of())
    assert outcome.failure == TaskFailure(Reason.WORKER_LOST, "its worker's disk is full")
    assert (outcome.handed_back, outcome.retryable) == (True, True)

"""A task as people read it."""

from collections.abc import Iterator
from dataclasses import replace
from time import tzset
from typing import Any

import pytest

from ipfs_cluster_node.cli.task_text import LIST_COLUMNS, attempt_row, lines_of, list_row
from ipfs_cluster_node.cli.times import duration_text, local_time_text
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TaskInput, TaskState
from ipfs_cluster_node.core.views import (
    ListedAttempt,
    ListedFailure,
    ListedSpec,
    ListedTask,
    TaskStatus,
    TaskWaiting,
)

BEGIN_MS = 1_772_366_400_000
"""2026-03-01T12:00:00Z."""
TASK = ListedTask(
    task_id="t",
    spec=ListedSpec(
        task_type="data_processing",
        payload=b'{"sql": "SELECT *\\nFROM t"}',
        content_type="application/json",
        inputs=(TaskInput("t", "bafy", "csv"), TaskInput("u", "bafz")),
        attempt_timeout_ms=600_000,
        attempt_count_max=3,
        namespace="team-a/x",
        task_timeout_ms=7 * 86_400_000,
    ),
    status=TaskStatus(
        state=TaskState.FAILED,
        submitter_did="did:key:z",
        submitter_name="alice",
        node_id="12D3",
        node_name="worker-1",
        submitted_at_ms=BEGIN_MS,
        finished_at_ms=BEGIN_MS + 75_000,
        failure=ListedFailure(reason=Reason.SQL_FAILED, message="no"),
        failed_attempt_count=1,
        lost_attempt_count=1,
        request_id="r",
    ),
)


@pytest.fixture(autouse=True)
def _in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        tzset()
        yield
    tzset()


def said(task: ListedTask) -> list[tuple[str, str]]:
    return [(name, value) for name, value in lines_of(task, BEGIN_MS + 3_600_000) if value]


def test_times_are_local_and_durations_short() -> None:
    assert local_time_text(BEGIN_MS) == "2026-03-01 17:30:00 IST"
    for milliseconds, text in (
        (-5, "0 s"),
        (0, "0 s"),
        (350, "350 ms"),
        (3_210, "3.2 s"),
        (59_600, "1 min"),
        (3_725_000, "1 h 2 min"),
        (86_459_000, "1 d"),
        (8 * 86_400_000 + 7_200_000, "8 d 2 h"),
    ):
        assert duration_text(milliseconds) == text


def test_a_task_says_who_asked_what_and_when_it_ended() -> None:
    assert said(TASK) == [
        ("task", "t"),
        ("type", "data_processing"),
        ("namespace", "team-a/x"),
        ("state", "failed"),
        ("submitted", "2026-03-01 17:30:00 IST, 1 h ago"),
        ("by", "alice (did:key:z)"),
        ("request", "r"),
        ("time limit", "7 d in all, 10 min for an attempt"),
        ("failures", "1 of 3 attempts failed, 1 lost"),
        ("ended", "2026-03-01 17:31:15 IST, after 1 min 15 s"),
        ("input", "t = bafy (csv)"),
        ("input", "u = bafz"),
        ("sql", "SELECT *"),
        ("sql", "FROM t"),
    ]


def test_a_task_says_whether_its_result_is_kept() -> None:
    assert "result" not in dict(said(TASK))
    kept = replace(TASK, spec=replace(TASK.spec, keep_result=True))
    assert dict(said(kept))["result"] == "asked to be kept until it is removed with `content rm`"


def test_a_pending_task_says_what_it_waits_for_and_by_when_it_ends() -> None:
    status = TaskStatus(
        state=TaskState.PENDING,
        submitted_at_ms=BEGIN_MS,
        waiting=TaskWaiting(worker_count=1, slot_count=2, position=3, pending_count=4),
    )
    lines = dict(said(replace(TASK, status=status)))
    assert lines["waits"].startswith("3rd of 4 waiting tasks for 2 slots of 1 worker")
    assert lines["ends by"] == "2026-03-08 17:30:00 IST"
    assert "ended" not in lines


@pytest.mark.parametrize(
    ("task_type", "payload", "size", "shown"),
    [
        ("data_processing", b'{"parameters": {"sql": "SELECT 1"}}', 9, ("sql", "SELECT 1")),
        ("data_processing", b'{"sql": 3}', 9, ("payload", '{"sql": 3}')),
        ("data_processing", b"{", 9, ("payload", "1 bytes of text/plain")),
        ("echo", b"hello", 5, ("payload", "hello")),
        ("echo", b"\xff\xfe", 2, ("payload", "2 bytes of text/plain")),
        ("echo", None, 5000, ("payload", "5000 bytes")),
        ("echo", b"x" * 3000, 3000, ("payload", "x" * 2000 + "… (--json has it whole)")),
        ("echo", None, None, ("input", "u = bafz")),
    ],
)
def test_what_was_asked_is_shown_as_far_as_it_is_text(
    task_type: str, payload: bytes | None, size: int | None, shown: Any
) -> None:
    spec = replace(TASK.spec, task_type=task_type, payload=payload, content_type="text/plain")
    status = replace(TASK.status, payload_size_bytes=size)
    assert said(replace(TASK, spec=spec, status=status))[-1] == shown


def test_each_attempt_says_where_how_long_and_why_it_ended() -> None:
    failed = ListedAttempt(
        attempt=1,
        node_id="12D3",
        node_name="worker-1",
        assigned_at_ms=BEGIN_MS,
        ended_at_ms=BEGIN_MS + 1500,
        reason=Reason.WORKER_LOST,
        message="its worker was lost",
    )
    now_ms = BEGIN_MS + 60_000
    assert attempt_row(TASK, failed, now_ms) == (
        *("1", "worker-1", "2026-03-01 17:30:00 IST", "1.5 s"),
        "its worker was lost [WORKER_LOST]",
    )
    runs = replace(failed, node_name="", ended_at_ms=0, reason=None)
    assert attempt_row(TASK, runs, now_ms)[1::2] == ("12D3", "1 min")
    assert attempt_row(TASK, runs, now_ms)[-1] == "runs"
    ended = replace(runs, ended_at_ms=BEGIN_MS + 1)
    succeeded = replace(TASK, status=replace(TASK.status, state=TaskState.SUCCEEDED))
    assert attempt_row(succeeded, ended, now_ms)[-1] == "succeeded"


def test_a_row_of_the_list_has_names_age_and_duration() -> None:
    row = dict(zip(LIST_COLUMNS[1:], list_row(TASK, BEGIN_MS + 90_000, names=True), strict=True))
    assert (row["age"], row["took"], row["by"]) == ("1 min 30 s", "1 min 15 s", "alice")
    assert (row["node"], row["namespace"], row["failure"]) == ("worker-1", "team-a/x", "no")
    runs = replace(TASK, status=TaskStatus(state=TaskState.RUNNING, submitter_did="did:key:z"))
    row = dict(zip(LIST_COLUMNS[1:], list_row(runs, BEGIN_MS, names=True), strict=True))
    assert (row["took"], row["by"], row["failure"]) == ("", "did:key:z", "")
    assert list_row(TASK, BEGIN_MS, names=False)[5:7] == ("did:key:z", "12D3")

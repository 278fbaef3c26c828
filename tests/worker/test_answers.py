"""Each field of what a handler's process says has one type, one range and one place."""

import json
from typing import Any

import pytest

from ipfs_cluster_node.adapters.worker.answers import (
    FILE_CHARS_MAX,
    NODES_REASONS,
    FailureSaid,
    Identity,
    ProgressSaid,
    ProtocolError,
    ResultSaid,
    Said,
    parse,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import (
    CONTENT_TYPE_CHARS_MAX,
    MESSAGE_CHARS_MAX,
    NOTE_CHARS_MAX,
)

ASKED = Identity(task_id="t1", attempt=2, nonce="n3")
WHO = {"task_id": "t1", "attempt": 2, "nonce": "n3"}
PROGRESS = {**WHO, "kind": "progress", "ratio": 0.5, "note": "half"}
RESULT = {**WHO, "kind": "result", "content_type": "text/plain", "file": "out", "clean": True}
FAILURE = {
    **WHO,
    "kind": "failure",
    "reason": "SQL_FAILED",
    "message": "no such column",
    "retryable": False,
    "clean": False,
}


def said(fields: dict[str, Any], body: bytes = b"", **changed: Any) -> Said:
    return parse(json.dumps(fields | changed).encode(), body, ASKED)


def test_what_may_be_said_is_taken() -> None:
    assert said(PROGRESS) == ProgressSaid(0.5, "half")
    assert said(RESULT, b"data") == ResultSaid(b"data", "text/plain", "out", True)
    assert said(RESULT, file=None) == ResultSaid(b"", "text/plain", None, True)
    assert said(FAILURE) == FailureSaid(Reason.SQL_FAILED, "no such column", False, False)
    said(PROGRESS, ratio=1, note="x" * NOTE_CHARS_MAX)
    said(RESULT, content_type="x" * CONTENT_TYPE_CHARS_MAX, file="x" * FILE_CHARS_MAX)
    said(FAILURE, message="x" * MESSAGE_CHARS_MAX)


@pytest.mark.parametrize("frame", [PROGRESS, RESULT, FAILURE], ids=lambda frame: frame["kind"])
@pytest.mark.parametrize(
    "another", [{"task_id": "t2"}, {"attempt": 1}, {"attempt": 3}, {"nonce": "n4"}, {"nonce": ""}]
)
def test_an_answer_is_to_the_attempt_that_was_asked_about(
    frame: dict[str, Any], another: dict[str, Any]
) -> None:
    """The nonce alone tells an attempt from the same one that was begun before."""
    with pytest.raises(ProtocolError, match="another attempt"):
        said(frame, **another)


@pytest.mark.parametrize(
    ("frame", "changed"),
    [
        *((PROGRESS, {"ratio": ratio}) for ratio in (-0.1, 1.1, True, "0.5", None)),
        (PROGRESS, {"ratio": 10**400}),  # Too large for a float: no error of Python's gets out.
        (PROGRESS, {"note": "x" * (NOTE_CHARS_MAX + 1)}),
        (PROGRESS, {"note": "\ud800"}),
        (PROGRESS, {"attempt": True}),
        (PROGRESS, {"attempt": 2.0}),
        (RESULT, {"clean": 1}),
        (RESULT, {"clean": None}),
        (RESULT, {"content_type": "x" * (CONTENT_TYPE_CHARS_MAX + 1)}),
        (RESULT, {"file": "x" * (FILE_CHARS_MAX + 1)}),
        (RESULT, {"file": 0}),
        (RESULT, {"retryable": False}),
        (FAILURE, {"retryable": None}),
        (FAILURE, {"message": "x" * (MESSAGE_CHARS_MAX + 1)}),
        (FAILURE, {"reason": "NONE_OF_OURS"}),
        *((FAILURE, {"reason": reason.value}) for reason in sorted(NODES_REASONS)),
        (FAILURE, {"kind": "result"}),
        (FAILURE, {"kind": "confession"}),
    ],
)
def test_any_other_value_is_refused(frame: dict[str, Any], changed: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        said(frame, **changed)


def test_a_truth_value_is_no_attempt_number() -> None:
    first = Identity(task_id="t1", attempt=1, nonce="n3")
    header = json.dumps(RESULT | {"attempt": True}).encode()
    with pytest.raises(ProtocolError, match="not a whole number"):
        parse(header, b"", first)


def test_a_handler_gives_no_reason_by_which_the_cluster_takes_an_attempt_back() -> None:
    """A lost attempt is no failure of its task: it would run again and again."""
    assert {Reason.WORKER_LOST, Reason.TASK_CANCELLED, Reason.STALE_ATTEMPT} == NODES_REASONS


@pytest.mark.parametrize("frame", [PROGRESS, RESULT, FAILURE], ids=lambda frame: frame["kind"])
def test_no_field_may_be_missing(frame: dict[str, Any]) -> None:
    for name in frame:
        with pytest.raises(ProtocolError, match=f"without {name}"):
            said({key: value for key, value in frame.items() if key != name})


@pytest.mark.parametrize("frame", [PROGRESS, FAILURE], ids=lambda frame: frame["kind"])
def test_bytes_come_with_a_result_only(frame: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="sent bytes"):
        said(frame, b"x")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b"{" * 100_000,
        b"[" * 500_000,
        b"\xff",
        json.dumps(RESULT).encode()[:-1] + b', "clean": true}',
        json.dumps(PROGRESS | {"ratio": float("nan")}).encode(),
        json.dumps(PROGRESS).encode().replace(b"0.5", b"1e999"),
    ],
    ids=range(9),
)
def test_a_header_is_one_json_object_without_a_field_twice(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(header, b"", ASKED)

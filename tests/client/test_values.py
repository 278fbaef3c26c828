"""Payloads and results in plain Python, and errors that name what is accepted."""

import json
import traceback
from datetime import timedelta
from typing import Any

import pytest

from ipfs_cluster_node.cli.capture import CapturingConnection
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.submitted import SubmittedTask, TaskFailedError
from ipfs_cluster_node.client.tasks import task_spec
from ipfs_cluster_node.client.values import decoded, encoded
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import (
    PAYLOAD_BYTES_MAX,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.views import (
    ListedFailure,
    ListedResult,
    ListedSpec,
    ListedTask,
    TaskStatus,
)

SECOND = timedelta(seconds=1)
CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value", [b"", b"\xff\x00", "", "Zürich ☃", {"a": [1, None, "x"]}, [], [1.5, True]]
)
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    data, content_type = encoded(value)
    back = decoded(ListedResult(data=data, content_type=content_type))
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize("value", [bytearray(b"abc"), memoryview(b"abc")])
def test_all_that_holds_bytes_is_bytes(value: Any) -> None:
    assert encoded(value) == (b"abc", "application/octet-stream")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "the payload is None; give bytes, text, or a dict or list"),
        (3, "the payload is of type int: 3"),
        ({"a": object}, "can't be written as JSON"),
        ({"a": float("nan")}, "can't be written as JSON"),
        (CIRCLE, "can't be written as JSON"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_no_payload_holds_is_refused_with_the_way_out(value: Any, said: str) -> None:
    with pytest.raises(ClusterError, match=said) as caught:
        encoded(value)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_a_payload_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert len(encoded(bytes(PAYLOAD_BYTES_MAX))[0]) == PAYLOAD_BYTES_MAX
    with pytest.raises(ClusterError) as caught:
        encoded(bytes(PAYLOAD_BYTES_MAX + 1))
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(
    ("data", "content_type", "value"),
    [
        (b"null", "application/json", None),
        (b"{", "application/json", b"{"),
        (b"[" * 100_000, "application/json", b"[" * 100_000),
        (b"1", "Application/JSON; charset=utf-8", 1),
        (b"a", "text/csv", "a"),
        (b"\xff", "text/plain", b"\xff"),
        (b"{}", "application/octet-stream", b"{}"),
    ],
)
def test_a_result_is_what_its_content_type_says_or_bytes(
    data: bytes, content_type: str, value: Any
) -> None:
    assert decoded(ListedResult(data=data, content_type=content_type)) == value


def test_a_result_with_a_file_keeps_its_cid() -> None:
    result = ListedResult(data=b"{}", content_type="application/json", cid="bafy", size_bytes=9)
    assert decoded(result) is result


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (lambda c: c.get_snapshot("bogus"), "there is no table 'bogus'; give one of nodes, tasks"),
        (lambda c: c.get_snapshot(None), "there is no table None"),
        (lambda c: c.submit_task("echo", None), "the payload is None"),
        (lambda c: c.submit_task(3), "task_type: it is of type int: 3; give text"),
        (lambda c: c.submit_task("echo", inputs=["x"]), "inputs: one is of type str: 'x'"),
        (lambda c: c.submit_task("echo", inputs=[("x", 1)]), "inputs: it is of type int: 1"),
        (
            lambda c: c.submit_task("echo", priority=10),
            "priority: it is of type int: 10; give 0 to",
        ),
        (lambda c: c.submit_task("echo", attempt_timeout=5), "attempt_timeout: .*give a timedelta"),
        (lambda c: c.submit_task("echo", namespace=None), "namespace: it is None; give text"),
        (lambda c: c.submit_task("echo", request_id=b"\xff"), "request_id: it can't be"),
        (lambda c: c.submit_tasks(["echo"]), "specs: one is of type str: 'echo'; make each by"),
        (lambda c: c.get_task(None, timeout=5), "timeout: it is of type int: 5; give a timedelta"),
        (lambda c: c.get_task(3), "task_id: it can't be of type int: 3"),
        (lambda c: c.list_tasks(states=["done"]), "'done' is not a valid TaskState; give some of"),
        (lambda c: c.wait_tasks("abc"), "task_ids: it is of type str: 'abc'; give a list of ids"),
        (lambda c: c.wait_tasks([1]), "task_ids: it is of type int: 1"),
        (lambda c: c.add_content(3), "path: it is of type int: 3; give the path of a file"),
        (lambda c: c.stat_content(3), "cid: it can't be of type int: 3"),
        (lambda c: anext(c.get_content(3)), "cid: it is of type int: 3"),
    ],
)
async def test_a_wrong_argument_is_an_error_with_a_reason(operation: Any, said: str) -> None:
    """The bare errors of gRPC and protobuf did not say what is accepted."""
    client = Client(CapturingConnection())
    with pytest.raises(ClusterError, match=said) as caught:
        await operation(client)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


def test_a_spec_is_a_value_of_the_core() -> None:
    spec = task_spec("echo", {"a": 1}, attempt_timeout=2 * SECOND, inputs=[("t", "cid")])
    assert isinstance(spec, TaskSpec)
    assert (json.loads(spec.payload), spec.attempt_timeout_ms) == ({"a": 1}, 2000)
    assert [(each.name, each.cid, each.format) for each in spec.inputs] == [("t", "cid", "")]


class Ended:
    """A client that knows how a task ended, and counts its calls."""

    def __init__(self, **how: Any) -> None:
        self.how, self.count = how, 0

    async def wait_tasks(self, task_ids: Any, *, timeout: timedelta) -> dict[str, ListedTask]:
        self.count += 1
        [task_id] = task_ids
        spec = ListedSpec(task_type="echo")
        return {task_id: ListedTask(task_id=task_id, spec=spec, status=TaskStatus(**self.how))}

    async def cancel_task(self, task_id: str) -> None:
        raise AssertionError


@pytest.mark.asyncio
async def test_a_result_is_waited_for_once() -> None:
    client = Ended(state=TaskState.SUCCEEDED, result=ListedResult(data=b"x"))
    task = SubmittedTask("t", client)
    assert [await task.result(), await task.result()] == [b"x", b"x"]
    assert client.count == 1


@pytest.mark.asyncio
async def test_a_failed_task_raises_its_reason_its_words_and_the_handlers_traceback() -> None:
    tail = "Traceback (most recent call last):\n  File handler.py\nZeroDivisionError: by 0\n"
    failure = ListedFailure(
        reason=Reason.HANDLER_FAILED, message="ZeroDivisionError: by 0", output_tail=tail
    )
    with pytest.raises(TaskFailedError) as caught:
        await SubmittedTask("t", Ended(state=TaskState.FAILED, failure=failure)).result()
    error = caught.value
    assert (error.reason, str(error)) == (Reason.HANDLER_FAILED, "ZeroDivisionError: by 0")
    assert error.output_tail == tail
    assert error.task.task_id == "t"
    said = "".join(traceback.format_exception(error))
    assert "task t, echo: HANDLER_FAILED" in said
    assert "File handler.py" in said


@pytest.mark.asyncio
async def test_a_cancelled_task_raises_that_it_was_cancelled() -> None:
    with pytest.raises(TaskFailedError, match="t was cancelled") as caught:
        await SubmittedTask("t", Ended(state=TaskState.CANCELLED)).result()
    assert caught.value.reason is Reason.TASK_CANCELLED

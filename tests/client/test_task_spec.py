"""A task's specification, as the client makes it."""

from datetime import timedelta

import pytest

from ipfs_cluster_node.cli.capture import CapturedCall, CapturingConnection
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.tasks import task_spec
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.v1.task_dispatch_pb2 import SubmitTaskRequest

HALF = "a\ud800"


@pytest.mark.parametrize(
    "given",
    [
        {"task_type": "echo", "payload": HALF},
        {"task_type": HALF},
        {"task_type": "echo", "namespace": HALF},
        {"task_type": "echo", "inputs": [(HALF, "cid")]},
        {"task_type": "echo", "inputs": [("name", HALF)]},
        {"task_type": "echo", "inputs": [("name", "cid", HALF)]},
    ],
)
def test_text_that_utf_8_cannot_hold_is_an_invalid_argument(given: dict[str, object]) -> None:
    with pytest.raises(ClusterError) as caught:
        task_spec(**given)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert "surrogate" in str(caught.value)


@pytest.mark.parametrize("wrong", [0, 21, None, "3", 1.0, True])
def test_a_number_of_attempts_is_1_to_20(wrong: object) -> None:
    with pytest.raises(ClusterError) as caught:
        task_spec("echo", attempt_count_max=wrong)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert "give 1 to 20" in str(caught.value)
    assert task_spec("echo", attempt_count_max=20).attempt_count_max == 20


@pytest.mark.asyncio
async def test_a_task_is_submitted_with_all_that_was_asked() -> None:
    with pytest.raises(CapturedCall) as captured:
        await Client(CapturingConnection()).submit_task(
            "echo",
            "x",
            attempt_timeout=timedelta(seconds=2),
            task_timeout=timedelta(seconds=3),
            attempt_count_max=4,
            priority=5,
            namespace="team-a",
            keep_result=True,
            request_id="r" * 16,
        )
    request = SubmitTaskRequest.FromString(captured.value.request)
    spec = request.spec
    assert (spec.attempt_timeout.seconds, spec.task_timeout.seconds) == (2, 3)
    assert (spec.attempt_count_max, spec.priority, spec.namespace) == (4, 5, "team-a")
    assert spec.keep_result
    assert request.request_id == "r" * 16


@pytest.mark.parametrize("wrong", [1, "true", None])
def test_whether_a_result_is_kept_is_true_or_false(wrong: object) -> None:
    assert task_spec("echo", keep_result=True).keep_result
    with pytest.raises(ClusterError, match="give True or False"):
        task_spec("echo", keep_result=wrong)  # type: ignore[arg-type]

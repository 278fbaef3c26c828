"""A task's specification, as the client makes it."""

import pytest

from ipfs_cluster_node.client.tasks import task_spec
from ipfs_cluster_node.core.errors import ClusterError, Reason

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

"""Counts are checked before any element is read."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, overload

import pytest

from ipfs_cluster_node.codec.members import endpoints_of, task_types_of
from ipfs_cluster_node.codec.submissions import Submission, inputs_from_proto
from ipfs_cluster_node.codec.tasks import states_from_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import (
    ENDPOINTS_MAX,
    STATES_MAX,
    SUBMISSION_TASKS_MAX,
    TASK_INPUTS_MAX,
    TASK_TYPES_MAX,
)


class Unread(Sequence[Any]):
    """So many, of which none may be read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("read before it was counted")

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        raise AssertionError("read before it was counted")


def inputs_of(inputs: Any) -> object:
    spec: Any = SimpleNamespace(inputs=inputs, payload=b"")
    return inputs_from_proto(spec, "spec")


@pytest.mark.parametrize(
    ("read", "most"),
    [
        (states_from_proto, STATES_MAX),
        (task_types_of, TASK_TYPES_MAX),
        (endpoints_of, ENDPOINTS_MAX),
        (inputs_of, TASK_INPUTS_MAX),
        (lambda specs: Submission(specs, "specs", "").check_size(), SUBMISSION_TASKS_MAX),
    ],
)
def test_too_many_are_refused_unread(read: Callable[[Any], object], most: int) -> None:
    """Four million states, or task types, were each looked up before the answer."""
    with pytest.raises(ClusterError, match=f"{most}") as refused:
        read(Unread(most + 1))
    assert refused.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(AssertionError):
        read(Unread(most))

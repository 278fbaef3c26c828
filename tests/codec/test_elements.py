"""Elements of a message are counted on the wire as they will be built."""

import pytest

from ipfs_cluster_node.codec.elements import count_elements
from ipfs_cluster_node.v1 import membership_pb2, task_dispatch_pb2
from ipfs_cluster_node.worker.v1 import worker_pb2 as w

t = task_dispatch_pb2
MOST = 1000


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (t.WatchTasksRequest(), 0),
        (t.WatchTasksRequest(task_ids=["a", "", "b" * 300]), 3),
        (t.ListTasksRequest(states=[t.TASK_STATE_PENDING] * 3), 1 + 3),  # Packed.
        (membership_pb2.ProposeConfigRequest(values={"a": "1", "b": "2"}), 2),
        (
            t.SubmitTasksRequest(
                specs=[t.TaskSpec(), t.TaskSpec(payload=b"x" * 500, inputs=[t.TaskInput()] * 3)]
            ),
            2 + 1 + 3,
        ),
        (w.WorkerSessionRequest(hello=w.WorkerHello(attempts=[w.AttemptId(attempt=5)] * 4)), 1 + 4),
        (t.GetTaskRequest(task_id="x"), 1),
    ],
)
def test_elements_are_counted_at_every_depth(message: object, count: int) -> None:
    data = message.SerializeToString()  # type: ignore[attr-defined]
    descriptor = message.DESCRIPTOR  # type: ignore[attr-defined]
    assert count_elements(data, descriptor, MOST) == count


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x00" * 2**21,
        b"\x78\x00" * 2**21,  # A field that is not known.
        b"\x12\x80\x80\x80\x01" + b"\x22\x00" * 2**20,
        b"\x7b\x7c" * 2**20,  # Groups.
        b"\x0a\x00" * 2**20,  # The same field again and again.
    ],
)
def test_counting_ends_soon_after_the_bound(data: bytes) -> None:
    assert MOST < count_elements(data, t.SubmitTasksRequest.DESCRIPTOR, MOST) <= MOST + 1


def test_packed_numbers_beyond_the_bound_are_found() -> None:
    data = t.ListTasksRequest(states=[t.TASK_STATE_PENDING] * 2**20).SerializeToString()
    assert count_elements(data, t.ListTasksRequest.DESCRIPTOR, MOST) > MOST


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x12",
        b"\x12\x05\x00",
        b"\x12" + b"\xff" * 11,
        # A length of 2 if bits beyond 64 are dropped.
        b"\x12" + b"\x82" + b"\x80" * 8 + b"\x02" + b"\x22\x00",
        b"\x0d\x00",
        b"\x0e",
        b"\x12\x02\x0a\x01",
    ],
)
def test_what_is_no_message_is_never_taken_as_counted(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"malformed|early"):
        count_elements(data, t.SubmitTasksRequest.DESCRIPTOR, MOST)

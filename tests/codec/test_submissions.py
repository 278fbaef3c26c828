"""Submitted tasks are decoded once, for policies and for the log."""

from typing import Any

import pytest

from ipfs_cluster_node.access.requirements import RequestContext
from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.codec import submissions
from ipfs_cluster_node.codec.submissions import Submission
from ipfs_cluster_node.core.authorization import alternatives, distinct
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from tests.support.large_cluster import cid_of

ALICE = did_from_public_key(bytes(32))
SPECS = [
    pb.TaskSpec(task_type=f"t{n}", inputs=[pb.TaskInput(name="a", cid=cid_of(n))]) for n in range(5)
]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fields that were decoded."""
    fields: list[str] = []
    decode = submissions._spec_from_proto

    def counted(message: pb.TaskSpec, field: str) -> Any:
        fields.append(field)
        return decode(message, field)

    monkeypatch.setattr(submissions, "_spec_from_proto", counted)
    return fields


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("SubmitTask", pb.SubmitTaskRequest(spec=SPECS[0]), ["spec"]),
        ("SubmitTasks", pb.SubmitTasksRequest(specs=SPECS), [f"specs[{n}]" for n in range(5)]),
    ],
)
def test_what_is_judged_is_what_is_stored(
    method: str, request_: Any, fields: list[str], decoded: list[str]
) -> None:
    """Two functions decoded a request, and had to agree."""
    rule = RULES_BY_METHOD[f"/ipfs_cluster_node.v1.TaskDispatchService/{method}"]
    assert rule.decode is not None
    assert rule.required is not None
    submission = rule.decode(request_)
    assert decoded == []
    required = list(
        rule.required(submission, RequestContext(ALICE, node_id_from_did(ALICE), ClusterState()))
    )
    judged = [list(distinct(each.each)) for each in required]
    assert [len(args) for args in judged] == [len(fields)] * 2
    stored = list(submission)
    assert decoded == fields
    assert [spec.task_type for spec in stored] == [
        args["task_type"] for [args] in map(alternatives, judged[0])
    ]
    assert all(a is b for a, b in zip(stored, submission, strict=True))


def test_no_more_is_decoded_than_is_needed(decoded: list[str]) -> None:
    """A caller that is refused at the first task, or has no permissions, costs little."""
    submission = Submission(SPECS, "specs", "r")
    submission.check_size()
    assert submission.has_inputs()
    assert next(iter(submission)).task_type == "t0"
    assert decoded == ["specs[0]"]
    assert len(list(submission)) == 5
    assert decoded == [f"specs[{n}]" for n in range(5)]


def test_a_bad_task_is_refused_at_each_pass() -> None:
    submission = Submission([SPECS[0], pb.TaskSpec(task_type="/")], "specs", "r")
    for _ in range(2):
        with pytest.raises(ClusterError) as refused:
            list(submission)
        assert [v.field for v in refused.value.violations] == ["specs[1].task_type"]


def test_the_inputs_of_any_task_are_seen_whatever_was_decoded_before() -> None:
    """Inputs that are overlooked are not authorized."""
    plain = pb.TaskSpec(task_type="t")
    submission = Submission([plain, SPECS[0]], "specs", "r")
    assert submission.has_inputs()
    assert not next(iter(submission)).inputs
    assert submission.has_inputs()
    assert list(submission)
    assert submission.has_inputs()
    assert not Submission([plain, plain], "specs", "r").has_inputs()


def test_a_request_of_other_tasks_has_another_fingerprint() -> None:
    """It identifies a repeat, so different tasks must not have one fingerprint."""
    both = pb.TaskSpec(task_type="t", payload=b"p")
    requests = ([both], [both, both], [pb.TaskSpec(task_type="t"), pb.TaskSpec(payload=b"p")])
    prints = {Submission(specs, "specs", "r").fingerprint() for specs in requests}
    assert len(prints) == len(requests)

"""Each column has the value that its name says, and a wrong declaration is refused.

A column that is added needs no line here.
"""

from dataclasses import replace
from typing import Any

import pytest

from ipfs_cluster_node.cli.state_commands import STATE_TABLES
from ipfs_cluster_node.core.authorization import (
    ROW_UNKNOWN,
    alternatives,
    content_args,
    member_args,
    row_args_function,
    task_args,
)
from ipfs_cluster_node.core.columns import Column, Kind, Schema
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import (
    Content,
    Liveness,
    Principal,
    Role,
    Task,
    TaskFailure,
    TaskResult,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.schemas import CONTENT, NODES, SCHEMAS, TASKS
from ipfs_cluster_node.v1 import state_delta_pb2

ALICE, MASTER = (did_from_public_key(bytes([n]) * 32) for n in (1, 2))
NODE = node_id_from_did(MASTER)
PRINCIPAL = Principal(
    did=MASTER,
    name="m",
    role=Role.MASTER,
    endpoints=("m:9096", "m:9097"),
    liveness=Liveness.ALIVE,
    task_types=("echo", "sql"),
    slot_count=4,
    version="0.1",
    enrolled_at_ms=11,
    liveness_at_ms=12,
)
PENDING = Task(
    task_id=TaskId("t"),
    sequence=1,
    spec=TaskSpec(task_type="echo", namespace="team-a", priority=3),
    submitter=ALICE,
    submitted_at_ms=21,
)
ENDED = replace(PENDING, attempt=2, node_id=NODE, assigned_at_ms=22, finished_at_ms=23)
FAILURE = TaskFailure(Reason.HANDLER_FAILED, "it broke")
FILE = Content(cid="bafy", size_bytes=5, holders=(NODE,), name="f", added_at_ms=31)


def row(schema: Schema, *parts: Any) -> Any:
    names = [column.name for column in schema.columns]
    return dict(zip(names, schema.row_function()(*parts), strict=True)).items()


def test_a_node() -> None:
    assert (
        row(NODES, PRINCIPAL, True, 1)
        >= {
            "node_id": NODE,
            "name": "m",
            "role": "master",
            "liveness": "alive",
            "endpoints": ("m:9096", "m:9097"),
            "voter": True,
            "task_types": ("echo", "sql"),
            "slot_count": 4,
            "running_attempt_count": 1,
            "version": "0.1",
            "enrol_time": 11,
            "liveness_time": 12,
        }.items()
    )


def test_a_task() -> None:
    pending = {
        "task_id": "t",
        "task_type": "echo",
        "namespace": "team-a",
        "state": "pending",
        "submitter": ALICE,
        "attempt": 0,
        "node_id": None,
        "priority": 3,
        "submit_time": 21,
        "assign_time": None,
        "finish_time": None,
        "result_cid": None,
        "result_size_bytes": None,
        "failure_reason": None,
        "failure_message": None,
    }
    assert row(TASKS, PENDING) >= pending.items()
    ended = {**pending, "attempt": 2, "node_id": NODE, "assign_time": 22, "finish_time": 23}
    stored = replace(
        ENDED, state=TaskState.SUCCEEDED, result=TaskResult(cid="bafy", size_bytes=70_000)
    )
    succeeded = {**ended, "state": "succeeded", "result_size_bytes": 70_000}
    assert row(TASKS, stored) >= {**succeeded, "result_cid": "bafy"}.items()
    inline = replace(stored, result=TaskResult(data=b"x", size_bytes=0))
    assert row(TASKS, inline) >= {**succeeded, "result_size_bytes": 0}.items()
    failed = replace(ENDED, state=TaskState.FAILED, failure=FAILURE)
    told = {"failure_reason": "HANDLER_FAILED", "failure_message": "it broke"}
    assert row(TASKS, failed) >= {**ended, "state": "failed", **told}.items()
    # An attempt failed, and the task will be tried again.
    assert row(TASKS, replace(PENDING, failure=FAILURE)) >= pending.items()


def test_a_file() -> None:
    assert (
        row(CONTENT, FILE, NODE, ("team-a", "team-b"))
        >= {
            "cid": "bafy",
            "node_id": NODE,
            "size_bytes": 5,
            "name": "f",
            "add_time": 31,
            "namespaces": ("team-a", "team-b"),
        }.items()
    )


def test_what_policies_judge_comes_in_one_order() -> None:
    """`auth explain` prints it so, and a policy over all arguments meets them so."""
    order = ["table", *ROW_UNKNOWN]
    for schema, item, parts in (
        (NODES, member_args(PRINCIPAL), (PRINCIPAL,)),
        (TASKS, task_args(PENDING, ALICE), (PENDING, ALICE)),
        (CONTENT, alternatives(content_args("bafy", FILE))[0], (FILE,)),
    ):
        assert list(item) == [name for name in order if name in schema.arguments]
        judged = row_args_function(schema)(*parts)
        assert list(judged) == order
        assert judged == {"table": schema.name, **ROW_UNKNOWN, **item}
    assert list(task_args(None, ALICE)) == list(task_args(PENDING, ALICE))
    assert list(content_args("bafy", None)) == list(content_args("bafy", FILE))


def test_every_table_is_in_the_proto_and_on_the_command_line() -> None:
    names = [schema.name for schema in SCHEMAS]
    assert list(STATE_TABLES) == names
    assert state_delta_pb2.StateTable.keys()[1:] == [f"STATE_TABLE_{n.upper()}" for n in names]
    for schema in SCHEMAS:
        assert schema.arguments <= ROW_UNKNOWN.keys()
        assert len({column.name for column in schema.columns}) == len(schema.columns)


@pytest.mark.parametrize(
    "column",
    [
        Column("x", Kind.STRING, "task.nothing"),
        Column("x", Kind.STRING, "task.spec.nothing"),
        Column("x", Kind.STRING, "task.attempt"),
        Column("x", Kind.INT32, "task.task_id"),
        Column("x", Kind.STRING, "task.failure.reason.value"),
        Column("x", Kind.STRINGS, "task.spec.inputs"),
    ],
    ids=lambda column: f"{column.kind.name} {column.path}",
)
def test_a_path_that_does_not_lead_to_a_value_of_its_kind_is_an_error(column: Column) -> None:
    with pytest.raises(TypeError):
        Schema("x", {"task": Task}, (column,)).row_function()

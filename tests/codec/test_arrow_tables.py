"""Tables of the state, row by row, while the state goes on."""

from collections.abc import Iterator
from typing import Any

import pytest

from ipfs_cluster_node.codec import arrow_tables
from ipfs_cluster_node.codec.arrow_tables import SnapshotReader, SnapshotWriter, table_rows
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.ids import NodeId, TaskId, did_from_public_key, node_id_from_did
from ipfs_cluster_node.core.model import Principal, Role, TaskSpec
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import state_delta_pb2 as pb

ALICE, MASTER = (did_from_public_key(bytes([n]) * 32) for n in (1, 2))
NODE = node_id_from_did(MASTER)
COUNT = 1300
"""More than two batches."""


def do(state: ClusterState, body: c.CommandBody) -> None:
    state.apply(c.LogCommand(at_ms=1_000, body=body, caller=ALICE))


def add_tasks(state: ClusterState, *numbers: int) -> None:
    ids = tuple(TaskId(f"t{n}") for n in numbers)
    specs = tuple(TaskSpec(task_type="echo", namespace=f"n{n % 3}") for n in numbers)
    do(state, c.SubmitTasks(task_ids=ids, specs=specs, fingerprint=b"f"))


def add_files(state: ClusterState, *numbers: int) -> None:
    for number in numbers:
        body = c.AddContent(cid=f"c{number}", size_bytes=number, holders=(NODE,), name="f")
        do(state, body)


@pytest.fixture
def state() -> ClusterState:
    state = ClusterState()
    node = Principal(
        did=MASTER,
        name="m",
        role=Role.MASTER,
        task_types=("echo",),
        enrolled_at_ms=1,
        liveness_at_ms=1,
    )
    do(
        state,
        c.BootstrapCluster(cluster_id="c", cluster_name="c", cluster_did=ALICE, principals=(node,)),
    )
    add_tasks(state, *range(COUNT))
    add_files(state, *range(COUNT))
    return state


def read(table: int, rows: Iterator[Any]) -> Any:
    writer, reader = SnapshotWriter(table), SnapshotReader()
    for row in rows:
        if row is not None:
            writer.add(row)
    for frame in writer.frames(7):
        assert len(frame.payload) <= 2 * arrow_tables.FRAME_BYTES
        reader.feed(frame)
    assert reader.applied_index == 7
    return reader.table()


def rows_of(state: ClusterState, table: int, allows: Any = lambda _args: True) -> Iterator[Any]:
    return table_rows(table, state, [NodeId(NODE)], caller=ALICE, allows=allows)


def test_a_table_is_as_of_when_it_was_asked_for(state: ClusterState) -> None:
    """It is made in slices, between which commands are applied."""
    for table, key, change in (
        (pb.STATE_TABLE_TASKS, "task_id", add_tasks),
        (pb.STATE_TABLE_CONTENT, "cid", add_files),
    ):
        rows = rows_of(state, table)
        first = [next(rows) for _ in range(10)]
        change(state, COUNT, COUNT + 1)
        got = read(table, iter([*first, *rows]))
        assert got[key].to_pylist() == [f"{key[0]}{n}" for n in range(COUNT)]
    nodes = read(pb.STATE_TABLE_NODES, rows_of(state, pb.STATE_TABLE_NODES))
    assert nodes["node_id"].to_pylist() == [NODE]
    assert nodes["voter"].to_pylist() == [True]


def test_what_may_not_be_read_gives_the_loop_its_turns_too(state: ClusterState) -> None:
    rows = list(rows_of(state, pb.STATE_TABLE_TASKS, lambda args: args["namespace"] == "n1"))
    assert len(rows) == COUNT
    shown = read(pb.STATE_TABLE_TASKS, iter(rows))
    assert set(shown["namespace"].to_pylist()) == {"n1"}


def test_an_empty_table_is_one_frame() -> None:
    assert read(pb.STATE_TABLE_TASKS, iter(())).num_rows == 0

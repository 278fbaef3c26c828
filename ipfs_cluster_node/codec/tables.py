"""The state as Arrow tables, and the frames they travel in.

Each frame holds one record batch message without its schema, which comes once, with a fingerprint
in every frame: a batch read with another schema would be silent garbage. A reader checks the CRC,
then the fingerprint, then validates the batch fully before it touches a value: a mutated message
crashes Arrow otherwise.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any, Final

import pyarrow as pa

from ipfs_cluster_node.core.authorization import (
    Args,
    content_args,
    member_args,
    row_args,
    task_args,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.model import Content, Principal, Task, TaskState
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import state_delta_pb2 as pb

FRAME_BYTES: Final = 256 * 1024
BATCH_ROWS: Final = 512
"""Encoded together: some 2 ms."""
TABLE_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
PARTS_MAX: Final = 65_536

_TIME: Final = pa.timestamp("ms", tz="UTC")


def _schema(name: str, *fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(fields, metadata={"table": name, "version": "1"})


SCHEMAS: Final[dict[int, pa.Schema]] = {
    pb.STATE_TABLE_NODES: _schema(
        "nodes",
        ("node_id", pa.string()),
        ("name", pa.string()),
        ("role", pa.string()),
        ("liveness", pa.string()),
        ("endpoints", pa.list_(pa.string())),
        ("voter", pa.bool_()),
        ("task_types", pa.list_(pa.string())),
        ("slot_count", pa.int32()),
        ("running_attempt_count", pa.int32()),
        ("version", pa.string()),
        ("enrol_time", _TIME),
        ("liveness_time", _TIME),
    ),
    pb.STATE_TABLE_TASKS: _schema(
        "tasks",
        ("task_id", pa.string()),
        ("task_type", pa.string()),
        ("namespace", pa.string()),
        ("state", pa.string()),
        ("submitter", pa.string()),
        ("attempt", pa.int32()),
        ("node_id", pa.string()),
        ("priority", pa.int32()),
        ("submit_time", _TIME),
        ("assign_time", _TIME),
        ("finish_time", _TIME),
        ("result_cid", pa.string()),
        ("result_size_bytes", pa.int64()),
        ("failure_reason", pa.string()),
        ("failure_message", pa.string()),
    ),
    pb.STATE_TABLE_CONTENT: _schema(
        "content",
        ("cid", pa.string()),
        ("node_id", pa.string()),
        ("size_bytes", pa.int64()),
        ("name", pa.string()),
        ("add_time", _TIME),
    ),
}


Allows = Callable[[Args], bool]
"""Whether an item with these arguments may be read."""


Row = tuple[Any, ...]


def table_rows(
    table: int,
    state: ClusterState,
    voters: Iterable[NodeId],
    *,
    caller: Did,
    allows: Allows,
) -> Iterator[Row | None]:
    """Take a table out of the state, as far as `caller` may read it; None for each row else.

    What it gives is as of now, however late the rows are asked for.

    Args:
        table: A `StateTable`.
        state: As of now.
        voters: Who votes.
        caller: Who reads.
        allows: Whether a row may be read, by its arguments.

    Raises:
        ClusterError: INVALID_ARGUMENT for an unknown table.
    """
    if table == pb.STATE_TABLE_NODES:
        nodes = tuple((n, state.tasks.running_count(n.node_id)) for n in state.members.nodes())
        return _node_rows(nodes, frozenset(voters), allows)
    if table == pb.STATE_TABLE_TASKS:
        return _task_rows(state.tasks.copy(), caller, allows)
    if table == pb.STATE_TABLE_CONTENT:
        return _content_rows(state, tuple(state.contents.values()), allows)
    raise invalid_field("table", "nodes, tasks or content")


def _node_rows(
    nodes: Iterable[tuple[Principal, int]], voters: frozenset[NodeId], allows: Allows
) -> Iterator[Row | None]:
    for node, running_count in nodes:
        if not allows(row_args("nodes", member_args(node))):
            yield None
            continue
        yield (
            node.node_id,
            node.name,
            node.role.value,
            node.liveness.value,
            list(node.endpoints),
            node.node_id in voters,
            list(node.task_types),
            node.slot_count,
            running_count,
            node.version,
            node.enrolled_at_ms,
            node.liveness_at_ms,
        )


def _task_rows(tasks: Iterable[Task], caller: Did, allows: Allows) -> Iterator[Row | None]:
    for task in tasks:
        if not allows(row_args("tasks", task_args(task, caller))):
            yield None
            continue
        ended = task.state is TaskState.FAILED and task.failure is not None
        yield (
            task.task_id,
            task.spec.task_type,
            task.spec.namespace,
            task.state.value,
            task.submitter,
            task.attempt,
            task.node_id,
            task.spec.priority,
            task.submitted_at_ms,
            task.assigned_at_ms or None,
            task.finished_at_ms or None,
            task.result.cid or None if task.result else None,
            task.result.size_bytes if task.result else None,
            task.failure.reason.value if ended and task.failure else None,
            task.failure.message if ended and task.failure else None,
        )


def _content_rows(
    state: ClusterState, contents: Iterable[Content], allows: Allows
) -> Iterator[Row | None]:
    for content in contents:
        if not allows(row_args("content", content_args(content.cid, content))):
            yield None
            continue
        for holder in state.holders_of(content):
            yield content.cid, holder, content.size_bytes, content.name, content.added_at_ms


class SnapshotWriter:
    """Encodes a table in frames, a few rows at a time."""

    def __init__(self, table: int) -> None:
        """Begin one of this schema."""
        self._schema = SCHEMAS[table]
        self._rows: list[Row] = []
        self._payloads: list[bytes] = []

    def add(self, row: Row) -> None:
        """Take the next row."""
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._encode()

    def _encode(self) -> None:
        columns = zip(*self._rows, strict=True)
        self._rows = []
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(values, type=field.type)
                for values, field in zip(columns, self._schema, strict=True)
            ],
            schema=self._schema,
        )
        rows_per_part = max(1, batch.num_rows * FRAME_BYTES // max(1, batch.nbytes))
        self._payloads += [
            batch.slice(start, rows_per_part).serialize().to_pybytes()
            for start in range(0, batch.num_rows, rows_per_part)
        ]

    def frames(self, applied_index: int) -> Iterator[pb.GetSnapshotResponse]:
        """All frames, once every row is there."""
        if self._rows:
            self._encode()
        payloads = self._payloads or [b""]
        schema = self._schema.serialize().to_pybytes()
        for part, payload in enumerate(payloads):
            yield pb.GetSnapshotResponse(
                applied_index=applied_index,
                schema_fingerprint=sha256(schema).digest()[:8],
                schema=schema if part == 0 else b"",
                part=part,
                part_count=len(payloads),
                payload=payload,
                payload_crc32=zlib.crc32(payload),
            )


class SnapshotReader:
    """Puts a table together from its frames, trusting none of them."""

    def __init__(self) -> None:
        """Expect part 0."""
        self._schema: pa.Schema | None = None
        self._fingerprint = b""
        self._batches: list[pa.RecordBatch] = []
        self._part = 0
        self._part_count = 1
        self._size_bytes = 0
        self.applied_index = 0

    def feed(self, frame: pb.GetSnapshotResponse) -> None:
        """Take the next frame.

        Raises:
            ClusterError: BLOCK_MISMATCH for a damaged, missing or foreign frame.
        """
        if frame.part == 0 and self._part == 0:
            self._begin(frame)
        self._size_bytes += len(frame.payload)
        if (
            frame.part != self._part
            or frame.part_count != self._part_count
            or frame.applied_index != self.applied_index
            or frame.schema_fingerprint != self._fingerprint
            or zlib.crc32(frame.payload) != frame.payload_crc32
            or self._size_bytes > TABLE_BYTES_MAX
        ):
            raise _damaged()
        if frame.payload:
            try:
                batch = pa.ipc.read_record_batch(pa.py_buffer(frame.payload), self._schema)
                batch.validate(full=True)
            except (pa.ArrowException, ValueError) as error:
                raise _damaged() from error
            self._batches.append(batch)
        self._part += 1

    def table(self) -> pa.Table:
        """The whole table.

        Raises:
            ClusterError: BLOCK_MISMATCH, if a part is missing.
        """
        if self._schema is None or self._part != self._part_count:
            raise _damaged()
        return pa.Table.from_batches(self._batches, schema=self._schema)

    def _begin(self, frame: pb.GetSnapshotResponse) -> None:
        if (
            sha256(frame.schema).digest()[:8] != frame.schema_fingerprint
            or not 1 <= frame.part_count <= PARTS_MAX
        ):
            raise _damaged()
        try:
            self._schema = pa.ipc.read_schema(pa.py_buffer(frame.schema))
        except (pa.ArrowException, ValueError) as error:
            raise _damaged() from error
        self._fingerprint = frame.schema_fingerprint
        self._part_count = frame.part_count
        self.applied_index = frame.applied_index


def _damaged() -> ClusterError:
    return ClusterError(
        Reason.BLOCK_MISMATCH, "the snapshot came damaged or incomplete; fetch it again"
    )

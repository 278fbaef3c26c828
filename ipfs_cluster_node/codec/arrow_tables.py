"""The state as Arrow tables, and the frames they travel in.

Each frame holds one record batch message without its schema, which comes once, with a fingerprint
in every frame: a batch read with another schema would be silent garbage. A reader checks the CRC,
then the fingerprint, then validates the batch fully before it touches a value: a mutated message
crashes Arrow otherwise.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import pyarrow as pa

from ipfs_cluster_node.core.authorization import Args, in_its_namespace, row_args_function
from ipfs_cluster_node.core.columns import Kind
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.model import Content
from ipfs_cluster_node.core.schemas import CONTENT, NODES, SCHEMAS, TASKS
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.v1 import state_delta_pb2 as pb

FRAME_BYTES: Final = 256 * 1024
BATCH_ROWS: Final = 512
"""Rows encoded together: some 2 ms."""
TABLE_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
PARTS_MAX: Final = 65_536

_ARROW_TYPES: Final[Mapping[Kind, pa.DataType]] = {
    Kind.STRING: pa.string(),
    Kind.STRINGS: pa.list_(pa.string()),
    Kind.BOOL: pa.bool_(),
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.TIME: pa.timestamp("ms", tz="UTC"),
}

ARROW_SCHEMAS: Final[Mapping[int, pa.Schema]] = {
    pb.StateTable.Value(f"STATE_TABLE_{schema.name.upper()}"): pa.schema(
        [(column.name, _ARROW_TYPES[column.kind]) for column in schema.columns],
        metadata={"table": schema.name, "version": "1"},
    )
    for schema in SCHEMAS
}
"""By `StateTable`."""

_node_row, _node_args = NODES.row_function(), row_args_function(NODES)
_task_row, _task_args = TASKS.row_function(), row_args_function(TASKS)
_content_row, _content_args = CONTENT.row_function(), row_args_function(CONTENT)

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
    """Yield the rows of a `StateTable` that `caller` may read, and None for each of the others.

    The rows are those at the time of the call, however late the iterator is advanced.

    Raises:
        ClusterError: INVALID_ARGUMENT for an unknown table.
    """
    if table == pb.STATE_TABLE_NODES:
        nodes = tuple((n, state.tasks.running_count(n.node_id)) for n in state.members.nodes())
        at_once = frozenset(voters)
        return (
            _node_row(node, node.node_id in at_once, running) if allows(_node_args(node)) else None
            for node, running in nodes
        )
    if table == pb.STATE_TABLE_TASKS:
        return (
            _task_row(task) if allows(_task_args(task, caller)) else None
            for task in state.tasks.copy()
        )
    if table == pb.STATE_TABLE_CONTENT:
        return _content_rows(state, tuple(state.contents.values()), allows)
    raise invalid_field("table", "nodes, tasks or content")


def _content_rows(
    state: ClusterState, contents: Iterable[Content], allows: Allows
) -> Iterator[Row | None]:
    for content in contents:
        if allows(in_its_namespace(_content_args(content), content, state.tasks.get)):
            for holder in state.contents.holders_of(content):
                yield _content_row(content, holder)
        else:
            yield None


class SnapshotWriter:
    """Encodes a table in frames, a few rows at a time."""

    def __init__(self, table: int) -> None:
        self._schema = ARROW_SCHEMAS[table]
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
        """All frames, after every row was added."""
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
    """Assembles a table from its frames, without trusting them."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._fingerprint = b""
        self._batches: list[pa.RecordBatch] = []
        self._part = 0
        self._part_count = 1
        self._size_bytes = 0
        self.applied_index = 0

    def feed(self, frame: pb.GetSnapshotResponse) -> None:
        """Take the next frame; raises BLOCK_MISMATCH for a damaged, missing or foreign frame."""
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
        """The whole table; raises BLOCK_MISMATCH, if a part is missing."""
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

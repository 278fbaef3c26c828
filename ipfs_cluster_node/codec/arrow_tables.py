"""The state as Arrow tables, and the frames they travel in.

Each frame holds one record batch message without its schema, which comes once, with a fingerprint
in every frame: a batch read with another schema would be silent garbage. A reader checks the CRC,
then the fingerprint, then validates the batch fully before it touches a value: a mutated message
crashes Arrow otherwise.
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from operator import itemgetter
from typing import Final

import pyarrow as pa

from ipfs_cluster_node.core.columns import Kind
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.core.schemas import SCHEMAS
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_tables import (
    STATE_TABLES,
    Allows,
    Item,
    Row,
    StateTable,
    readable,
)
from ipfs_cluster_node.v1 import state_delta_pb2 as pb

FRAME_BYTES: Final = 256 * 1024
BATCH_ROWS: Final = 512
"""Rows encoded together: some 2 ms."""
TABLE_BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
PARTS_MAX: Final = 65_536
ARROW_ERRORS: Final = (pa.ArrowException, ValueError, OSError, EOFError, struct.error)
"""What Arrow raises for a message that is damaged: of flatbuffers, and of their lengths, too."""
_OFFSET, _SIGNED, _SHORT = (struct.Struct(f"<{kind}") for kind in "IiH")

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


def table_of(number: int) -> StateTable:
    """The table of a `StateTable` of the proto; raises INVALID_ARGUMENT for an unknown one."""
    schema = ARROW_SCHEMAS.get(number)
    if schema is None:
        *others, last = STATE_TABLES
        raise invalid_field("table", f"{', '.join(others)} or {last}")
    return STATE_TABLES[schema.metadata[b"table"].decode()]


def table_rows(
    table: int,
    state: ClusterState,
    voters: Iterable[NodeId],
    *,
    caller: Did,
    allows: Allows,
) -> Iterator[Row | None]:
    """Yield the rows of a `StateTable` that `caller` may read, and None for each other item.

    The rows are those at the time of the call, however late the iterator is advanced.

    Raises:
        ClusterError: INVALID_ARGUMENT for an unknown table.
    """
    return item_rows(table_of(table).items(state, frozenset(voters), None), caller, allows)


def item_rows(items: Iterable[Item | None], caller: Did, allows: Allows) -> Iterator[Row | None]:
    """Yield the rows of those items that `caller` may read, and None for each of the others."""
    for item in items:
        shown = None if item is None else readable(item, caller, allows)
        if shown is not None:
            yield from shown.rows()
        else:
            yield None


class RowEncoder:
    """Encodes rows as record batches, a few at a time."""

    def __init__(self, table: int, columns: Collection[str] = ()) -> None:
        """Encode these columns, by default all."""
        whole = ARROW_SCHEMAS[table]
        shown = [at for at, name in enumerate(whole.names) if not columns or name in columns]
        self.schema = pa.schema([whole.field(at) for at in shown], metadata=whole.metadata)
        self._shown = None if len(shown) == len(whole) else itemgetter(*shown, shown[-1])
        self._rows: list[Row] = []

    def add(self, row: Row) -> list[bytes]:
        """Take the next row; returns the payloads that are complete."""
        self._rows.append(row)
        return self.rest() if len(self._rows) == BATCH_ROWS else []

    def rest(self) -> list[bytes]:
        """Encode the rows that were taken since the last payload."""
        rows, self._rows = self._rows, []
        if not rows:
            return []
        # The last column twice: of one, `itemgetter` makes no tuple.
        shown = rows if self._shown is None else [self._shown(row)[:-1] for row in rows]
        columns = zip(*shown, strict=True)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(values, type=field.type)
                for values, field in zip(columns, self.schema, strict=True)
            ],
            schema=self.schema,
        )
        rows_per_part = max(1, batch.num_rows * FRAME_BYTES // max(1, batch.nbytes))
        return [
            batch.slice(start, rows_per_part).serialize().to_pybytes()
            for start in range(0, batch.num_rows, rows_per_part)
        ]


def schema_message(schema: pa.Schema) -> tuple[bytes, bytes]:
    """The Arrow IPC message of a schema, and its fingerprint."""
    message = schema.serialize().to_pybytes()
    return message, sha256(message).digest()[:8]


class SnapshotWriter:
    """Encodes a table in frames, a few rows at a time."""

    def __init__(self, table: int) -> None:
        self._encoder = RowEncoder(table)
        self._payloads: list[bytes] = []

    def add(self, row: Row) -> None:
        """Take the next row."""
        self._payloads += self._encoder.add(row)

    def frames(self, applied_index: int) -> Iterator[pb.GetSnapshotResponse]:
        """All frames, after every row was added."""
        payloads = self._payloads + self._encoder.rest() or [b""]
        schema, fingerprint = schema_message(self._encoder.schema)
        for part, payload in enumerate(payloads):
            yield pb.GetSnapshotResponse(
                applied_index=applied_index,
                schema_fingerprint=fingerprint,
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
            raise damaged()
        if frame.payload:
            self._batches.append(read_batch(frame.payload, self._schema))
        self._part += 1

    def table(self) -> pa.Table:
        """The whole table; raises BLOCK_MISMATCH, if a part is missing."""
        if self._schema is None or self._part != self._part_count:
            raise damaged()
        return pa.Table.from_batches(self._batches, schema=self._schema)

    def _begin(self, frame: pb.GetSnapshotResponse) -> None:
        if (
            sha256(frame.schema).digest()[:8] != frame.schema_fingerprint
            or not 1 <= frame.part_count <= PARTS_MAX
        ):
            raise damaged()
        self._schema = read_schema(frame.schema)
        self._fingerprint = frame.schema_fingerprint
        self._part_count = frame.part_count
        self.applied_index = frame.applied_index


def read_schema(message: bytes) -> pa.Schema:
    """Read the Arrow IPC message of a schema; raises BLOCK_MISMATCH."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(message))
        _ = schema.names  # Raises, if one is no text.
    except ARROW_ERRORS as error:
        raise damaged() from error
    return schema


def read_batch(payload: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """Read and validate a record batch; raises BLOCK_MISMATCH."""
    try:
        message = pa.ipc.read_message(pa.py_buffer(payload))
        if _is_compressed(message.metadata):
            raise damaged()
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except ARROW_ERRORS as error:
        raise damaged() from error
    return batch


def _is_compressed(metadata: bytes) -> bool:
    """Whether a batch's body is compressed, as none of ours is: 4 MiB may be 100 GiB in memory.

    Reads `Message.header` and `RecordBatch.compression` of Arrow's Message.fbs, third and fourth
    field of their tables, as pyarrow tells of neither. Raises `struct.error` for a damaged message.
    """
    [table] = _OFFSET.unpack_from(metadata)
    header = table + _field_of(metadata, table, 2)
    [offset] = _OFFSET.unpack_from(metadata, header)
    return _field_of(metadata, header + offset, 3) != 0


def _field_of(metadata: bytes, table: int, number: int) -> int:
    """The place of a field in a table of a flatbuffer; 0 if it is not there."""
    fields = table - _SIGNED.unpack_from(metadata, table)[0]
    [size] = _SHORT.unpack_from(metadata, fields)
    at = _SHORT.size * (2 + number)
    return int(_SHORT.unpack_from(metadata, fields + at)[0]) if at < size else 0


def damaged() -> ClusterError:
    """The error of a frame that is not what was sent."""
    return ClusterError(
        Reason.BLOCK_MISMATCH, "the rows came damaged or incomplete; fetch them again"
    )

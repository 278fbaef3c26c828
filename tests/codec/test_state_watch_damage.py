"""Messages of a watch that are damaged, also where their checksums are right: refused, no crash."""

import random
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.message import DecodeError

from ipfs_cluster_node.codec import state_watch
from ipfs_cluster_node.codec.arrow_tables import ARROW_SCHEMAS, schema_message
from ipfs_cluster_node.codec.state_watch import (
    MESSAGE_BYTES,
    NUMBERS,
    WatchReader,
    WatchWriter,
    encoder_of,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Rows,
    RowsKind,
    StateEvent,
    WatchedTable,
)
from ipfs_cluster_node.v1 import state_delta_pb2 as pb

TABLE = WatchedTable("config")
ROUNDS = 3000


def messages() -> list[pb.WatchResponse]:
    writer, encoder = WatchWriter([TABLE]), encoder_of(TABLE)
    encoder.add(("user.a", "1", ""))
    [payload] = encoder.rest()
    events: list[StateEvent] = [
        Rows("config", RowsKind.SNAPSHOT, payload),
        Deletions("config", ("user.b",)),
        Bookmark(3, b"token", 5),
    ]
    return [*writer.schemas(), *map(writer.encode, events)]


def read(given: list[pb.WatchResponse]) -> None:
    reader = WatchReader()
    for each in given:
        reader.decode(each)


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) or 1)
        if not changed or rng.random() < 0.1:
            changed[at:at] = rng.randbytes(4)
        elif rng.random() < 0.1:
            del changed[at:]
        else:
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damaged(rng: random.Random) -> Iterator[list[pb.WatchResponse]]:
    for _ in range(ROUNDS):
        given = messages()
        given[0].schema.schema = changed = mutated(rng, given[0].schema.schema)
        given[0].schema.fingerprint = sha256(changed).digest()[:8]
        given[1].frame.schema_fingerprint = given[0].schema.fingerprint
        yield given
        given = messages()
        given[1].frame.payload = changed = mutated(rng, given[1].frame.payload)
        if rng.random() < 0.9:
            given[1].frame.payload_crc32 = zlib.crc32(changed)
        yield given
        given = messages()
        at = rng.randrange(len(given))
        try:
            given[at] = pb.WatchResponse.FromString(mutated(rng, given[at].SerializeToString()))
        except DecodeError:
            continue
        yield given
        rng.shuffle(given)
        yield given


def test_whatever_comes_is_read_or_refused() -> None:
    refused = 0
    for given in damaged(random.Random(3)):
        try:
            read(given)
        except ClusterError as error:
            assert error.reason is Reason.BLOCK_MISMATCH
            refused += 1
    assert refused > ROUNDS


def with_schema(schema: pa.Schema, table: Any = NUMBERS["config"]) -> list[pb.WatchResponse]:
    message, fingerprint = schema_message(schema)
    given = pb.Schema(table=table, schema=message, fingerprint=fingerprint)
    return [pb.WatchResponse(schema=given)]


def test_a_schema_is_that_of_its_table() -> None:
    known = ARROW_SCHEMAS[NUMBERS["config"]]
    wrong: list[Any] = [
        known.remove(known.get_field_index("key")),
        known.set(0, pa.field("key", pa.int64())),
        known.append(pa.field("value", pa.string())),
        ARROW_SCHEMAS[NUMBERS["nodes"]],
    ]
    for schema in wrong:
        with pytest.raises(ClusterError):
            read(with_schema(schema))
    with pytest.raises(ClusterError):
        read(with_schema(known, table=99))
    # Of a newer release, or without what names the table.
    read(with_schema(known.append(pa.field("new", pa.float64()))))
    read(with_schema(known.remove_metadata()))


def test_what_comes_without_a_bookmark_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    schema, frame, _, mark = messages()
    sizes = (each.ByteSize() + MESSAGE_BYTES for each in [schema, *3 * [frame], mark])
    monkeypatch.setattr(state_watch, "TABLE_BYTES_MAX", sum(sizes))
    read([schema, *3 * [frame], mark, *3 * [frame], mark])
    with pytest.raises(ClusterError):
        read([schema, *4 * [frame]])


def test_rows_with_a_wrong_checksum_or_fingerprint_are_refused() -> None:
    for field, value in (("payload_crc32", 1), ("schema_fingerprint", b"12345678"), ("kind", 9)):
        schema, frame, *_ = messages()
        setattr(frame.frame, field, value)
        with pytest.raises(ClusterError):
            read([schema, frame])
    _, frame, *_ = messages()
    with pytest.raises(ClusterError):
        read([frame])  # Without its schema.


def compressed(schema: pa.Schema, value: str) -> bytes:
    """The payload of a row, compressed: a thousandth of it, or less."""
    rows = pa.RecordBatch.from_arrays([pa.array([value]) for _ in schema], schema=schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_batch(rows)
    messages = pa.ipc.MessageReader.open_stream(sink.getvalue())
    messages.read_next_message()
    payload: bytes = messages.read_next_message().serialize().to_pybytes()
    return payload


def test_compressed_rows_are_refused_before_they_are_in_memory() -> None:
    """Once a message of 100 KB was a gibibyte, and a few of them all memory."""
    given = messages()
    payload = compressed(encoder_of(TABLE).schema, "x" * 2**26)
    assert len(payload) < 2**17
    given[1].frame.payload, given[1].frame.payload_crc32 = payload, zlib.crc32(payload)
    before = pa.total_allocated_bytes()
    with pytest.raises(ClusterError) as refused:
        read(given)
    assert refused.value.reason is Reason.BLOCK_MISMATCH
    assert pa.total_allocated_bytes() - before < 2**20


@pytest.mark.parametrize(
    "message",
    [
        pb.WatchResponse(reset=pb.Reset(cause=pb.Reset.CAUSE_COMPACTED)),
        pb.WatchResponse(),
        messages()[0],
        messages()[2],
    ],
)
def test_messages_without_a_bookmark_are_bounded_in_number(
    message: pb.WatchResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resets and schemas once came without end, and the resets were kept."""
    monkeypatch.setattr(state_watch, "TABLE_BYTES_MAX", 2**20)
    reader = WatchReader()
    reader.decode(messages()[0])
    with pytest.raises(ClusterError) as refused:
        for _ in range(2**14):
            reader.decode(message)
    assert refused.value.reason is Reason.BLOCK_MISMATCH

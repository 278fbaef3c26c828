"""A watch of the state, to and from its messages."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from google.protobuf.duration_pb2 import Duration

from ipfs_cluster_node.codec.arrow_tables import (
    ARROW_SCHEMAS,
    TABLE_BYTES_MAX,
    RowEncoder,
    damaged,
    read_batch,
    read_schema,
    schema_message,
    table_of,
)
from ipfs_cluster_node.codec.enums import RESET_CAUSE
from ipfs_cluster_node.codec.tasks import duration_of_ms, ms_of_duration
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.schemas import ROW_KEYS
from ipfs_cluster_node.core.state_events import (
    Bookmark,
    Deletions,
    Reset,
    ResetCause,
    Rows,
    RowsKind,
    StateEvent,
    WatchedTable,
)
from ipfs_cluster_node.v1 import state_delta_pb2 as pb

MESSAGE_BYTES: Final = 256
"""Counted for each message besides its size: what a short one takes in memory."""
KEY_PREFIX_CHARS_MAX: Final = 128
INTERVAL_MS_MIN: Final = 100
INTERVAL_MS_MAX: Final = 60_000
INTERVAL_MS_DEFAULT: Final = 5_000

NUMBERS: Final[Mapping[str, Any]] = {
    schema.metadata[b"table"].decode(): number for number, schema in ARROW_SCHEMAS.items()
}
"""The number of each table in the proto."""
_KINDS: Final = {
    RowsKind.SNAPSHOT: pb.Frame.KIND_SNAPSHOT,
    RowsKind.UPSERTS: pb.Frame.KIND_UPSERTS,
}
_KIND_OF: Final = {number: kind for kind, number in _KINDS.items()}


def watched_of(request: pb.WatchRequest) -> list[WatchedTable]:
    """What a request watches; raises INVALID_ARGUMENT."""
    if not 1 <= len(request.tables) <= len(NUMBERS):
        raise invalid_field("tables", "name each table that you want to watch, once")
    found: list[WatchedTable] = []
    for each in request.tables:
        schema = table_of(each.table).schema
        known = [column.name for column in schema.columns]
        if schema.name in {other.name for other in found}:
            raise invalid_field("tables", f"{schema.name} is named twice")
        if len(each.columns) > len(known) or not set(each.columns) <= set(known):
            raise invalid_field("columns", f"{schema.name} has {', '.join(known)}")
        if len(each.key_prefix) > KEY_PREFIX_CHARS_MAX:
            raise invalid_field("key_prefix", f"at most {KEY_PREFIX_CHARS_MAX} characters")
        wanted = {*each.columns, *ROW_KEYS[schema.name]} if each.columns else set()
        columns = tuple(name for name in known if name in wanted)
        found.append(WatchedTable(schema.name, columns, each.key_prefix))
    return found


def interval_of(request: pb.WatchRequest) -> float:
    """The seconds between bookmarks; raises INVALID_ARGUMENT."""
    if not request.HasField("bookmark_interval"):
        return INTERVAL_MS_DEFAULT / 1000
    milliseconds = ms_of_duration(request.bookmark_interval)
    if not INTERVAL_MS_MIN <= milliseconds <= INTERVAL_MS_MAX:
        raise invalid_field(
            "bookmark_interval", f"{INTERVAL_MS_MIN / 1000:g} s to {INTERVAL_MS_MAX / 1000:g} s"
        )
    return milliseconds / 1000


def request_of(
    tables: Sequence[WatchedTable], resume_token: bytes, interval_ms: int
) -> pb.WatchRequest:
    """The request that watches tables."""
    return pb.WatchRequest(
        tables=[
            pb.TableFilter(
                table=NUMBERS[each.name], columns=each.columns, key_prefix=each.key_prefix
            )
            for each in tables
        ],
        resume_token=resume_token,
        bookmark_interval=Duration(**duration_of_ms(interval_ms)),
    )


def encoder_of(watched: WatchedTable) -> RowEncoder:
    """What encodes its rows."""
    return RowEncoder(NUMBERS[watched.name], watched.columns)


class WatchWriter:
    """Makes the messages of one watch."""

    def __init__(self, tables: Sequence[WatchedTable]) -> None:
        """Of these tables."""
        self._schemas = {each.name: schema_message(encoder_of(each).schema) for each in tables}

    def schemas(self) -> list[pb.WatchResponse]:
        """How the rows are encoded."""
        return [
            pb.WatchResponse(
                schema=pb.Schema(
                    table=NUMBERS[name],
                    schema=message,
                    fingerprint=fingerprint,
                    key_columns=ROW_KEYS[name],
                )
            )
            for name, (message, fingerprint) in self._schemas.items()
        ]

    def encode(self, event: StateEvent) -> pb.WatchResponse:
        """One event; its rows are a payload."""
        match event:
            case Rows(table, kind, payload):
                return pb.WatchResponse(
                    frame=pb.Frame(
                        table=NUMBERS[table],
                        kind=_KINDS[kind],
                        schema_fingerprint=self._schemas[table][1],
                        payload=payload,
                        payload_crc32=zlib.crc32(payload),
                    )
                )
            case Deletions(table, keys):
                deletions = pb.Frame.KIND_DELETIONS
                return pb.WatchResponse(
                    frame=pb.Frame(table=NUMBERS[table], kind=deletions, keys=keys)
                )
            case Bookmark(revision, resume_token, age_ms):
                age = Duration(**duration_of_ms(age_ms)) if age_ms else None
                return pb.WatchResponse(
                    bookmark=pb.Bookmark(revision=revision, resume_token=resume_token, age=age)
                )
            case Reset(cause, oldest_revision):
                number = RESET_CAUSE.numbers[cause]
                return pb.WatchResponse(
                    reset=pb.Reset(cause=number, oldest_revision=oldest_revision)
                )


class WatchReader:
    """Reads the messages of one watch, without trusting them."""

    def __init__(self) -> None:
        self._schemas: dict[int, tuple[str, pa.Schema, bytes]] = {}
        self._size_bytes = 0
        """Of the messages since the last bookmark, as they are kept until the next."""

    def decode(self, message: pb.WatchResponse) -> StateEvent | None:
        """One event; None for a schema, and for what only a newer release has.

        Raises:
            ClusterError: BLOCK_MISMATCH for a damaged or foreign frame.
        """
        self._size_bytes += message.ByteSize() + MESSAGE_BYTES
        if self._size_bytes > TABLE_BYTES_MAX:
            raise damaged()
        match message.WhichOneof("part"):
            case "schema":
                self._schema(message.schema)
            case "frame":
                return self._frame(message.frame)
            case "bookmark":
                self._size_bytes = 0
                mark = message.bookmark
                return Bookmark(mark.revision, mark.resume_token, ms_of_duration(mark.age))
            case "reset":
                cause = RESET_CAUSE.words.get(message.reset.cause, ResetCause.COMPACTED)
                return Reset(cause, message.reset.oldest_revision)
        return None

    def _schema(self, given: pb.Schema) -> None:
        known = ARROW_SCHEMAS.get(given.table)
        if known is None:
            raise damaged()
        name = known.metadata[b"table"].decode()
        schema = read_schema(given.schema)
        # Columns that are known here are as they are here; a newer release may have others.
        types = {field.name: field.type for field in known}
        if (
            schema_message(schema)[1] != given.fingerprint
            or len(set(schema.names)) != len(schema.names)
            or not set(ROW_KEYS[name]) <= set(schema.names)
            or any(types.get(field.name, field.type) != field.type for field in schema)
        ):
            raise damaged()
        self._schemas[given.table] = name, schema, given.fingerprint

    def _frame(self, frame: pb.Frame) -> StateEvent:
        known = self._schemas.get(frame.table)
        if known is None:
            raise damaged()
        name, schema, fingerprint = known
        if frame.kind == pb.Frame.KIND_DELETIONS:
            return Deletions(name, tuple(frame.keys))
        kind = _KIND_OF.get(frame.kind)
        if (
            kind is None
            or frame.schema_fingerprint != fingerprint
            or zlib.crc32(frame.payload) != frame.payload_crc32
        ):
            raise damaged()
        return Rows(name, kind, read_batch(frame.payload, schema))


def event_document(event: StateEvent) -> dict[str, Any]:
    """An event as a JSON document; of rows, those of the batch."""
    match event:
        case Rows(table, kind, rows):
            return {"event": kind.value, "table": table, "rows": rows.to_pylist()}
        case Deletions(table, keys):
            return {"event": "deletions", "table": table, "keys": list(keys)}
        case Bookmark(revision, resume_token, age_ms):
            return {
                "event": "bookmark",
                "revision": revision,
                "resume_token": resume_token.hex(),
                "age_ms": age_ms,
            }
        case Reset(cause, oldest_revision):
            return {"event": "reset", "cause": cause.value, "oldest_revision": oldest_revision}

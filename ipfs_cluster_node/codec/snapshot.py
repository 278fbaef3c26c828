"""Snapshots of the replicated state: core values to bytes and back, in parts.

A part is a `StateSnapshot` with some of the records; the first also has the single values. Encoding
or decoding one takes some milliseconds, during which no other thread runs; the whole may take
seconds.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from ipfs_cluster_node.codec.derived import By, Codec, codec
from ipfs_cluster_node.codec.records import (
    AUTHORITY,
    CERTIFICATE,
    CERTIFICATE_REVOCATION,
    DELEGATION,
    PRINCIPAL,
    RECORDS,
    REVOCATION,
    TASK_SPEC,
)
from ipfs_cluster_node.core.config_history import ConfigVersion
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import (
    Content,
    ContentMaker,
    EndedAttempt,
    Joiner,
    JoinToken,
    Task,
    TaskSpec,
)
from ipfs_cluster_node.core.requests import RequestRecord
from ipfs_cluster_node.core.state_data import StateData
from ipfs_cluster_node.core.tables import TableName
from ipfs_cluster_node.log.v1 import command_pb2, snapshot_pb2

T = TypeVar("T")

FORMAT: Final = 0
"""The newest format of a snapshot that this release knows."""
PART_RECORDS: Final = 100
PART_BYTES: Final = 1024 * 1024
"""Bytes of payloads and results, or of settings, after which a part ends."""

_REQUEST: Final = codec(RequestRecord, snapshot_pb2.RequestRecord)
_CONTENT_RENAMED: Final = {"holders": "node_ids"}
_CONTENT_RECORDS: Final = RECORDS | {ContentMaker: codec(ContentMaker, snapshot_pb2.ContentMaker)}
_CONTENT: Final = codec(
    Content, snapshot_pb2.ContentRecord, renamed=_CONTENT_RENAMED, codecs=_CONTENT_RECORDS
)
_TASK_RECORDS: Final = RECORDS | {EndedAttempt: codec(EndedAttempt, snapshot_pb2.EndedAttempt)}
_TASK: Final = codec(Task, snapshot_pb2.TaskRecord, codecs=_TASK_RECORDS)
_JOIN_TOKEN: Final = codec(
    JoinToken,
    snapshot_pb2.JoinTokenRecord,
    codecs={Joiner: codec(Joiner, snapshot_pb2.JoinerRecord)},
    inner="token",
)
_CONFIG_VERSION: Final = codec(ConfigVersion, snapshot_pb2.ConfigVersion)
_TABLES: Final[Mapping[TableName, Codec[Any, Any]]] = {
    TableName.TASKS: _TASK,
    TableName.REQUESTS: _REQUEST,
    TableName.DELEGATIONS: DELEGATION,
    TableName.REVOCATIONS: REVOCATION,
    TableName.CERTIFICATES: CERTIFICATE,
    TableName.CERTIFICATE_REVOCATIONS: CERTIFICATE_REVOCATION,
    TableName.CONTENTS: _CONTENT,
    TableName.CONFIG_VERSIONS: _CONFIG_VERSION,
}
"""The tables with their own parts, in this order. The others are in the first part."""


def _itself(value: Any) -> Any:
    return value


def encode_snapshot(data: StateData) -> Iterator[bytes]:
    """Encode the whole state; the same state always gives the same parts."""
    for part in _parts(data):
        yield part.SerializeToString(deterministic=True)


def _parts(data: StateData) -> Iterator[snapshot_pb2.StateSnapshot]:
    yield snapshot_pb2.StateSnapshot(
        cluster_id=data.cluster_id,
        cluster_name=data.cluster_name,
        cluster_did=data.cluster_did,
        incarnation_last=data.incarnation_last,
        principals=map(PRINCIPAL.encode, data.principals),
        join_tokens=map(_JOIN_TOKEN.encode, data.tokens),
        config=dict(data.settings),
        authority=AUTHORITY.encode(data.authority),
        judged_at_ms=data.judged_at_ms,
    )
    for name, record in _TABLES.items():
        for records in _sliced(getattr(data, name)):
            fields: dict[str, Any] = {name.value: map(record.encode, records)}
            yield snapshot_pb2.StateSnapshot(**fields)


def _sliced(records: Iterable[T]) -> Iterator[list[T]]:
    part: list[T] = []
    part_bytes = 0
    for record in records:
        part.append(record)
        match record:
            case Task():
                part_bytes += record.stored_bytes
            case ConfigVersion():
                part_bytes += record.stored_bytes
        if len(part) == PART_RECORDS or part_bytes >= PART_BYTES:
            yield part
            part, part_bytes = [], 0
    if part:
        yield part


def decode_snapshot(parts: Iterable[bytes]) -> StateData:
    """Decode the whole state. The checksum was verified when the bytes were read.

    Raises:
        ClusterError: RELEASE_TOO_OLD.
    """
    head: snapshot_pb2.StateSnapshot | None = None
    reader = _Reader()
    rows: dict[TableName, list[Any]] = {name: [] for name in _TABLES}
    for encoded in parts:
        part = snapshot_pb2.StateSnapshot.FromString(encoded)
        if part.format > FORMAT:
            raise ClusterError(
                Reason.RELEASE_TOO_OLD,
                "a snapshot of the log was written by a newer release; install that release on "
                "this node and start it again: nothing is lost",
            )
        head = head or part
        for name, decode in reader.tables.items():
            rows[name] += map(decode, getattr(part, name))
    head = head or snapshot_pb2.StateSnapshot()
    return StateData(
        cluster_id=head.cluster_id,
        cluster_name=head.cluster_name,
        cluster_did=Did(head.cluster_did),
        incarnation_last=head.incarnation_last,
        principals=tuple(map(PRINCIPAL.decode, head.principals)),
        tokens=tuple(map(_JOIN_TOKEN.decode, head.join_tokens)),
        settings=dict(head.config),
        authority=AUTHORITY.decode(head.authority),
        judged_at_ms=head.judged_at_ms,
        **{name.value: tuple(of_table) for name, of_table in rows.items()},
    )


class _Reader:
    """Decodes records; what repeats from one to the next becomes one object.

    A good part of the time, and of the memory, would go to making it again and again.
    """

    def __init__(self) -> None:
        self._strings: dict[str, str] = {}
        self._specs: dict[bytes, TaskSpec] = {}
        self._texts: dict[tuple[str, ...], tuple[str, ...]] = {}
        shared = By(_itself, self._shared)
        task = codec(
            Task,
            snapshot_pb2.TaskRecord,
            codecs=_TASK_RECORDS,
            by={
                "submitter": shared,
                "request_id": shared,
                "node_id": By(_itself, lambda text: self._shared(text) or None),
                "spec": By(TASK_SPEC.encode, self._spec),
            },
        )
        request = codec(RequestRecord, snapshot_pb2.RequestRecord, by={"caller": shared})
        content = codec(
            Content,
            snapshot_pb2.ContentRecord,
            renamed=_CONTENT_RENAMED,
            codecs=_CONTENT_RECORDS,
            by={
                "holders": By(_itself, self._shared_texts),
                "namespaces": By(_itself, self._shared_texts),
            },
        )
        sharing: dict[TableName, Codec[Any, Any]] = {
            TableName.TASKS: task,
            TableName.REQUESTS: request,
            TableName.CONTENTS: content,
        }
        self.tables = {name: sharing.get(name, record).decode for name, record in _TABLES.items()}

    def _shared_texts(self, texts: Iterable[str]) -> tuple[str, ...]:
        known = tuple(texts)
        return self._texts.setdefault(known, known)

    def _shared(self, text: str) -> str:
        return self._strings.setdefault(text, text)

    def _spec(self, message: command_pb2.TaskSpec) -> TaskSpec:
        if message.payload or message.inputs:
            return TASK_SPEC.decode(message)
        key = message.SerializeToString()
        spec = self._specs.get(key)
        if spec is None:
            spec = self._specs[key] = TASK_SPEC.decode(message)
        return spec

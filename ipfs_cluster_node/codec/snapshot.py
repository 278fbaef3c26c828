"""Snapshots of the replicated state: core values to bytes and back."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from ipfs_cluster_node.codec.commands import (
    failure_from_log,
    failure_to_log,
    principal_from_log,
    principal_to_log,
    result_from_log,
    result_to_log,
    spec_from_log,
    spec_to_log,
)
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import Content, JoinToken, Role, Task, TaskState
from ipfs_cluster_node.core.state import RequestRecord, StateData
from ipfs_cluster_node.log.v1 import command_pb2, snapshot_pb2

T = TypeVar("T")

PART_RECORDS: Final = 500
"""In one part of a snapshot: some milliseconds to encode or decode."""
_LENGTH: Final = struct.Struct("<I")


def encode_snapshot(data: StateData) -> bytearray:
    """Encode the whole state; the same state always gives the same bytes.

    It is a row of parts, each a length and a `StateSnapshot` with some of the records. Encoding one
    part keeps other threads waiting, encoding the whole would keep them for seconds.
    """
    encoded = bytearray()
    for part in _parts(data):
        message = part.SerializeToString(deterministic=True)
        encoded += _LENGTH.pack(len(message))
        encoded += message
    return encoded


def _parts(data: StateData) -> Iterator[snapshot_pb2.StateSnapshot]:
    yield snapshot_pb2.StateSnapshot(
        cluster_id=data.cluster_id,
        cluster_name=data.cluster_name,
        incarnation_last=data.incarnation_last,
        principals=map(principal_to_log, data.principals),
        join_tokens=map(_token_to_log, data.tokens),
        config=dict(data.settings),
    )
    for tasks in _sliced(data.tasks):
        yield snapshot_pb2.StateSnapshot(tasks=map(_task_to_log, tasks))
    for requests in _sliced(data.requests):
        yield snapshot_pb2.StateSnapshot(requests=map(_request_to_log, requests))
    for contents in _sliced(data.contents):
        yield snapshot_pb2.StateSnapshot(contents=map(_content_to_log, contents))


def _sliced(records: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(records), PART_RECORDS):
        yield records[first : first + PART_RECORDS]


def decode_snapshot(encoded: bytes | bytearray) -> StateData:
    """Decode the whole state. The bytes' checksum was checked where they were read."""
    head: snapshot_pb2.StateSnapshot | None = None
    tasks: list[Task] = []
    requests: list[RequestRecord] = []
    contents: list[Content] = []
    offset = 0
    while offset < len(encoded):
        (length,) = _LENGTH.unpack_from(encoded, offset)
        offset += _LENGTH.size
        part = snapshot_pb2.StateSnapshot.FromString(bytes(encoded[offset : offset + length]))
        offset += length
        head = head or part
        tasks += map(_task_from_log, part.tasks)
        requests += map(_request_from_log, part.requests)
        contents += map(_content_from_log, part.contents)
    head = head or snapshot_pb2.StateSnapshot()
    return StateData(
        cluster_id=head.cluster_id,
        cluster_name=head.cluster_name,
        incarnation_last=head.incarnation_last,
        principals=tuple(map(principal_from_log, head.principals)),
        tokens=tuple(map(_token_from_log, head.join_tokens)),
        settings=dict(head.config),
        tasks=tuple(tasks),
        requests=tuple(requests),
        contents=tuple(contents),
    )


def _request_to_log(record: RequestRecord) -> snapshot_pb2.RequestRecord:
    return snapshot_pb2.RequestRecord(
        caller=record.caller,
        request_id=record.request_id,
        at_ms=record.at_ms,
        fingerprint=record.fingerprint,
        ids=record.ids,
    )


def _request_from_log(message: snapshot_pb2.RequestRecord) -> RequestRecord:
    return RequestRecord(
        message.caller, message.request_id, message.at_ms, message.fingerprint, tuple(message.ids)
    )


def _content_to_log(content: Content) -> snapshot_pb2.ContentRecord:
    return snapshot_pb2.ContentRecord(
        cid=content.cid,
        size_bytes=content.size_bytes,
        node_ids=content.holders,
        name=content.name,
        added_at_ms=content.added_at_ms,
    )


def _content_from_log(message: snapshot_pb2.ContentRecord) -> Content:
    return Content(
        cid=message.cid,
        size_bytes=message.size_bytes,
        holders=tuple(map(NodeId, message.node_ids)),
        name=message.name,
        added_at_ms=message.added_at_ms,
    )


def _token_to_log(token: JoinToken) -> snapshot_pb2.JoinTokenRecord:
    return snapshot_pb2.JoinTokenRecord(
        token=command_pb2.CreateJoinToken(
            token_id=token.token_id,
            secret_hash=token.secret_hash,
            role=token.role,
            expires_at_ms=token.expires_at_ms,
            uses_max=token.uses_max,
            addresses=token.addresses,
        ),
        failure_count=token.failure_count,
        dids=token.dids,
    )


def _token_from_log(message: snapshot_pb2.JoinTokenRecord) -> JoinToken:
    return JoinToken(
        token_id=message.token.token_id,
        secret_hash=message.token.secret_hash,
        role=Role(message.token.role),
        expires_at_ms=message.token.expires_at_ms,
        uses_max=message.token.uses_max,
        addresses=tuple(message.token.addresses),
        failure_count=message.failure_count,
        dids=tuple(map(Did, message.dids)),
    )


def _task_to_log(task: Task) -> snapshot_pb2.TaskRecord:
    return snapshot_pb2.TaskRecord(
        task_id=task.task_id,
        sequence=task.sequence,
        spec=spec_to_log(task.spec),
        submitter=task.submitter,
        state=task.state,
        attempt=task.attempt,
        failed_count=task.failed_count,
        lost_count=task.lost_count,
        node_id=task.node_id or "",
        submitted_at_ms=task.submitted_at_ms,
        assigned_at_ms=task.assigned_at_ms,
        finished_at_ms=task.finished_at_ms,
        result=None if task.result is None else result_to_log(task.result),
        failure=None if task.failure is None else failure_to_log(task.failure),
    )


def _task_from_log(message: snapshot_pb2.TaskRecord) -> Task:
    return Task(
        task_id=TaskId(message.task_id),
        sequence=message.sequence,
        spec=spec_from_log(message.spec),
        submitter=Did(message.submitter),
        state=TaskState(message.state),
        attempt=message.attempt,
        failed_count=message.failed_count,
        lost_count=message.lost_count,
        node_id=NodeId(message.node_id) if message.node_id else None,
        submitted_at_ms=message.submitted_at_ms,
        assigned_at_ms=message.assigned_at_ms,
        finished_at_ms=message.finished_at_ms,
        result=result_from_log(message.result) if message.HasField("result") else None,
        failure=failure_from_log(message.failure) if message.HasField("failure") else None,
    )

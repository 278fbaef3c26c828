"""Snapshots of the replicated state: core values to bytes and back."""

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


def encode_snapshot(data: StateData) -> bytes:
    """Encode the whole state; the same state always gives the same bytes."""
    message = snapshot_pb2.StateSnapshot(
        cluster_id=data.cluster_id,
        cluster_name=data.cluster_name,
        incarnation_last=data.incarnation_last,
        principals=map(principal_to_log, data.principals),
        join_tokens=map(_token_to_log, data.tokens),
        config=dict(data.settings),
        tasks=map(_task_to_log, data.tasks),
        requests=(
            snapshot_pb2.RequestRecord(
                caller=record.caller,
                request_id=record.request_id,
                at_ms=record.at_ms,
                fingerprint=record.fingerprint,
                ids=record.ids,
            )
            for record in data.requests
        ),
        contents=(
            snapshot_pb2.ContentRecord(
                cid=content.cid,
                size_bytes=content.size_bytes,
                node_ids=content.holders,
                name=content.name,
                added_at_ms=content.added_at_ms,
            )
            for content in data.contents
        ),
    )
    return message.SerializeToString(deterministic=True)


def decode_snapshot(encoded: bytes) -> StateData:
    """Decode the whole state. The bytes' checksum was checked where they were read."""
    message = snapshot_pb2.StateSnapshot.FromString(encoded)
    return StateData(
        cluster_id=message.cluster_id,
        cluster_name=message.cluster_name,
        incarnation_last=message.incarnation_last,
        principals=tuple(map(principal_from_log, message.principals)),
        tokens=tuple(map(_token_from_log, message.join_tokens)),
        settings=dict(message.config),
        tasks=tuple(map(_task_from_log, message.tasks)),
        requests=tuple(
            RequestRecord(r.caller, r.request_id, r.at_ms, r.fingerprint, tuple(r.ids))
            for r in message.requests
        ),
        contents=tuple(
            Content(
                cid=c.cid,
                size_bytes=c.size_bytes,
                holders=tuple(map(NodeId, c.node_ids)),
                name=c.name,
                added_at_ms=c.added_at_ms,
            )
            for c in message.contents
        ),
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

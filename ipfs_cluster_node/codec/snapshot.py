"""Snapshots of the replicated state: core values to bytes and back, in parts.

A part is a `StateSnapshot` with some of the records; the first has what there is once. To encode or
decode one takes some milliseconds, during which no other thread runs; the whole may take seconds.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from ipfs_cluster_node.codec.records import (
    authority_from_log,
    authority_to_log,
    certificate_from_log,
    certificate_revocation_from_log,
    certificate_revocation_to_log,
    certificate_to_log,
    delegation_from_log,
    delegation_to_log,
    failure_from_log,
    failure_to_log,
    principal_from_log,
    principal_to_log,
    result_from_log,
    result_to_log,
    revocation_from_log,
    revocation_to_log,
    spec_from_log,
    spec_to_log,
)
from ipfs_cluster_node.core.certificates import CertificateRecord, CertificateRevocation
from ipfs_cluster_node.core.delegations import StoredDelegation, StoredRevocation
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import Did, NodeId, TaskId
from ipfs_cluster_node.core.model import Content, Joiner, JoinToken, Role, Task, TaskSpec, TaskState
from ipfs_cluster_node.core.state import RequestRecord, StateData
from ipfs_cluster_node.log.v1 import command_pb2, snapshot_pb2

T = TypeVar("T")

FORMAT: Final = 0
"""The newest format of a snapshot that this release knows."""
PART_RECORDS: Final = 100
PART_BYTES: Final = 1024 * 1024
"""Of payloads and results, after which a part ends."""

_STATES: Final = {state.value: state for state in TaskState}


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
        principals=map(principal_to_log, data.principals),
        join_tokens=map(_token_to_log, data.tokens),
        config=dict(data.settings),
        authority=authority_to_log(data.authority),
        judged_at_ms=data.judged_at_ms,
    )
    for tasks in _sliced(data.tasks, lambda task: task.stored_bytes):
        yield snapshot_pb2.StateSnapshot(tasks=map(_task_to_log, tasks))
    for requests in _sliced(data.requests):
        yield snapshot_pb2.StateSnapshot(requests=map(_request_to_log, requests))
    for delegations in _sliced(data.delegations):
        yield snapshot_pb2.StateSnapshot(delegations=map(delegation_to_log, delegations))
    for revocations in _sliced(data.revocations):
        yield snapshot_pb2.StateSnapshot(revocations=map(revocation_to_log, revocations))
    for records in _sliced(data.certificates):
        yield snapshot_pb2.StateSnapshot(certificates=map(certificate_to_log, records))
    for revoked in _sliced(data.certificate_revocations):
        yield snapshot_pb2.StateSnapshot(
            certificate_revocations=map(certificate_revocation_to_log, revoked)
        )
    for contents in _sliced(data.contents):
        yield snapshot_pb2.StateSnapshot(contents=map(_content_to_log, contents))


def _sliced(
    records: Iterable[T], size_bytes: Callable[[T], int] = lambda _record: 0
) -> Iterator[list[T]]:
    part: list[T] = []
    part_bytes = 0
    for record in records:
        part.append(record)
        part_bytes += size_bytes(record)
        if len(part) == PART_RECORDS or part_bytes >= PART_BYTES:
            yield part
            part, part_bytes = [], 0
    if part:
        yield part


def decode_snapshot(parts: Iterable[bytes]) -> StateData:
    """Decode the whole state. The bytes' checksum was checked where they were read.

    Raises:
        ClusterError: RELEASE_TOO_OLD.
    """
    head: snapshot_pb2.StateSnapshot | None = None
    reader = _Reader()
    tasks: list[Task] = []
    requests: list[RequestRecord] = []
    contents: list[Content] = []
    delegations: list[StoredDelegation] = []
    revocations: list[StoredRevocation] = []
    certificates: list[CertificateRecord] = []
    revoked: list[CertificateRevocation] = []
    for encoded in parts:
        part = snapshot_pb2.StateSnapshot.FromString(encoded)
        if part.format > FORMAT:
            raise ClusterError(
                Reason.RELEASE_TOO_OLD,
                "a snapshot of the log was written by a newer release; install that release on "
                "this node and start it again: nothing is lost",
            )
        head = head or part
        tasks += map(reader.task, part.tasks)
        requests += map(reader.request, part.requests)
        contents += map(reader.content, part.contents)
        delegations += map(delegation_from_log, part.delegations)
        revocations += map(revocation_from_log, part.revocations)
        certificates += map(certificate_from_log, part.certificates)
        revoked += map(certificate_revocation_from_log, part.certificate_revocations)
    head = head or snapshot_pb2.StateSnapshot()
    return StateData(
        cluster_id=head.cluster_id,
        cluster_name=head.cluster_name,
        cluster_did=Did(head.cluster_did),
        incarnation_last=head.incarnation_last,
        principals=tuple(map(principal_from_log, head.principals)),
        tokens=tuple(map(_token_from_log, head.join_tokens)),
        settings=dict(head.config),
        tasks=tuple(tasks),
        requests=tuple(requests),
        contents=tuple(contents),
        delegations=tuple(delegations),
        revocations=tuple(revocations),
        certificates=tuple(certificates),
        certificate_revocations=tuple(revoked),
        authority=authority_from_log(head.authority),
        judged_at_ms=head.judged_at_ms,
    )


class _Reader:
    """Decodes records; what repeats from one to the next becomes one object.

    A good part of the time, and of the memory, would go to making it again and again.
    """

    def __init__(self) -> None:
        self._strings: dict[str, str] = {}
        self._specs: dict[bytes, TaskSpec] = {}
        self._holders: dict[tuple[str, ...], tuple[NodeId, ...]] = {}

    def task(self, message: snapshot_pb2.TaskRecord) -> Task:
        node_id = message.node_id
        return Task(
            task_id=TaskId(message.task_id),
            sequence=message.sequence,
            spec=self._spec(message.spec),
            submitter=Did(self._shared(message.submitter)),
            state=_STATES[message.state],
            attempt=message.attempt,
            failed_count=message.failed_count,
            lost_count=message.lost_count,
            node_id=NodeId(self._shared(node_id)) if node_id else None,
            submitted_at_ms=message.submitted_at_ms,
            assigned_at_ms=message.assigned_at_ms,
            finished_at_ms=message.finished_at_ms,
            result=result_from_log(message.result) if message.HasField("result") else None,
            failure=failure_from_log(message.failure) if message.HasField("failure") else None,
        )

    def request(self, message: snapshot_pb2.RequestRecord) -> RequestRecord:
        return RequestRecord(
            self._shared(message.caller),
            message.request_id,
            message.at_ms,
            message.fingerprint,
            tuple(message.ids),
        )

    def content(self, message: snapshot_pb2.ContentRecord) -> Content:
        node_ids = tuple(message.node_ids)
        holders = self._holders.get(node_ids)
        if holders is None:
            holders = self._holders[node_ids] = tuple(map(NodeId, node_ids))
        return Content(
            cid=message.cid,
            size_bytes=message.size_bytes,
            holders=holders,
            name=message.name,
            added_at_ms=message.added_at_ms,
        )

    def _shared(self, text: str) -> str:
        return self._strings.setdefault(text, text)

    def _spec(self, message: command_pb2.TaskSpec) -> TaskSpec:
        if message.payload or message.inputs:
            return spec_from_log(message)
        key = message.SerializeToString()
        spec = self._specs.get(key)
        if spec is None:
            spec = self._specs[key] = spec_from_log(message)
        return spec


def _request_to_log(record: RequestRecord) -> snapshot_pb2.RequestRecord:
    return snapshot_pb2.RequestRecord(
        caller=record.caller,
        request_id=record.request_id,
        at_ms=record.at_ms,
        fingerprint=record.fingerprint,
        ids=record.ids,
    )


def _content_to_log(content: Content) -> snapshot_pb2.ContentRecord:
    return snapshot_pb2.ContentRecord(
        cid=content.cid,
        size_bytes=content.size_bytes,
        node_ids=content.holders,
        name=content.name,
        added_at_ms=content.added_at_ms,
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
            grant=token.grant,
            needs_approval=token.needs_approval,
        ),
        failure_count=token.failure_count,
        dids=token.dids,
        creator=token.creator,
        joiners=[
            snapshot_pb2.JoinerRecord(
                did=joiner.did,
                name=joiner.name,
                endpoints=joiner.endpoints,
                asked_at_ms=joiner.asked_at_ms,
                approved=joiner.approved,
            )
            for joiner in token.joiners
        ],
    )


def _token_from_log(message: snapshot_pb2.JoinTokenRecord) -> JoinToken:
    return JoinToken(
        token_id=message.token.token_id,
        secret_hash=message.token.secret_hash,
        role=Role(message.token.role),
        expires_at_ms=message.token.expires_at_ms,
        uses_max=message.token.uses_max,
        addresses=tuple(message.token.addresses),
        grant=message.token.grant,
        failure_count=message.failure_count,
        dids=tuple(map(Did, message.dids)),
        needs_approval=message.token.needs_approval,
        creator=message.creator,
        joiners=tuple(
            Joiner(
                Did(joiner.did),
                joiner.name,
                tuple(joiner.endpoints),
                joiner.asked_at_ms,
                joiner.approved if joiner.HasField("approved") else None,
            )
            for joiner in message.joiners
        ),
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

"""For every RPC the largest request that its limits allow, or the one that makes most work.

`LARGEST` has an entry for each method of `RULES_BY_METHOD`; the limits are the named constants that
the node itself checks by. `overfull` adds for every repeated field one that is filled until the
message is as long as gRPC takes, which must be refused.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from ipfs_cluster_node.adapters.net.tls import MESSAGE_BYTES_MAX
from ipfs_cluster_node.cluster.delegations import EXPLAINED_MAX, TOKENS_MAX
from ipfs_cluster_node.cluster.worker_sessions import HELLO_ATTEMPTS_MAX, OUTCOMES_PER_COMMAND_MAX
from ipfs_cluster_node.codec.pages import PAGE_SIZE_MAX
from ipfs_cluster_node.codec.sessions import hello_to_proto
from ipfs_cluster_node.codec.state_watch import NUMBERS, request_of
from ipfs_cluster_node.codec.tasks import attempt_to_proto
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.core.ids import TaskId, did_from_node_id
from ipfs_cluster_node.core.model import (
    ENDPOINTS_MAX,
    MESSAGE_CHARS_MAX,
    RESULT_INLINE_BYTES_MAX,
    SLOTS_MAX,
    SUBMISSION_BYTES_MAX,
    SUBMISSION_INPUTS_MAX,
    SUBMISSION_TASKS_MAX,
    TASK_INPUTS_MAX,
    TASK_TYPES_MAX,
    TOKEN_USES_MAX,
    WATCHED_TASKS_MAX,
    AttemptId,
)
from ipfs_cluster_node.core.state_events import WatchedTable
from ipfs_cluster_node.core.unixfs import BLOCK_BYTES_MAX
from ipfs_cluster_node.internal.v1 import blocks_pb2, masters_pb2
from ipfs_cluster_node.services.content import (
    BLOCKS_PER_REQUEST_MAX,
    DATA_BYTES_MAX,
    NAME_CHARS_MAX,
)
from ipfs_cluster_node.services.requests import request_type_of
from ipfs_cluster_node.v1 import (
    audit_pb2,
    authorization_pb2,
    certificate_pb2,
    content_pb2,
    enrolment_pb2,
    health_pb2,
    membership_pb2,
    roles_pb2,
    state_delta_pb2,
    task_dispatch_pb2,
)
from ipfs_cluster_node.worker.v1 import node_pb2, worker_pb2
from tests.support import largest_settings
from tests.support.large_cluster import cid_of

CALL_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 3.0
"""How long endless streams are read."""
JUDGED_SECONDS: Final = 5.0  # Evaluated row by row, a large table takes minutes.
_NUMBERS = count()


@dataclass(frozen=True)
class Scene:
    """Who calls, and what there is."""

    leader_id: str
    worker_id: str
    task_ids: Sequence[str]
    file_cid: str
    """Of a file that is stored, with many blocks."""
    block_cids: Sequence[bytes]
    tokens: Sequence[bytes]
    """Delegations, each as long as it may be."""


@dataclass(frozen=True)
class Largest:
    """A call: what is sent, by whom."""

    messages: Sequence[Any]
    by: str = "operator"
    """`operator`, `judged` (by long policies), `worker`, `master` or `joiner`."""
    seconds: float = CALL_SECONDS
    illegal: str = ""
    """Which field is filled beyond its bound; the call must be refused."""


def _id() -> str:
    return f"largest-{next(_NUMBERS)}-{time.time_ns()}"


def _pages(kind: Any, **fields: Any) -> list[Largest]:
    return _by_two(kind(page_size=PAGE_SIZE_MAX, **fields))


def _submission(spec_count: int, input_count: int, payload: bytes = b"p") -> Any:
    numbers = count()
    return task_dispatch_pb2.SubmitTasksRequest(
        request_id=_id(),
        specs=[
            task_dispatch_pb2.TaskSpec(
                task_type="echo",
                payload=payload,
                namespace=f"n{n}",
                inputs=[
                    task_dispatch_pb2.TaskInput(name=f"i{at}", cid=cid_of(next(numbers)))
                    for at in range(input_count)
                ],
            )
            for n in range(spec_count)
        ],
    )


def submit_tasks(_: Scene) -> list[Largest]:
    wide = SUBMISSION_INPUTS_MAX // TASK_INPUTS_MAX
    many = SUBMISSION_INPUTS_MAX // SUBMISSION_TASKS_MAX
    payload = bytes(SUBMISSION_BYTES_MAX // SUBMISSION_TASKS_MAX)
    return [
        Largest([_submission(count_, inputs, payload_)], by=by)
        for by in ("operator", "judged")
        for count_, inputs, payload_ in (
            (wide, TASK_INPUTS_MAX, b"p"),
            (SUBMISSION_TASKS_MAX, many, b"p"),
            (SUBMISSION_TASKS_MAX, 0, payload),
        )
    ]


def submit_task(_: Scene) -> list[Largest]:
    spec = _submission(1, TASK_INPUTS_MAX, bytes(1024 * 1024)).specs[0]
    return _by_two(task_dispatch_pb2.SubmitTaskRequest(request_id=_id(), spec=spec))


def watch_tasks(scene: Scene) -> list[Largest]:
    request = task_dispatch_pb2.WatchTasksRequest(task_ids=scene.task_ids[-WATCHED_TASKS_MAX:])
    return [Largest([request], by=by, seconds=WATCH_SECONDS) for by in ("operator", "judged")]


def worker_session(scene: Scene) -> list[Largest]:
    t = task_dispatch_pb2
    attempts = [AttemptId(TaskId(each), 1) for each in scene.task_ids[-HELLO_ATTEMPTS_MAX:]]
    results = [
        worker_pb2.AttemptOutcome(
            id=attempt_to_proto(attempt),
            result=t.TaskResult(data=bytes(RESULT_INLINE_BYTES_MAX // 16)),
        )
        for attempt in attempts[: OUTCOMES_PER_COMMAND_MAX // 2]
    ] + [
        worker_pb2.AttemptOutcome(
            id=attempt_to_proto(attempt),
            failure=worker_pb2.AttemptFailure(message="m" * MESSAGE_CHARS_MAX),
        )
        for attempt in attempts[: OUTCOMES_PER_COMMAND_MAX // 2]
    ]
    return [
        Largest(
            [
                worker_pb2.WorkerSessionRequest(hello=hello_to_proto(attempts, 0)),
                worker_pb2.WorkerSessionRequest(
                    outcomes=worker_pb2.AttemptOutcomes(outcomes=results)
                ),
            ],
            by="worker",
            seconds=WATCH_SECONDS,
        )
    ]


def add_content(_: Scene) -> list[Largest]:
    c = content_pb2
    pieces = [hashlib.sha256(_id().encode()).digest() * (DATA_BYTES_MAX // 32) for _ in range(16)]
    header = c.AddContentHeader(
        request_id=_id(), name="n" * NAME_CHARS_MAX, size_bytes=sum(map(len, pieces))
    )
    return [
        Largest(
            [c.AddContentRequest(header=header), *(c.AddContentRequest(data=p) for p in pieces)]
        )
    ]


def put_blocks(_: Scene) -> list[Largest]:
    blocks = [hashlib.sha256(_id().encode()).digest() * (BLOCK_BYTES_MAX // 32) for _ in range(4)]
    cids = [b"\x01\x55\x12\x20" + hashlib.sha256(block).digest() for block in blocks]
    return [
        Largest(
            [
                blocks_pb2.PutBlocksRequest(cid=cid, data=block)
                for cid, block in zip(cids, blocks, strict=True)
            ],
            by="master",
        )
    ]


def _by_two(request: Any) -> list[Largest]:
    return [Largest([request], by=by) for by in ("operator", "judged")]


def _tables(requests: Iterable[Any], seconds: float) -> list[Largest]:
    by_whom = {"operator": seconds, "judged": JUDGED_SECONDS}
    return [Largest([r], by=by, seconds=each) for r in requests for by, each in by_whom.items()]


def snapshots(_: Scene) -> list[Largest]:
    asked = [state_delta_pb2.GetSnapshotRequest(table=table) for table in NUMBERS.values()]
    return _tables(asked, CALL_SECONDS)


def state_watch(_: Scene) -> list[Largest]:
    return _tables([request_of([WatchedTable(name) for name in NUMBERS], b"", 100)], WATCH_SECONDS)


def get_blocks(scene: Scene) -> list[Largest]:
    return _by_two(content_pb2.GetBlocksRequest(cids=scene.block_cids[:BLOCKS_PER_REQUEST_MAX]))


def explain_access(scene: Scene) -> list[Largest]:
    inner = task_dispatch_pb2.WatchTasksRequest(task_ids=scene.task_ids[-WATCHED_TASKS_MAX:])
    few = _submission(EXPLAINED_MAX // 2, 0)
    service = "/ipfs_cluster_node.v1.TaskDispatchService"
    return [
        Largest(
            [
                authorization_pb2.ExplainAccessRequest(
                    tokens=scene.tokens[:TOKENS_MAX],
                    method=f"{service}/{method}",
                    request=request.SerializeToString(),
                )
            ]
        )
        for method, request in (("WatchTasks", inner), ("SubmitTasks", few))
    ]


def put_delegation(scene: Scene) -> list[Largest]:
    request = authorization_pb2.PutDelegationRequest(
        request_id=_id(), tokens=scene.tokens[:TOKENS_MAX]
    )
    return [Largest([request])]


def revoke_delegation(scene: Scene) -> list[Largest]:
    request = authorization_pb2.RevokeDelegationRequest(
        request_id=_id(), cid=str(cid_of_token(scene.tokens[0])), path=scene.tokens[:TOKENS_MAX]
    )
    return [Largest([request])]


def list_audit(_: Scene) -> list[Largest]:
    request = audit_pb2.ListAuditRecordsRequest(
        page_size=PAGE_SIZE_MAX, since_time=Timestamp(), caller_did="did:key:nobody"
    )
    return [Largest([request])]


def _worker(scene: Scene) -> str:
    return did_from_node_id(scene.worker_id)


def register_node(_: Scene) -> list[Largest]:
    request = node_pb2.RegisterNodeRequest(
        endpoints=[f"{'e' * 240}:{n + 1}" for n in range(ENDPOINTS_MAX)],
        task_types=["echo", *(f"{n:064d}" for n in range(TASK_TYPES_MAX - 1))],
        slot_count=SLOTS_MAX,
        version="v" * 64,
    )
    return [Largest([request], by="worker")]


def _one(kind: Any, by: str = "operator", **fields: Any) -> Callable[[Scene], list[Largest]]:
    def make(_: Scene) -> list[Largest]:
        named = {"request_id": _id()} if "request_id" in kind.DESCRIPTOR.fields_by_name else {}
        return [Largest([kind(**named, **fields)], by=by)]

    return make


def _of_file(kind: Any) -> Callable[[Scene], list[Largest]]:
    return lambda scene: _one(kind, cid=scene.file_cid)(scene)


def _lists(kind: Any) -> Callable[[Scene], list[Largest]]:
    return lambda _scene: _pages(kind)


def _transfer(scene: Scene) -> list[Largest]:
    leader = scene.leader_id
    request = membership_pb2.TransferLeadershipRequest(node_id=leader, from_node_id=leader)
    # The present leader: another term would hide the effects that this looks for.
    return [Largest([request])]


NOT_CALLED: Final = {
    "RaftService/Exchange": "its messages are what the cluster itself sends meanwhile",
    "MasterService/ReplaceLog": "of one size; it ends the log of who calls it",
    "MasterService/RenewForMember": "of one size; as RenewCertificate",
    "EnrolmentService/RenewExpiredCertificate": "of one size; as RenewCertificate",
    "ServerReflection/ServerReflectionInfo": "of gRPC, about the protos alone",
    "Health/Check": "of gRPC; one name",
    "Health/List": "of gRPC; no argument",
    "Health/Watch": "of gRPC; one name",
}
"""Methods that are not called with their largest request, and why."""
m, c, t = membership_pb2, certificate_pb2, task_dispatch_pb2
LARGEST: Final[dict[str, Callable[[Scene], list[Largest]]]] = {
    "AuditService/ListAuditRecords": list_audit,
    "AuthorizationService/ExplainAccess": explain_access,
    "AuthorizationService/GetCaller": _one(authorization_pb2.GetCallerRequest),
    "AuthorizationService/PutDelegation": put_delegation,
    "AuthorizationService/ListDelegations": _lists(authorization_pb2.ListDelegationsRequest),
    "AuthorizationService/RevokeDelegation": revoke_delegation,
    "CertificateService/GetRotation": _one(c.GetRotationRequest),
    "CertificateService/ListCertificates": _lists(c.ListCertificatesRequest),
    "CertificateService/RenewCertificate": _one(
        c.RenewCertificateRequest, certificate_request=bytes(8192), proof=bytes(64)
    ),
    "CertificateService/RevokeCertificate": _one(c.RevokeCertificateRequest, serial="f" * 40),
    "CertificateService/RotateCertificates": _one(c.RotateCertificatesRequest),
    "ContentService/AddContent": add_content,
    "ContentService/GetBlocks": get_blocks,
    "ContentService/GetContent": _of_file(content_pb2.GetContentRequest),
    "ContentService/KeepContent": _of_file(content_pb2.KeepContentRequest),
    "ContentService/ListContent": _lists(content_pb2.ListContentRequest),
    "BlockService/PutBlocks": put_blocks,
    "ContentService/StatContent": _of_file(content_pb2.StatContentRequest),
    "EnrolmentService/Enrol": _one(
        enrolment_pb2.EnrolRequest, by="joiner", certificate_request=bytes(32 * 1024)
    ),
    "HealthService/GetHealth": _one(health_pb2.GetHealthRequest),
    "MembershipService/CreateBackup": _one(m.CreateBackupRequest),
    "MembershipService/CreateJoinToken": _one(
        m.CreateJoinTokenRequest,
        role=roles_pb2.ROLE_WORKER,
        uses_max=TOKEN_USES_MAX,
        addresses=[f"{'a' * 240}:{n + 1}" for n in range(ENDPOINTS_MAX)],
    ),
    "MembershipService/DecideJoiner": lambda scene: [
        Largest([m.DecideJoinerRequest(request_id=_id(), did=_worker(scene), token_id="t" * 64)])
    ],
    "MembershipService/GetClusterStatus": _one(m.GetClusterStatusRequest),
    "NodeService/Heartbeat": _one(node_pb2.HeartbeatRequest, by="worker"),
    "NodeService/LeaveCluster": _one(node_pb2.LeaveClusterRequest, by="worker", check_only=True),
    "MembershipService/ListJoinTokens": _lists(m.ListJoinTokensRequest),
    "MembershipService/ListJoiners": _lists(m.ListJoinersRequest),
    "MembershipService/ListNodes": _lists(m.ListNodesRequest),
    "MembershipService/PlanConfig": lambda _: [Largest([r]) for r in largest_settings.plans()],
    "MembershipService/ListConfigVersions": _lists(m.ListConfigVersionsRequest),
    "MembershipService/ProposeConfig": lambda _: [
        Largest([request]) for request in largest_settings.proposals(_id)
    ],
    "MembershipService/GetConfig": _one(m.GetConfigRequest),
    "MasterService/RedeemJoinToken": _one(
        masters_pb2.RedeemJoinTokenRequest,
        by="master",
        token_id="t00001",
        secret_hash=bytes(32),
        name="n" * 64,
        certificate_request=bytes(32 * 1024),
    ),
    "NodeService/RegisterNode": register_node,
    "MembershipService/RevokeJoinToken": _one(m.RevokeJoinTokenRequest, token_id="t00000"),
    "MembershipService/TransferLeadership": _transfer,
    "StateDeltaService/GetSnapshot": snapshots,
    "StateDeltaService/Watch": state_watch,
    "TaskDispatchService/CancelTask": lambda scene: [
        Largest([t.CancelTaskRequest(request_id=_id(), task_id=scene.task_ids[0])])
    ],
    "TaskDispatchService/GetTask": lambda scene: [
        Largest([t.GetTaskRequest(task_id=scene.task_ids[-1])])
    ],
    "TaskDispatchService/ListTasks": lambda _scene: [
        *_pages(t.ListTasksRequest),
        *_pages(t.ListTasksRequest, task_id_prefix="none-begins-so"),
        *_pages(t.ListTasksRequest, namespace_pattern="*e" * 128),
    ],
    "TaskDispatchService/SubmitTask": submit_task,
    "TaskDispatchService/SubmitTasks": submit_tasks,
    "TaskDispatchService/WatchTasks": watch_tasks,
    "WorkerService/WorkerSession": worker_session,
    # Last: the file, and the master that held all files.
    "ContentService/RemoveContent": _of_file(content_pb2.RemoveContentRequest),
    "MembershipService/RemoveNode": lambda s: _one(m.RemoveNodeRequest, node_id=s.worker_id)(s),
}


@dataclass
class Answer:
    """What became of a call."""

    seconds: float
    size_bytes: int = 0
    code: grpc.StatusCode | None = None
    detail: str = ""
    largest_bytes: int = 0
    """Of one message."""


async def call(
    channel: grpc.aio.Channel, method: str, largest: Largest, metadata: Any = ()
) -> Answer:
    """Make a call and read all that it answers."""
    service, _, name = method.rpartition("/")
    described = descriptor_pool.Default().FindServiceByName(service.lstrip("/"))  # type: ignore[no-untyped-call]
    rpc = described.FindMethodByName(name)
    read = message_factory.GetMessageClass(rpc.output_type).FromString
    kind = (
        f"{'stream' if rpc.client_streaming else 'unary'}_"
        f"{'stream' if rpc.server_streaming else 'unary'}"
    )
    # Made beforehand: making it is not the server's work.
    encoded = [
        message if isinstance(message, bytes) else message.SerializeToString()
        for message in largest.messages
    ]
    multi = getattr(channel, kind)(method, None, read)

    async def requests() -> AsyncIterator[bytes]:
        for data in encoded:
            yield data

    given = requests() if rpc.client_streaming else encoded[0]
    began = time.perf_counter()
    answer = Answer(0.0)
    try:
        made = multi(given, timeout=largest.seconds, metadata=metadata)
        if rpc.server_streaming:
            async for response in made:
                size = response.ByteSize()
                answer.size_bytes += size
                answer.largest_bytes = max(answer.largest_bytes, size)
        else:
            answer.size_bytes = answer.largest_bytes = (await made).ByteSize()
    except grpc.aio.AioRpcError as error:
        answer.code, answer.detail = error.code(), error.details() or ""
    answer.seconds = time.perf_counter() - began
    return answer


def overfull(method: str, by: str) -> list[Largest]:
    """For each repeated field of a method's request, as many minimal elements as gRPC accepts."""
    kind = request_type_of(method)
    assert kind is not None
    hello = worker_pb2.WorkerSessionRequest(hello=hello_to_proto((), 0))
    return [
        # A session begins with hello, whatever comes then.
        Largest([hello, data] if path.startswith("outcomes") else [data], by=by, illegal=path)
        for path, data in _filled(kind.DESCRIPTOR, frozenset())
    ]


def _filled(kind: Descriptor, above: frozenset[Descriptor]) -> Iterator[tuple[str, bytes]]:
    """Paths of repeated fields, and the message in which one of them is full."""
    for each in kind.fields:
        number = each.number << 3
        if each.is_repeated:
            varint = each.type in VARINTS
            smallest = _varint(number) + b"\x01" if varint else _varint(number | 2) + b"\x00"
            yield each.name, smallest * (FILLED_BYTES // len(smallest))
        inner = each.message_type
        if inner is not None and inner not in above and not inner.GetOptions().map_entry:
            for path, data in _filled(inner, above | {kind}):
                yield f"{each.name}.{path}", _varint(number | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


VARINTS: Final = (FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)
FILLED_BYTES: Final = MESSAGE_BYTES_MAX - 1024


def names() -> Iterator[str]:
    """Every method that has an entry."""
    yield from LARGEST
    yield from NOT_CALLED

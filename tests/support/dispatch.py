"""Workers and leaders in one process: sessions over memory, attempts that only take time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.codec.commands import decode_command, encode_command
from ipfs_cluster_node.codec.errors import STATUS_DETAILS_KEY, status_details, status_of
from ipfs_cluster_node.codec.tasks import attempt_from_proto, attempt_to_proto
from ipfs_cluster_node.core.commands import CommandBody, LogCommand
from ipfs_cluster_node.core.effects import Effect, Rejected
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, TaskResult
from ipfs_cluster_node.core.session_protocol import agreed_version
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.tables import Touched
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2
from tests.support.virtual_time import monotonic, now_ms

HOP_SECONDS: Final = 0.001
_CANCELLED: Final = object()
Requests = AsyncIterator[worker_pb2.WorkerSessionRequest]
Serve = Callable[[Requests], AsyncIterator[worker_pb2.WorkerSessionResponse]]


def rpc_error(error: ClusterError) -> grpc.aio.AioRpcError:
    """What a caller sees of an error of the server's."""
    return grpc.aio.AioRpcError(
        status_of(error.reason),
        grpc.aio.Metadata(),
        grpc.aio.Metadata((STATUS_DETAILS_KEY, status_details(error))),
        details=error.message,
    )


class MemoryCall:
    """One session, as a caller's gRPC shows it; messages take a moment and are copied."""

    def __init__(self, serve: Serve) -> None:
        self._requests: asyncio.Queue[worker_pb2.WorkerSessionRequest] = asyncio.Queue()
        self._responses: asyncio.Queue[Any] = asyncio.Queue()
        self._server = asyncio.create_task(self._serve(serve))

    async def _serve(self, serve: Serve) -> None:
        end: Any = grpc.aio.EOF
        try:
            async for response in serve(self._iterate()):
                self._responses.put_nowait(_copy(response))
        except ClusterError as error:
            end = rpc_error(error)
        self._responses.put_nowait(end)

    async def _iterate(self) -> Requests:
        while True:
            yield await self._requests.get()

    async def write(self, message: worker_pb2.WorkerSessionRequest) -> None:
        copied = _copy(message)
        await asyncio.sleep(HOP_SECONDS)
        if self._server.done():
            raise asyncio.InvalidStateError("RPC already finished.")
        self._requests.put_nowait(copied)

    async def read(self) -> Any:
        message = await self._responses.get()
        if message is grpc.aio.EOF or not isinstance(message, Message):
            self._responses.put_nowait(message)
        if message is _CANCELLED:
            raise asyncio.CancelledError
        if isinstance(message, grpc.aio.AioRpcError):
            raise message
        if message is not grpc.aio.EOF:
            await asyncio.sleep(HOP_SECONDS)
        return message

    def cancel(self) -> None:
        self.cut(_CANCELLED)

    def cut(self, what: Any = None, *, server_seconds: float = 0.0) -> None:
        """Break the connection; the server notices after so long."""
        while not self._responses.empty():
            self._responses.get_nowait()
        gone = ClusterError(Reason.UNREACHABLE, "the connection broke")
        self._responses.put_nowait(what or rpc_error(gone))
        self._requests = asyncio.Queue()
        asyncio.get_running_loop().call_later(server_seconds, self._server.cancel)


class MemoryChannel:
    """A channel on which only sessions are held."""

    def __init__(self, open_call: Callable[[], MemoryCall]) -> None:
        self._open = open_call

    def stream_stream(self, *_: Any, **__: Any) -> Callable[[], MemoryCall]:
        return self._open

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name in ("unary_unary", "unary_stream", "stream_unary"):
            return lambda *_, **__: None
        raise AttributeError(name)


class MemoryConnection(Connection):
    """Follows the leader as the real one, over memory."""

    def __init__(self, open_call: Callable[[], MemoryCall]) -> None:
        super().__init__([("memory:1", None)], None)
        self._open_call = open_call

    def channel(self, target: object) -> Any:
        return MemoryChannel(self._open_call)


class FakeUplink:
    """A lease that the test gives and takes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.registered = asyncio.Event()
        self.registered.set()
        self.lease_ends = float("inf")
        self.boot = 7
        self.lapse_count = 0

    @property
    def lease_seconds_left(self) -> float:
        return self.lease_ends - monotonic()

    @property
    def lease_holds(self) -> bool:
        return self.lease_seconds_left > 0


@dataclass
class FakeRunner:
    """Attempts that take as many seconds as their payload says."""

    kill_seconds: float = 0.0
    outcome_of: Callable[[AttemptId], AttemptOutcome | None] = lambda _attempt: None
    alive: set[AttemptId] = field(default_factory=set)
    began: list[AttemptId] = field(default_factory=list)
    killed: list[AttemptId] = field(default_factory=list)
    most_at_once: int = 0
    on_begin: Callable[[AttemptId], None] = lambda _attempt: None

    async def run(self, attempt: AttemptId, spec: pb.TaskSpec) -> AttemptOutcome:
        assert attempt not in self.alive
        self.alive.add(attempt)
        self.began.append(attempt)
        self.most_at_once = max(self.most_at_once, len(self.alive))
        self.on_begin(attempt)
        try:
            await asyncio.sleep(float(spec.payload or b"0"))
        except asyncio.CancelledError:
            self.killed.append(attempt)
            await asyncio.sleep(self.kill_seconds)
            raise
        finally:
            self.alive.discard(attempt)
        return self.outcome_of(attempt) or succeeded(attempt)


def succeeded(attempt: AttemptId, data: bytes = b"done") -> AttemptOutcome:
    """An outcome that is a result."""
    return AttemptOutcome(id=attempt, result=TaskResult(data=data, size_bytes=len(data)))


def attempt(number: int, count: int = 1) -> AttemptId:
    """An attempt of the task of this number."""
    return AttemptId(TaskId(f"t{number}"), count)


class ScriptedLeader:
    """The other side of a worker's session, in a test's hand."""

    def __init__(self) -> None:
        self.pending: deque[tuple[AttemptId, float]] = deque()
        self.confirms = True
        self.stale: list[AttemptId] = []
        self.refuses: Callable[[list[worker_pb2.AttemptOutcome]], ClusterError | None] = lambda _: (
            None
        )
        self.protocol_version: int | None = None
        """What it answers to hellos; None for one that was offered."""
        self.hellos: list[list[AttemptId]] = []
        self.messages: list[worker_pb2.WorkerSessionRequest] = []
        """All but hellos, in the order in which they came."""
        self.outcomes: dict[AttemptId, list[worker_pb2.AttemptOutcome]] = {}
        self.credit = 0
        self.credit_most = 0
        self.calls: list[MemoryCall] = []
        self._outbox: asyncio.Queue[worker_pb2.WorkerSessionResponse | ClusterError] = (
            asyncio.Queue()
        )

    def open(self) -> MemoryCall:
        call = MemoryCall(self.serve)
        self.calls.append(call)
        return call

    async def serve(self, requests: Requests) -> AsyncIterator[worker_pb2.WorkerSessionResponse]:
        first = await anext(requests)
        assert first.WhichOneof("message") == "hello"
        self.hellos.append([attempt_from_proto(a) for a in first.hello.attempts])
        self.credit = 0
        outbox = self._outbox = asyncio.Queue()
        yield worker_pb2.WorkerSessionResponse(
            welcome=worker_pb2.WorkerWelcome(
                stale=map(attempt_to_proto, self.stale),
                protocol_version=agreed_version(first.hello.protocol_versions)
                if self.protocol_version is None
                else self.protocol_version,
            )
        )
        reader = asyncio.create_task(self._read(requests))
        try:
            while True:
                message = await outbox.get()
                if isinstance(message, ClusterError):
                    raise message
                yield message
        finally:
            reader.cancel()

    async def _read(self, requests: Requests) -> None:
        async for request in requests:
            self.messages.append(request)
            match request.WhichOneof("message"):
                case "credit":
                    self.credit += request.credit.attempt_count
                    self.credit_most = max(self.credit_most, self.credit)
                    self.assign()
                case "goodbye":
                    self.credit = 0
                case "outcomes":
                    outcomes = list(request.outcomes.outcomes)
                    error = self.refuses(outcomes)
                    if error is not None:
                        self.end(error)
                        continue
                    for outcome in outcomes:
                        at = attempt_from_proto(outcome.id)
                        self.outcomes.setdefault(at, []).append(outcome)
                    if self.confirms:
                        self.confirm(*(attempt_from_proto(o.id) for o in outcomes))

    def assign(self, *more: tuple[AttemptId, float]) -> None:
        """Send what waits, as far as the credit goes."""
        self.pending.extend(more)
        batch = worker_pb2.Assignments()
        while self.pending and self.credit > 0:
            self.credit -= 1
            at, seconds = self.pending.popleft()
            spec = pb.TaskSpec(task_type="echo", payload=str(seconds).encode())
            batch.assignments.add(id=attempt_to_proto(at), spec=spec)
        if batch.assignments:
            self._outbox.put_nowait(worker_pb2.WorkerSessionResponse(assignments=batch))

    def send(self, message: worker_pb2.WorkerSessionResponse) -> None:
        """Send a message as it is."""
        self._outbox.put_nowait(message)

    def confirm(self, *attempts: AttemptId) -> None:
        """Say that outcomes are committed."""
        ids = map(attempt_to_proto, attempts)
        self._outbox.put_nowait(
            worker_pb2.WorkerSessionResponse(confirmed=worker_pb2.OutcomesConfirmed(ids=ids))
        )

    def cancel(self, *attempts: AttemptId) -> None:
        """Have attempts killed."""
        ids = map(attempt_to_proto, attempts)
        self._outbox.put_nowait(
            worker_pb2.WorkerSessionResponse(cancellations=worker_pb2.Cancellations(ids=ids))
        )

    def end(self, error: ClusterError) -> None:
        """End the session."""
        self._outbox.put_nowait(error)

    def kinds(self) -> list[str]:
        """What came, by kind."""
        return [message.WhichOneof("message") or "" for message in self.messages]


async def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Let time pass until something holds; looks ever more seldom, within a hundredth."""
    began = monotonic()
    while not holds():
        waited = monotonic() - began
        assert waited < seconds, "it never came to hold"
        await asyncio.sleep(max(0.005, waited / 100))


class MemoryConsensus:
    """A master whose log is this process: what is proposed is committed after a moment."""

    def __init__(self, state: ClusterState, *, commit_seconds: float = 0.002) -> None:
        self.committed = state
        self.is_leader = True
        self.leads_for_sure = True
        self.commit_seconds = commit_seconds
        self.listeners: list[Callable[[Effect], None]] = []
        self.watchers: list[Callable[[int, Touched], None]] = []
        self.revision = 0
        self.proposed: list[CommandBody] = []
        self.refuses: Callable[[CommandBody], ClusterError | None] = lambda _body: None

    def state(self) -> ClusterState:
        return self.committed

    def check_leads(self) -> None:
        self.leader_state()

    def leader_state(self) -> ClusterState:
        if not self.is_leader:
            raise self.not_leader()
        return self.committed

    def read_state(self) -> ClusterState:
        if not self.leads_for_sure:
            raise self.not_leader()
        return self.leader_state()

    def not_leader(self) -> ClusterError:
        return ClusterError(Reason.NOT_LEADER, "this node does not lead")

    async def propose(
        self, body: CommandBody, *, caller: str = "", request_id: str = ""
    ) -> tuple[str, ...]:
        error = self.refuses(body)
        if error is not None:
            raise error
        self.proposed.append(body)
        await asyncio.sleep(self.commit_seconds)
        return self.commit(body, caller=caller, request_id=request_id)

    def commit(
        self, body: CommandBody, *, caller: str = "", request_id: str = ""
    ) -> tuple[str, ...]:
        """Apply a command, and carry out what it asks for."""
        command = LogCommand(at_ms=now_ms(), body=body, caller=caller, request_id=request_id)
        applied = self.committed.apply(decode_command(encode_command(command)))
        for effect in applied.effects:
            for listener in self.listeners:
                listener(effect)
        self.revision += 1
        for watcher in self.watchers:
            watcher(self.revision, applied.touched)
        if isinstance(applied.outcome, Rejected):
            raise ClusterError(applied.outcome.reason, applied.outcome.message)
        return applied.outcome.ids


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())

"""A worker's side: the session with the leader, attempts with their inputs and results."""

import asyncio
import errno
import logging
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc

from ipfs_cluster_node.adapters.content.fetch import BlockSource, fetch
from ipfs_cluster_node.adapters.content.files import materialize
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
    InputFile,
)
from ipfs_cluster_node.client.content import upload
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.tasks import (
    attempt_from_proto,
    attempt_text,
    attempt_to_proto,
    outcome_to_proto,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import (
    RESULT_INLINE_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
    TaskFailure,
    TaskResult,
)
from ipfs_cluster_node.core.multiformats import Cid, parse_cid
from ipfs_cluster_node.node.clock import monotonic
from ipfs_cluster_node.node.content import Contents, PeerBlocks
from ipfs_cluster_node.node.uplink import Uplink
from ipfs_cluster_node.services.context import ATTEMPT_KEY
from ipfs_cluster_node.v1 import content_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub

log = logging.getLogger(__name__)

RECONNECT_SECONDS: Final = 0.2
FENCE_INTERVAL_SECONDS: Final = 0.2
OUTCOMES_PER_MESSAGE_MAX: Final = 128
OUTCOME_BYTES_MAX: Final = 1024 * 1024
READ_AHEAD_SECONDS: Final = 0.1
"""Work taken ahead of free slots, so that short tasks do not wait for the log."""
READ_AHEAD_MAX: Final = 256
STAT_SECONDS_MAX: Final = 10.0
UPLOAD_SECONDS_MAX: Final = 300.0
FINAL_REASONS: Final = frozenset(
    {
        Reason.BLOCK_MISMATCH,
        Reason.CONTENT_NOT_FOUND,
        Reason.INVALID_ARGUMENT,
        Reason.MALFORMED_CID,
        Reason.PAYLOAD_TOO_LARGE,
        Reason.TASK_INPUT_INVALID,
    }
)
"""Another attempt would come to the same end; anything else may pass."""

ENDS_OF_A_SESSION: Final = (
    asyncio.CancelledError,
    grpc.aio.AioRpcError,
    asyncio.InvalidStateError,
)

ChannelTo = Callable[[NodeId], grpc.aio.Channel | None]


@dataclass(slots=True)
class _Held:
    """An attempt from its assignment until its outcome is confirmed."""

    task: asyncio.Task[None]
    outcome: AttemptOutcome | None = None
    sent: bool = field(default=False)


class Worker:
    """Runs attempts that the leader assigns."""

    def __init__(
        self,
        *,
        uplink: Uplink,
        pool: HandlerPool,
        slots: int,
        contents: Contents,
        channel_to: ChannelTo,
        scratch: Path,
    ) -> None:
        """Take what an attempt needs; `run` does the rest."""
        self._uplink = uplink
        self._pool = pool
        self._slots = slots
        self._contents = contents
        self._channel_to = channel_to
        self._scratch = scratch
        self._free = asyncio.Semaphore(slots)
        self._held: dict[AttemptId, _Held] = {}
        self._granted = 0
        self._seconds_mean = READ_AHEAD_SECONDS * slots
        self._wake = asyncio.Event()
        self._progress: dict[AttemptId, tuple[float, str]] = {}

    @property
    def running_count(self) -> int:
        """Attempts that have not ended."""
        return sum(held.outcome is None for held in self._held.values())

    async def run(self) -> None:
        """Hold a session with the leader, a new one whenever it breaks, until cancelled."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700, parents=True)
        await self._uplink.registered.wait()
        fence = asyncio.create_task(self._fence(), name="worker-fence")
        try:
            while True:
                try:
                    await self._uplink.connection.following(self._session, timeout=3600.0)
                except ClusterError as error:
                    log.info("session ended", extra={"reason": error.reason})
                await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            fence.cancel()
            for held in self._held.values():
                held.task.cancel()
            await asyncio.gather(
                fence, *(held.task for held in self._held.values()), return_exceptions=True
            )

    async def _session(self, channel: grpc.aio.Channel, _seconds: float) -> None:
        call = TaskDispatchServiceStub(channel).WorkerSession()
        writer: asyncio.Task[None] | None = None
        try:
            hello = pb.WorkerHello(attempts=map(attempt_to_proto, self._held))
            await call.write(pb.WorkerSessionRequest(hello=hello))
            welcome = await call.read()
            if not isinstance(welcome, pb.WorkerSessionResponse):
                return
            self._drop(attempt_from_proto(a) for a in welcome.welcome.stale)
            self._granted = 0
            for held in self._held.values():
                held.sent = False
            writer = asyncio.create_task(self._write(call), name="worker-session-writer")
            # Without its writer a session would go on, and say nothing.
            writer.add_done_callback(lambda _writer: call.cancel())
            while isinstance(message := await call.read(), pb.WorkerSessionResponse):
                self._take(message)
        finally:
            if writer is not None:
                writer.cancel()
                [ended] = await asyncio.gather(writer, return_exceptions=True)
                if not isinstance(ended, ENDS_OF_A_SESSION):
                    log.error("session's writer failed", exc_info=ended)
            call.cancel()

    def _take(self, message: pb.WorkerSessionResponse) -> None:
        match message.WhichOneof("message"):
            case "assignments":
                for assignment in message.assignments.assignments:
                    self._granted -= 1
                    self._start(attempt_from_proto(assignment.id), assignment.spec)
            case "confirmed":
                for attempt in message.confirmed.ids:
                    self._held.pop(attempt_from_proto(attempt), None)
                self._wake.set()
            case "cancellations":
                self._drop(attempt_from_proto(a) for a in message.cancellations.ids)

    def _start(self, attempt: AttemptId, spec: pb.TaskSpec) -> None:
        if attempt not in self._held:
            task = asyncio.create_task(self._run(attempt, spec), name=f"attempt-{attempt.task_id}")
            self._held[attempt] = _Held(task)

    def _drop(self, attempts: Iterable[AttemptId]) -> None:
        """Kill attempts that nobody wants any more; nothing is reported."""
        for attempt in attempts:
            held = self._held.pop(attempt, None)
            if held is not None:
                held.task.cancel()
        self._wake.set()

    async def _write(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        while True:
            self._wake.clear()
            credit = self._slots + self._read_ahead() - self.running_count - self._granted
            if credit > 0 and self._uplink.lease_holds:
                self._granted += credit
                grant = pb.WorkerCredit(attempt_count=credit)
                await call.write(pb.WorkerSessionRequest(credit=grant))
            if outcomes := self._unsent():
                await call.write(
                    pb.WorkerSessionRequest(outcomes=pb.AttemptOutcomes(outcomes=outcomes))
                )
            while self._progress:
                attempt, (ratio, note) = self._progress.popitem()
                progress = pb.AttemptProgress(id=attempt_to_proto(attempt), ratio=ratio, note=note)
                await call.write(pb.WorkerSessionRequest(progress=progress))
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wake.wait()

    def _unsent(self) -> list[pb.AttemptOutcome]:
        # One message at a time: what ends meanwhile goes together in the next, as one commit.
        if any(held.sent for held in self._held.values()):
            return []
        batch: list[pb.AttemptOutcome] = []
        batch_bytes = 0
        for held in self._held.values():
            if held.outcome is None or held.sent:
                continue
            message = outcome_to_proto(held.outcome)
            batch_bytes += message.ByteSize()
            if batch and batch_bytes > OUTCOME_BYTES_MAX:
                break
            held.sent = True
            batch.append(message)
            if len(batch) == OUTCOMES_PER_MESSAGE_MAX:
                break
        return batch

    def _read_ahead(self) -> int:
        per_second = self._slots / max(self._seconds_mean, 1e-4)
        return min(READ_AHEAD_MAX, int(per_second * READ_AHEAD_SECONDS) - 1)

    async def _fence(self) -> None:
        # Once the lease is over others may run our attempts: ours must be dead by then.
        while True:
            await asyncio.sleep(FENCE_INTERVAL_SECONDS)
            if not self._uplink.lease_holds and self.running_count:
                log.warning("lease lost, attempts killed", extra={"count": self.running_count})
                for attempt, held in self._held.items():
                    if held.outcome is None:
                        held.task.cancel()
                        # Reported when the leader is back: it may believe that they still run.
                        held.outcome = _failed(
                            attempt,
                            Reason.WORKER_LOST,
                            "the worker's lease ran out",
                            retryable=True,
                        )
                self._wake.set()

    # One attempt.

    async def _run(self, attempt: AttemptId, spec: pb.TaskSpec) -> None:
        async with self._free:
            began = monotonic()
            scratch = self._scratch / f"{attempt.task_id}.{attempt.attempt}"
            try:
                outcome = await self._attempt(attempt, spec, scratch)
            except ClusterError as error:
                again = error.reason not in FINAL_REASONS
                outcome = _failed(attempt, error.reason, error.message, retryable=again)
            except Exception as error:
                # An attempt that ended without an outcome would stay assigned for ever.
                log.exception("attempt failed in the worker", extra={"task_id": attempt.task_id})
                full = isinstance(error, OSError) and error.errno == errno.ENOSPC
                reason = Reason.STORAGE_FULL if full else Reason.INTERNAL
                outcome = _failed(attempt, reason, f"the worker failed: {error}", retryable=True)
            finally:
                if scratch.exists():
                    await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
            self._seconds_mean += 0.2 * (monotonic() - began - self._seconds_mean)
        held = self._held.get(attempt)
        if held is not None and held.outcome is None:
            held.outcome = outcome
            self._wake.set()

    async def _attempt(
        self, attempt: AttemptId, spec: pb.TaskSpec, scratch: Path
    ) -> AttemptOutcome:
        timeout = spec.attempt_timeout.ToTimedelta()
        ends = monotonic() + timeout.total_seconds()
        scratch.mkdir(mode=0o700)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                inputs = await self._inputs(attempt, spec, scratch)
        except TimeoutError:
            return _failed(
                attempt,
                Reason.ATTEMPT_TIMED_OUT,
                f"the inputs were not here within {timeout.total_seconds():g} s; give it longer",
                retryable=False,
            )
        result = await self._pool.execute(
            Attempt(
                task_id=attempt.task_id,
                attempt=attempt.attempt,
                task_type=spec.task_type,
                payload=spec.payload,
                content_type=spec.content_type,
                timeout=timedelta(seconds=max(0.001, ends - monotonic())),
                inputs=inputs,
            ),
            scratch,
        )
        if isinstance(result, AttemptFailed):
            return _failed(attempt, result.reason, result.message, retryable=result.retryable)
        return await self._succeeded(attempt, result, scratch)

    async def _inputs(
        self, attempt: AttemptId, spec: pb.TaskSpec, scratch: Path
    ) -> dict[str, InputFile]:
        inputs: dict[str, InputFile] = {}
        for position, named in enumerate(spec.inputs):
            name, cid, file_format = named.name, parse_cid(named.cid), named.format
            await self._fetch(cid, attempt)
            path = scratch / f"input-{position}"
            try:
                await materialize(cid, self._contents.store, path)
            except ClusterError as error:
                if error.reason is not Reason.CONTENT_NOT_FOUND:
                    raise
                # A block was here, and damaged; where one is, others may be.
                await self._fetch(cid, attempt, check=True)
                await materialize(cid, self._contents.store, path)
            inputs[name] = InputFile(path=path, cid=str(cid), format=file_format)
        return inputs

    async def _fetch(self, cid: Cid, attempt: AttemptId, *, check: bool = False) -> None:
        async def from_holders(channel: grpc.aio.Channel, seconds: float) -> list[BlockSource]:
            return await self._sources(channel, cid, attempt, seconds)

        sources = await self._uplink.connection.following(from_holders, timeout=STAT_SECONDS_MAX)
        await fetch(cid, store=self._contents.store, sources=sources, check=check)

    async def _sources(
        self, channel: grpc.aio.Channel, cid: Cid, attempt: AttemptId, seconds: float
    ) -> list[BlockSource]:
        """The masters, those that hold the file first: no other node knows what an attempt may."""
        by_attempt = ((ATTEMPT_KEY, attempt_text(attempt)),)
        holders: list[NodeId] = []
        try:
            response = await ContentServiceStub(channel).StatContent(
                content_pb2.StatContentRequest(cid=str(cid)),
                timeout=min(seconds, 5.0),
                metadata=by_attempt,
            )
            holders = [NodeId(h.node_id) for h in response.content.holders if h.endpoints]
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
            if error.reason is not Reason.CONTENT_NOT_FOUND:
                raise error from rpc_error
        masters = dict.fromkeys(n for _, n in self._uplink.connection.targets if n is not None)
        sources: list[BlockSource] = []
        for node_id in sorted(masters, key=lambda node_id: node_id not in holders):
            peer = self._channel_to(node_id)
            if peer is not None:
                sources.append(PeerBlocks(node_id, peer, root=cid, metadata=by_attempt))
        return sources

    async def _succeeded(
        self, attempt: AttemptId, result: AttemptSucceeded, scratch: Path
    ) -> AttemptOutcome:
        data, path = result.data, result.file
        if path is None and len(data) > RESULT_INLINE_BYTES_MAX:
            path = scratch / "large-result"
            await asyncio.to_thread(path.write_bytes, data)
            data = b""
        cid, size = "", len(data)
        if path is not None:
            # The attempt is over for the cluster only when its bytes are safe.
            added = await upload(
                self._uplink.connection,
                path,
                name="",
                timeout=UPLOAD_SECONDS_MAX,
                metadata=((ATTEMPT_KEY, attempt_text(attempt)),),
            )
            cid, size = added.cid, added.size_bytes
        return AttemptOutcome(
            id=attempt,
            result=TaskResult(
                data=data, content_type=result.content_type, cid=cid, size_bytes=size
            ),
        )

    def on_progress(self, task_id: TaskId, attempt: int, ratio: float, note: str) -> None:
        """Take news of an attempt; only the newest is sent."""
        self._progress[AttemptId(task_id, attempt)] = (ratio, note)
        self._wake.set()


def _failed(attempt: AttemptId, reason: Reason, message: str, *, retryable: bool) -> AttemptOutcome:
    return AttemptOutcome(id=attempt, failure=TaskFailure(reason, message), retryable=retryable)

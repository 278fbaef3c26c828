"""A worker's side: the session with the leader, and the attempts that it assigns."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import grpc

from ipfs_cluster_node.codec.tasks import (
    attempt_from_proto,
    attempt_to_proto,
    outcome_to_proto,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
)
from ipfs_cluster_node.node.attempts import AttemptRunner, failed
from ipfs_cluster_node.node.clock import monotonic
from ipfs_cluster_node.node.uplink import Uplink
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub

log = logging.getLogger(__name__)

RECONNECT_SECONDS: Final = 0.2
FENCE_INTERVAL_SECONDS: Final = 0.2
OUTCOMES_PER_MESSAGE_MAX: Final = 128
OUTCOME_BYTES_MAX: Final = 1024 * 1024
READ_AHEAD_SECONDS: Final = 0.1
"""Work taken ahead of free slots, so that short tasks do not wait for the log."""
READ_AHEAD_MAX: Final = 256

ENDS_OF_A_SESSION: Final = (
    asyncio.CancelledError,
    grpc.aio.AioRpcError,
    asyncio.InvalidStateError,
)


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
        runner: AttemptRunner,
        slots: int,
    ) -> None:
        """Take what runs an attempt; `run` does the rest."""
        self._uplink = uplink
        self._runner = runner
        self._slots = slots
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
        self._runner.clear()
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
                        held.outcome = failed(
                            attempt,
                            Reason.WORKER_LOST,
                            "the worker's lease ran out",
                            retryable=True,
                        )
                self._wake.set()

    async def _run(self, attempt: AttemptId, spec: pb.TaskSpec) -> None:
        async with self._free:
            began = monotonic()
            outcome = await self._runner.run(attempt, spec)
            self._seconds_mean += 0.2 * (monotonic() - began - self._seconds_mean)
        held = self._held.get(attempt)
        if held is not None and held.outcome is None:
            held.outcome = outcome
            self._wake.set()

    def on_progress(self, task_id: TaskId, attempt: int, ratio: float, note: str) -> None:
        """Take news of an attempt; only the newest is sent."""
        self._progress[AttemptId(task_id, attempt)] = (ratio, note)
        self._wake.set()

"""A worker's side: its session with the leader, and the attempts that it is assigned."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.sessions import check_welcome, hello_to_proto
from ipfs_cluster_node.codec.tasks import (
    attempt_from_proto,
    attempt_to_proto,
    outcome_or_failure,
    outcome_to_proto,
)
from ipfs_cluster_node.core.credit import HELD_MAX, credit_due, in_hand_max, next_mean
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    NOTE_CHARS_MAX,
    AttemptId,
    AttemptOutcome,
)
from ipfs_cluster_node.node.attempts import AttemptRunner, failed, handed_back
from ipfs_cluster_node.node.uplink import Uplink
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2
from ipfs_cluster_node.worker.v1.worker_pb2_grpc import WorkerServiceStub

log = logging.getLogger(__name__)

SESSION_SECONDS_MAX: Final = 3600.0
"""How long no leader is found before that is logged."""
RECONNECT_SECONDS_MIN: Final = 0.2
RECONNECT_SECONDS_MAX: Final = 5.0
"""Between sessions that end at once; the shortest after one in which the leader answered."""
WRITER_SECONDS_MAX: Final = 1.0
"""How long the writer sleeps unless woken: the lease may be back."""
FENCE_SECONDS: Final = 0.2
"""How often the lease is checked, at least."""
FENCE_TICK_SECONDS: Final = 0.001
"""How long after the moment to act the fence wakes, so that it never wakes just too early."""
FENCE_MARGIN_SECONDS: Final = 0.2
"""How long before the lease's end attempts are killed: they must be dead when it expires."""
WAIT_SECONDS_MAX: Final = 5.0
"""How long an attempt may wait for a slot here; another worker may have one."""
HAND_BACK_SECONDS_MAX: Final = 2.0
"""How long a stopping node waits until the leader has its attempts back."""
LEAVE_POLL_SECONDS: Final = 0.02
GATHER_SECONDS: Final = 0.01
"""Between messages while attempts wait for a slot: outcomes are collected into one commit."""
PROGRESS_SECONDS: Final = 0.2
"""Between two rounds of progress: chatty handlers must not delay outcomes."""
OUTCOMES_PER_MESSAGE_MAX: Final = 128
OUTCOME_BYTES_MAX: Final = 1024 * 1024
REFUSED_FOR_GOOD: Final = frozenset(
    {Reason.INTERNAL, Reason.INVALID_ARGUMENT, Reason.PAYLOAD_TOO_LARGE}
)
"""Errors that end a session, and would again if the leader received the same."""
REFUSALS_MAX: Final = 3
"""Sessions that one unconfirmed outcome may end before it becomes a failure."""

ENDS_OF_A_SESSION: Final = (
    asyncio.CancelledError,
    grpc.aio.AioRpcError,
    asyncio.InvalidStateError,
)


@dataclass(slots=True, eq=False)
class _Held:
    """An attempt from its assignment until its outcome is confirmed."""

    since: float
    task: asyncio.Task[AttemptOutcome] | None = None
    outcome: worker_pb2.AttemptOutcome | None = None
    given_up: AttemptOutcome | None = None
    """The outcome reported once its process is dead; None while it may run."""
    sent: bool = False
    refusal_count: int = 0
    """How many sessions ended for good with only this outcome unconfirmed."""


class Worker:
    """Runs the attempts that the leader assigns."""

    def __init__(
        self,
        *,
        uplink: Uplink,
        runner: AttemptRunner,
        slots: int,
        has_room: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Run at most `slots` attempts at once; without room on the disk, accept none."""
        self._clock = clock
        self._uplink = uplink
        self._runner = runner
        self._slots = slots
        self._has_room = has_room
        self._free = asyncio.Semaphore(slots)
        self._held: dict[AttemptId, _Held] = {}
        self._running: dict[AttemptId, float] = {}
        """Attempts that have a slot, and since when; the youngest last."""
        self._granted = 0
        self._seconds_mean: float | None = None
        self._wake = asyncio.Event()
        self._progress: dict[AttemptId, worker_pb2.AttemptProgress] = {}
        self._outcomes_max = OUTCOMES_PER_MESSAGE_MAX
        self._reconnect_seconds = RECONNECT_SECONDS_MIN
        self._overcommitted = False
        """Whether more attempts were accepted than could run in time, and some were handed back."""
        self._leaving = False

    @property
    def _may_run(self) -> bool:
        """Whether the lease lasts long enough to kill running attempts before it expires."""
        return self._uplink.lease_seconds_left > FENCE_MARGIN_SECONDS

    @property
    def running_count(self) -> int:
        """Attempts that have not ended."""
        return sum(held.outcome is None for held in self._held.values())

    async def run(self) -> None:
        """Hold a session with the leader, a new one whenever it breaks, until cancelled."""
        await self._uplink.registered.wait()
        fence = asyncio.create_task(self._fence(), name="worker-fence")
        try:
            while True:
                try:
                    await self._uplink.connection.following(
                        self._session, timeout=SESSION_SECONDS_MAX
                    )
                except ClusterError as error:
                    # Without a session the node runs nothing, and only a person can help.
                    needs_help = error.reason is Reason.PROTOCOL_UNSUPPORTED
                    log.log(
                        logging.ERROR if needs_help else logging.INFO,
                        "session ended",
                        extra={"reason": error.reason, "why": error.message},
                    )
                await asyncio.sleep(self._reconnect_seconds)
                self._reconnect_seconds = min(2 * self._reconnect_seconds, RECONNECT_SECONDS_MAX)
        finally:
            fence.cancel()
            tasks = [held.task for held in self._held.values() if held.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(fence, *tasks, return_exceptions=True)

    async def leave(self, drain: timedelta) -> None:
        """Accept no more attempts, and finish or return those in hand while `run` continues.

        Those that wait for a slot go back to the leader at once; running ones may continue for
        `drain`, then are killed and returned. Ends soon, or once the leader has confirmed all.

        If cancelled, it no longer waits for running attempts, and returns them all before it ends;
        cancelled a second time, it ends at once.
        """
        try:
            await self._leave(drain)
        except asyncio.CancelledError:
            await self._leave(timedelta())
            raise

    def stay(self) -> None:
        """Accept attempts again, after `leave`."""
        self._leaving = False
        self._wake.set()

    async def _leave(self, drain: timedelta) -> None:
        self._leaving = True
        self._wake.set()
        self._hand_back(waited_seconds=0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain.total_seconds()):
                while self.running_count:
                    await asyncio.sleep(LEAVE_POLL_SECONDS)
        for attempt, held in self._held.items():
            self._give_up(held, handed_back(attempt))
        with suppress(TimeoutError):
            async with asyncio.timeout(HAND_BACK_SECONDS_MAX):
                while self._held:
                    await asyncio.sleep(LEAVE_POLL_SECONDS)

    # The session.

    async def _session(self, channel: grpc.aio.Channel, _seconds: float) -> None:
        call = WorkerServiceStub(channel).WorkerSession()
        writer: asyncio.Task[None] | None = None
        try:
            hello = hello_to_proto(self._held, self._uplink.boot)
            await call.write(worker_pb2.WorkerSessionRequest(hello=hello))
            welcome = await call.read()
            if not isinstance(welcome, worker_pb2.WorkerSessionResponse):
                return
            check_welcome(welcome.welcome)
            self._drop(attempt_from_proto(a) for a in welcome.welcome.stale)
            self._granted = 0
            for held in self._held.values():
                held.sent = False
            writer = asyncio.create_task(self._write(call), name="worker-session-writer")
            # Without its writer the session would stay open and send nothing.
            writer.add_done_callback(lambda _writer: call.cancel())
            while isinstance(message := await call.read(), worker_pb2.WorkerSessionResponse):
                self._take(message)
        except grpc.aio.AioRpcError as rpc_error:
            self._refused(error_from_rpc(rpc_error))
            raise
        finally:
            if writer is not None:
                writer.cancel()
                [ended] = await asyncio.gather(writer, return_exceptions=True)
                if not isinstance(ended, ENDS_OF_A_SESSION):
                    log.error("session's writer failed", exc_info=ended)
            call.cancel()

    def _take(self, message: worker_pb2.WorkerSessionResponse) -> None:
        self._reconnect_seconds = RECONNECT_SECONDS_MIN
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
            case _:
                pass  # Of a newer leader, which relies on nothing here: see worker.proto.

    async def _write(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        async def send(**message: Any) -> None:
            await call.write(worker_pb2.WorkerSessionRequest(**message))

        sent_goodbye = False
        progress_at = 0.0
        while True:
            self._wake.clear()
            if self._leaving and not sent_goodbye:
                # Before returned attempts: the leader must not assign them to this node again.
                sent_goodbye = True
                await send(goodbye=worker_pb2.WorkerGoodbye())
            credit = self._credit()
            if credit:
                self._granted += credit
                await send(credit=worker_pb2.WorkerCredit(attempt_count=credit))
            if outcomes := self._unsent():
                await send(outcomes=worker_pb2.AttemptOutcomes(outcomes=outcomes))
            if self._progress and self._clock.monotonic() >= progress_at:
                progress_at = self._clock.monotonic() + PROGRESS_SECONDS
                notes, self._progress = self._progress, {}
                for progress in notes.values():
                    await send(progress=progress)
            sleep = PROGRESS_SECONDS if self._progress else WRITER_SECONDS_MAX
            with suppress(TimeoutError):
                async with asyncio.timeout(sleep):
                    await self._wake.wait()
            if self.running_count > len(self._running):
                await asyncio.sleep(GATHER_SECONDS)

    def _credit(self) -> int:
        """How many more attempts to ask for: none while others may consider this node dead.

        A negative number takes back credit from when attempts were shorter, or the disk not full:
        returned attempts would be assigned here again.
        """
        if self._leaving or not self._may_run or len(self._held) >= HELD_MAX:
            return 0
        if not self._has_room():
            return min(0, -self._granted)
        youngest = 0.0
        if len(self._running) >= self._slots:
            youngest = self._clock.monotonic() - next(reversed(self._running.values()))
        wanted = in_hand_max(
            self._slots, seconds_mean=self._seconds_mean, seconds_youngest=youngest
        )
        in_hand = self.running_count + self._granted
        if self._overcommitted:
            self._overcommitted = False
            return max(wanted - in_hand, -self._granted)
        return credit_due(self._slots, wanted=wanted, in_hand=in_hand)

    def _unsent(self) -> list[worker_pb2.AttemptOutcome]:
        # One message at a time: outcomes meanwhile go into the next one, as one commit.
        if any(held.sent for held in self._held.values()):
            return []
        batch: list[worker_pb2.AttemptOutcome] = []
        batch_bytes = 0
        for held in self._held.values():
            if held.outcome is None:
                continue
            batch_bytes += held.outcome.ByteSize()
            if batch and batch_bytes > OUTCOME_BYTES_MAX:
                break
            held.sent = True
            batch.append(held.outcome)
            if len(batch) == self._outcomes_max:
                break
        else:
            self._outcomes_max = OUTCOMES_PER_MESSAGE_MAX  # No refused outcome is left.
        return batch

    def _refused(self, error: ClusterError) -> None:
        """After a session ended: don't repeat for ever what it may have ended for."""
        sent = [(attempt, held) for attempt, held in self._held.items() if held.sent]
        if error.reason not in REFUSED_FOR_GOOD or not sent:
            return
        self._outcomes_max = 1  # Until it is known which outcome it was.
        if len(sent) > 1:
            return
        [(attempt, held)] = sent
        held.refusal_count += 1
        if held.refusal_count == REFUSALS_MAX:
            log.error("outcome refused", extra={"task_id": attempt.task_id, "why": str(error)})
            held.outcome = outcome_to_proto(
                failed(
                    attempt,
                    Reason.INTERNAL,
                    f"the leader refused its outcome: {error.message}",
                    retryable=False,
                )
            )
        elif held.refusal_count > REFUSALS_MAX:
            del self._held[attempt]  # Missing from the next hello, it counts as lost.

    # Attempts.

    def _start(self, attempt: AttemptId, spec: pb.TaskSpec) -> None:
        if attempt in self._held:
            return
        held = self._held[attempt] = _Held(since=self._clock.monotonic())
        if self._leaving or not self._may_run or not self._has_room():
            held.outcome = outcome_to_proto(handed_back(attempt))
            self._wake.set()
            return
        held.task = asyncio.create_task(
            self._run(attempt, spec), name=f"attempt-{attempt.task_id}.{attempt.attempt}"
        )
        held.task.add_done_callback(lambda task: self._ended(attempt, held, task))

    async def _run(self, attempt: AttemptId, spec: pb.TaskSpec) -> AttemptOutcome:
        async with self._free:
            began = self._running[attempt] = self._clock.monotonic()
            try:
                outcome = await self._runner.run(attempt, spec)
            finally:
                del self._running[attempt]
            if outcome.failure is None:  # Instant failures must not make a worker look fast.
                self._seconds_mean = next_mean(self._seconds_mean, self._clock.monotonic() - began)
            return outcome

    def _ended(self, attempt: AttemptId, held: _Held, task: asyncio.Task[AttemptOutcome]) -> None:
        outcome = held.given_up if task.cancelled() else task.result()
        if outcome is not None and self._held.get(attempt) is held:
            held.outcome = encoded_or_failure(outcome)
            self._wake.set()

    def _give_up(self, held: _Held, outcome: AttemptOutcome) -> bool:
        """Kill an attempt unless it is ending; its outcome is reported once it is dead."""
        if held.outcome is not None or held.given_up is not None or held.task is None:
            return False
        held.given_up = outcome
        held.task.cancel()
        return True

    def _drop(self, attempts: Iterable[AttemptId]) -> None:
        """Kill attempts that are no longer wanted; nothing is reported."""
        for attempt in attempts:
            held = self._held.pop(attempt, None)
            if held is not None and held.task is not None:
                held.task.cancel()
        self._wake.set()

    def _hand_back(self, *, waited_seconds: float) -> None:
        """Return attempts that have waited longer than this for a slot."""
        since = self._clock.monotonic() - waited_seconds
        for attempt, held in self._held.items():
            if attempt not in self._running and held.since <= since:
                self._overcommitted |= self._give_up(held, handed_back(attempt))

    async def _fence(self) -> None:
        # Once the lease expires others may run our attempts: ours must be dead by then.
        lapses = self._uplink.lapse_count
        while True:
            left = self._uplink.lease_seconds_left - FENCE_MARGIN_SECONDS
            pause = min(left + FENCE_TICK_SECONDS, FENCE_SECONDS) if left > 0 else FENCE_SECONDS
            await asyncio.sleep(pause)
            if not self._may_run or lapses != self._uplink.lapse_count:
                lapses = self._uplink.lapse_count
                self._lose_all()
            self._hand_back(waited_seconds=WAIT_SECONDS_MAX if self._has_room() else 0.0)

    def _lose_all(self) -> None:
        alive = [
            (attempt, held)
            for attempt, held in self._held.items()
            if held.outcome is None and held.given_up is None
        ]
        if alive:
            log.warning("lease lost, attempts killed", extra={"count": len(alive)})
        for attempt, held in alive:
            # Reported when the leader is back: it may consider them running.
            self._give_up(
                held,
                failed(attempt, Reason.WORKER_LOST, "the worker's lease ran out", retryable=True),
            )

    def on_progress(self, task_id: TaskId, attempt: int, ratio: float, note: str) -> None:
        """Take an attempt's progress; only the newest is sent, if a message can hold it."""
        at = AttemptId(task_id, attempt)
        try:
            progress = worker_pb2.AttemptProgress(
                id=attempt_to_proto(at), ratio=ratio, note=note[:NOTE_CHARS_MAX]
            )
        except (TypeError, ValueError, OverflowError):
            return
        if not self._progress:
            self._wake.set()
        self._progress[at] = progress


def encoded_or_failure(outcome: AttemptOutcome) -> worker_pb2.AttemptOutcome:
    """Encode an outcome; one that the leader would refuse becomes the attempt's failure."""
    try:
        return outcome_to_proto(outcome_or_failure(outcome_to_proto(outcome)))
    except (TypeError, ValueError) as error:  # E.g. lone surrogates fit in no message.
        log.exception("outcome can't be sent", extra={"task_id": outcome.id.task_id})
        return outcome_to_proto(
            failed(
                outcome.id,
                Reason.HANDLER_FAILED,
                f"its outcome can't be sent ({type(error).__name__}); return text and bytes",
                retryable=False,
            )
        )

"""Sessions of workers with the leader, and the loop that gives them tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from ipfs_cluster_node.codec.tasks import (
    attempt_from_proto,
    attempt_to_proto,
    outcome_or_failure,
    spec_to_proto,
)
from ipfs_cluster_node.core.boots import Boots
from ipfs_cluster_node.core.commands import AssignTasks, FinishAttempts, RequeueAttempts
from ipfs_cluster_node.core.credit import CREDIT_MAX
from ipfs_cluster_node.core.effects import (
    AttemptsAssigned,
    AttemptsRevoked,
    Effect,
    MembersChanged,
    TasksPending,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import (
    NOTE_CHARS_MAX,
    AttemptId,
    AttemptOutcome,
    Liveness,
    TaskFailure,
)
from ipfs_cluster_node.core.scheduler import WorkerOffer, plan
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.node.leadership import Leadership
from ipfs_cluster_node.node.tasks import Tasks
from ipfs_cluster_node.services.turns import gathered
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb

log = logging.getLogger(__name__)

ASSIGNMENTS_PER_COMMAND_MAX: Final = 512
ASSIGNMENTS_PER_MESSAGE_MAX: Final = 64
ASSIGNMENT_BYTES_MAX: Final = 1024 * 1024
OUTCOMES_PER_COMMAND_MAX: Final = 256
OUTCOME_BYTES_MAX: Final = 1024 * 1024
"""Of results and messages in one command; far below what an entry of the log holds."""
OUTBOX_MESSAGES_MAX: Final = 4096
"""A worker that reads so slowly loses its session, and begins a new one."""
HELLO_ATTEMPTS_MAX: Final = 16_384
"""Attempts that a worker runs, or whose outcomes are not confirmed, when its session begins."""
RETRY_SECONDS: Final = 0.2


class _Session:
    def __init__(self, node_id: NodeId, task_types: frozenset[str]) -> None:
        self.node_id = node_id
        self.task_types = task_types
        self.credit = 0
        self.leaving = False
        """Whether its worker said goodbye: it gets nothing more."""
        self.outbox: asyncio.Queue[pb.WorkerSessionResponse | ClusterError] = asyncio.Queue(
            OUTBOX_MESSAGES_MAX
        )

    def send(self, message: pb.WorkerSessionResponse | ClusterError) -> None:
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.warning("worker reads too slowly", extra={"node_id": self.node_id})
            self.end(ClusterError(Reason.OVERLOADED, "the session fell behind; begin a new one"))

    def end(self, error: ClusterError) -> None:
        while not self.outbox.empty():
            self.outbox.get_nowait()
        self.outbox.put_nowait(error)


class Sessions:
    """Who works for this leader."""

    def __init__(self, leadership: Leadership, tasks: Tasks) -> None:
        """Start with nobody."""
        self._leadership = leadership
        self._tasks = tasks
        self._sessions: dict[NodeId, _Session] = {}
        self.boots = Boots()
        """Which processes speak for the members; shared with what keeps other connections."""
        self._wake = asyncio.Event()

    async def worker_session(
        self, node_id: NodeId, requests: AsyncIterator[pb.WorkerSessionRequest]
    ) -> AsyncIterator[pb.WorkerSessionResponse]:
        """Serve one session; a newer one of the same process ends it.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE while another process of the same identity has one.
        """
        state = self._leadership.leader_state()
        node = state.members.node(node_id)
        if node is None:
            raise ClusterError(Reason.MEMBER_NOT_FOUND, "this node is no member; join it first")
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "hello":
            raise invalid_field("message", "hello comes first")
        held = await _held(first.hello)
        self.boots.joined(node_id, first.hello.boot)
        session = _Session(node_id, frozenset(node.task_types))
        previous, self._sessions[node_id] = self._sessions.get(node_id), session
        if previous is not None:
            previous.end(ClusterError(Reason.SHUTTING_DOWN, "a newer session took its place"))
        reader: asyncio.Task[None] | None = None
        try:
            yield await self._welcome(node_id, held)
            reader = asyncio.create_task(self._read(session, requests), name=f"session-{node_id}")
            while True:
                message = await session.outbox.get()
                if isinstance(message, ClusterError):
                    raise message
                yield message
        finally:
            if reader is not None:
                reader.cancel()
                with suppress(asyncio.CancelledError):
                    await reader
            if self._sessions.get(node_id) is session:
                del self._sessions[node_id]
            self.boots.left(node_id)

    async def _welcome(self, node_id: NodeId, held: set[AttemptId]) -> pb.WorkerSessionResponse:
        # What the log gives to this worker and the worker does not have was lost on the way.
        running = self._leadership.leader_state().tasks.running_on(node_id)
        missing = tuple(attempt for attempt in running if attempt not in held)
        if missing:
            await self._leadership.propose(RequeueAttempts(ids=missing))
        # A leader that was replaced and has not heard of it must not have attempts killed.
        tasks = self._leadership.read_state().tasks
        welcome = pb.WorkerSessionResponse(welcome=pb.WorkerWelcome())

        def told() -> Iterator[None]:
            for attempt in held:
                if not tasks.is_current(attempt, node_id):
                    welcome.welcome.stale.append(attempt_to_proto(attempt))
                yield

        await gathered(told())
        return welcome

    async def _read(
        self, session: _Session, requests: AsyncIterator[pb.WorkerSessionRequest]
    ) -> None:
        try:
            async for request in requests:
                await self._take(session, request)
            session.send(ClusterError(Reason.SHUTTING_DOWN, "the worker ended its session"))
        except ClusterError as error:
            session.end(error)
        except Exception:
            # A session that nobody reads any longer would go on, and confirm nothing.
            log.exception("session failed", extra={"node_id": session.node_id})
            session.end(ClusterError(Reason.INTERNAL, "the leader failed; its log says why"))

    async def _take(self, session: _Session, request: pb.WorkerSessionRequest) -> None:
        match request.WhichOneof("message"):
            case "credit":
                granted = session.credit + request.credit.attempt_count
                session.credit = max(-CREDIT_MAX, min(CREDIT_MAX, granted))
                self._wake.set()
            case "goodbye":
                session.leaving = True
            case "outcomes":
                for outcomes in _in_commands(request.outcomes.outcomes):
                    await self._finish(session, outcomes)
            case "progress":
                attempt = attempt_from_proto(request.progress.id)
                if self._leadership.leader_state().tasks.is_current(attempt, session.node_id):
                    # In this order: what is not a number becomes 0.
                    ratio = min(1.0, max(0.0, request.progress.ratio))
                    note = request.progress.note[:NOTE_CHARS_MAX]
                    self._tasks.on_progress(attempt.task_id, ratio, note)
            case "hello":
                raise invalid_field("message", "hello comes first, and only once")
            case _:
                pass  # Of a newer release; it has to get along without.

    async def _finish(self, session: _Session, outcomes: list[AttemptOutcome]) -> None:
        """Commit outcomes, and confirm all: what is refused is not to be said again.

        Stale ones are committed too. A leader that was replaced and has not heard of it knows no
        newer attempts, and would have their outcomes forgotten.
        """
        state = self._leadership.leader_state()
        outcomes = [_with_its_file(outcome, state) for outcome in outcomes]
        await self._leadership.propose(
            FinishAttempts(node_id=session.node_id, outcomes=tuple(outcomes))
        )
        ids = [attempt_to_proto(outcome.id) for outcome in outcomes]
        session.send(pb.WorkerSessionResponse(confirmed=pb.OutcomesConfirmed(ids=ids)))

    def on_effect(self, effect: Effect) -> None:
        """Send workers what was committed for them."""
        if isinstance(effect, AttemptsAssigned):
            session = self._sessions.get(effect.node_id)
            if session is not None and self._leadership.is_leader:
                session.credit -= len(effect.ids)
                self._send_assignments(session, effect.ids)
        elif isinstance(effect, AttemptsRevoked):
            session = self._sessions.get(effect.node_id)
            if session is not None:
                ids = map(attempt_to_proto, effect.ids)
                session.send(pb.WorkerSessionResponse(cancellations=pb.Cancellations(ids=ids)))
        elif isinstance(effect, TasksPending | MembersChanged):
            # A node that is alive again may have granted its credit before.
            self._wake.set()

    def _send_assignments(self, session: _Session, attempts: tuple[AttemptId, ...]) -> None:
        tasks = self._leadership.state().tasks
        batch = pb.Assignments()
        batch_bytes = 0
        for attempt in attempts:
            task = tasks.get(attempt.task_id)
            assert task is not None, "an effect is carried out before the next command"
            size = len(task.spec.payload)
            if batch.assignments and (
                len(batch.assignments) >= ASSIGNMENTS_PER_MESSAGE_MAX
                or batch_bytes + size > ASSIGNMENT_BYTES_MAX
            ):
                session.send(pb.WorkerSessionResponse(assignments=batch))
                batch, batch_bytes = pb.Assignments(), 0
            batch.assignments.add(id=attempt_to_proto(attempt), spec=spec_to_proto(task.spec))
            batch_bytes += size
        session.send(pb.WorkerSessionResponse(assignments=batch))

    def on_leadership(self, leads: bool) -> None:  # noqa: FBT001
        """End every session when the leadership is lost."""
        if not leads:
            for session in self._sessions.values():
                session.end(self._leadership.not_leader())

    async def run(self) -> None:
        """Plan and commit assignments whenever there is something to give and someone to take."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._leadership.is_leader:
                planned = self._plan()
                if not planned:
                    break
                try:
                    # One plan at a time: the next one sees what this one used.
                    await self._leadership.propose(AssignTasks(assignments=tuple(planned)))
                except ClusterError as error:
                    log.info("assignment not committed", extra={"reason": error.reason})
                    await asyncio.sleep(RETRY_SECONDS)

    def _plan(self) -> list[tuple[TaskId, NodeId]]:
        state = self._leadership.leader_state()
        offers = {
            node_id: WorkerOffer(node_id, session.task_types, session.credit)
            for node_id, session in self._sessions.items()
            if session.credit > 0 and not session.leaving and _takes_work(state, node_id)
        }
        return plan(state.tasks, offers, count_max=ASSIGNMENTS_PER_COMMAND_MAX) if offers else []


def _takes_work(state: ClusterState, node_id: NodeId) -> bool:
    node = state.members.node(node_id)
    return node is not None and node.liveness is Liveness.ALIVE


async def _held(hello: pb.WorkerHello) -> set[AttemptId]:
    """The attempts that a worker says it has."""
    if len(hello.attempts) > HELLO_ATTEMPTS_MAX:
        raise invalid_field("hello.attempts", f"at most {HELLO_ATTEMPTS_MAX}")
    held: set[AttemptId] = set()

    def read() -> Iterator[None]:
        for each in hello.attempts:
            held.add(attempt_from_proto(each))
            yield

    await gathered(read())
    return held


def _in_commands(messages: Iterable[pb.AttemptOutcome]) -> Iterator[list[AttemptOutcome]]:
    """Outcomes in lists that each fit in one command."""
    outcomes: list[AttemptOutcome] = []
    size = 0
    for message in messages:
        outcome = outcome_or_failure(message)
        outcome_bytes = len(outcome.result.data) if outcome.result is not None else 0
        if outcome.failure is not None:
            outcome_bytes += len(outcome.failure.message.encode())
            outcome_bytes += len(outcome.failure.output_tail.encode())
        if outcomes and (
            len(outcomes) >= OUTCOMES_PER_COMMAND_MAX or size + outcome_bytes > OUTCOME_BYTES_MAX
        ):
            yield outcomes
            outcomes, size = [], 0
        outcomes.append(outcome)
        size += outcome_bytes
    if outcomes:
        yield outcomes


def _with_its_file(outcome: AttemptOutcome, state: ClusterState) -> AttemptOutcome:
    """The outcome; a failure where its result is a file that the cluster does not hold."""
    if outcome.result is None or not outcome.result.cid or outcome.result.cid in state.contents:
        return outcome
    failure = TaskFailure(
        Reason.CONTENT_NOT_FOUND,
        f"the result's file {outcome.result.cid} was not added to the cluster before",
    )
    return replace(outcome, result=None, failure=failure, retryable=True)

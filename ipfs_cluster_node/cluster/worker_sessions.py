"""Sessions of workers with the leader."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from typing import Final

from ipfs_cluster_node.access.turns import gathered
from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.outbox import Kind, Outbox
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.codec.sessions import Introduction, hello_from_proto, welcome_to_proto
from ipfs_cluster_node.codec.tasks import (
    attempt_from_proto,
    attempt_to_proto,
    outcome_or_failure,
)
from ipfs_cluster_node.core.backoff import Backoff, backoff_after
from ipfs_cluster_node.core.boots import Boots
from ipfs_cluster_node.core.commands import FinishAttempts, RequeueAttempts
from ipfs_cluster_node.core.credit import CREDIT_MAX, HELD_MAX
from ipfs_cluster_node.core.effects import (
    AttemptsAssigned,
    AttemptsRevoked,
    Effect,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import (
    NOTE_CHARS_MAX,
    AttemptId,
    AttemptOutcome,
    Liveness,
)
from ipfs_cluster_node.core.scheduler import WorkerOffer
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.tables import TableName, Touched
from ipfs_cluster_node.core.tasks import TaskTable
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb

log = logging.getLogger(__name__)

OUTCOMES_PER_COMMAND_MAX: Final = 256
OUTCOME_BYTES_MAX: Final = 1024 * 1024
"""Of results and messages in one command; far below the limit of a log entry."""
HELLO_ATTEMPTS_MAX: Final = 2 * HELD_MAX
"""Attempts that a worker runs, or whose outcomes are unconfirmed, when its session begins."""
BACKOFF_TICK_SECONDS: Final = 0.001
"""How long after the end of a worker's rest the planner wakes, so that it is never too early."""

PLANNED_BY: Final = frozenset({TableName.TASKS, TableName.PRINCIPALS})
"""The tables on which a plan depends."""


class _Session:
    def __init__(
        self, node_id: NodeId, task_types: frozenset[str], sessions: "WorkerSessions"
    ) -> None:
        self.node_id = node_id
        self.task_types = task_types
        self.credit = 0
        self.leaving = False
        """Whether its worker said goodbye: it gets nothing more."""
        self._wake = sessions.wake
        self.outbox = Outbox(node_id, sessions.tasks_now, self.grant)

    def grant(self, count: int) -> None:
        """Add credit: requested by the worker, or returned by assignments that were not sent."""
        self.credit = max(-CREDIT_MAX, min(CREDIT_MAX, self.credit + count))
        self._wake.set()

    def send(self, kind: Kind, attempts: Iterable[AttemptId]) -> None:
        if not self.outbox.put(kind, attempts):
            log.warning("worker reads too slowly", extra={"node_id": self.node_id})


class WorkerSessions:
    """The workers connected to this leader."""

    def __init__(
        self, consensus: Consensus, tasks: Tasks, observations: Observations, *, clock: Clock
    ) -> None:
        self._clock = clock
        self._consensus = consensus
        self._tasks = tasks
        self._sessions: dict[NodeId, _Session] = {}
        self.boots = Boots()
        """The processes that act for the members; shared with the other connections' owners."""
        self._backoffs = observations.backoffs
        self.wake = asyncio.Event()
        """Set whenever there may be something to plan."""

    def tasks_now(self) -> TaskTable:
        """The tasks as this node knows them."""
        return self._consensus.state().tasks

    async def worker_session(
        self, node_id: NodeId, requests: AsyncIterator[pb.WorkerSessionRequest]
    ) -> AsyncIterator[pb.WorkerSessionResponse]:
        """Serve one session; a newer one of the same process ends it.

        Raises:
            ClusterError: MEMBER_RUNS_TWICE while another process of the same identity has one;
                PROTOCOL_UNSUPPORTED, INVALID_ARGUMENT, MEMBER_NOT_FOUND.
        """
        state = self._consensus.leader_state()
        node = state.members.node(node_id)
        if node is None:
            raise ClusterError(Reason.MEMBER_NOT_FOUND, "this node is not a member; join it first")
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "hello":
            raise invalid_field("message", "hello comes first")
        said = hello_from_proto(first.hello)
        held = await _held(first.hello)
        self.boots.joined(node_id, first.hello.boot)
        session = _Session(node_id, frozenset(node.task_types), self)
        previous, self._sessions[node_id] = self._sessions.get(node_id), session
        if previous is not None:
            previous.outbox.end(
                ClusterError(Reason.SHUTTING_DOWN, "a newer session took its place")
            )
        reader: asyncio.Task[None] | None = None
        try:
            log.info("session begins", extra={"node_id": node_id, "sdk": said.sdk})
            yield await self._welcome(node_id, held, said)
            reader = asyncio.create_task(self._read(session, requests), name=f"session-{node_id}")
            while True:
                yield await session.outbox.next()
        finally:
            if reader is not None:
                reader.cancel()
                with suppress(asyncio.CancelledError):
                    await reader
            if self._sessions.get(node_id) is session:
                del self._sessions[node_id]
            self.boots.left(node_id)

    async def _welcome(
        self, node_id: NodeId, held: set[AttemptId], said: Introduction
    ) -> pb.WorkerSessionResponse:
        # Attempts that the log assigns to this worker and it does not have were lost in transit.
        running = self._consensus.leader_state().tasks.running_on(node_id)
        missing = tuple(attempt for attempt in running if attempt not in held)
        if missing:
            await self._consensus.propose(RequeueAttempts(ids=missing))
        # A deposed leader that does not know it yet must not have attempts killed.
        tasks = self._consensus.read_state().tasks
        stale = await gathered(
            None if tasks.is_current(attempt, node_id) else attempt_to_proto(attempt)
            for attempt in held
        )
        welcome = welcome_to_proto(said)
        welcome.stale.extend(stale)
        return pb.WorkerSessionResponse(welcome=welcome)

    async def _read(
        self, session: _Session, requests: AsyncIterator[pb.WorkerSessionRequest]
    ) -> None:
        try:
            async for request in requests:
                await self._take(session, request)
            session.outbox.close(ClusterError(Reason.SHUTTING_DOWN, "the worker ended its session"))
        except ClusterError as error:
            session.outbox.end(error)
        except Exception:
            # Without a reader the session would stay open and confirm nothing.
            log.exception("session failed", extra={"node_id": session.node_id})
            failed = ClusterError(Reason.INTERNAL, "the leader failed; its log says why")
            session.outbox.end(failed)

    async def _take(self, session: _Session, request: pb.WorkerSessionRequest) -> None:
        match request.WhichOneof("message"):
            case "credit":
                session.grant(request.credit.attempt_count)
            case "goodbye":
                session.leaving = True
            case "outcomes":
                for outcomes in _in_commands(request.outcomes.outcomes):
                    await self._finish(session, outcomes)
            case "progress":
                attempt = attempt_from_proto(request.progress.id)
                if self._consensus.leader_state().tasks.is_current(attempt, session.node_id):
                    # `max` first, so that NaN becomes 0; with `min` first it would become 1.
                    ratio = min(1.0, max(0.0, request.progress.ratio))
                    note = request.progress.note[:NOTE_CHARS_MAX]
                    self._tasks.on_progress(attempt.task_id, ratio, note)
            case "hello":
                raise invalid_field("message", "hello comes first, and only once")
            case _:
                pass  # Of a newer worker, which takes nothing as done by it: see worker.proto.

    async def _finish(self, session: _Session, outcomes: list[AttemptOutcome]) -> None:
        """Commit outcomes, and confirm all: refused ones must not be sent again.

        Stale ones are committed too. A deposed leader that does not know it yet has no newer
        attempts, and would have their outcomes dropped.
        """
        self._consensus.check_leads()
        # Before the returned attempts are pending again: else the same worker gets them at once.
        self._note_backoff(session.node_id, outcomes)
        await self._consensus.propose(
            FinishAttempts(node_id=session.node_id, outcomes=tuple(outcomes))
        )
        session.send(Kind.CONFIRMED, [outcome.id for outcome in outcomes])

    def _note_backoff(self, node_id: NodeId, outcomes: list[AttemptOutcome]) -> None:
        tasks = self.tasks_now()
        own = [outcome for outcome in outcomes if tasks.is_current(outcome.id, node_id)]
        now = self._clock.monotonic()
        before = self._backoffs.get(node_id, Backoff())
        backoff = self._backoffs[node_id] = backoff_after(before, own, now)
        if backoff.until > before.until:
            seconds = backoff.until - now + BACKOFF_TICK_SECONDS
            asyncio.get_running_loop().call_later(seconds, self.wake.set)

    def on_effect(self, effect: Effect) -> None:
        """Send workers what was committed for them."""
        if isinstance(effect, AttemptsAssigned):
            session = self._sessions.get(effect.node_id)
            # A session may outlive the leadership briefly: the new leader sends its assignments
            # itself. A revoked attempt is void whoever leads.
            if session is not None and self._consensus.is_leader:
                session.credit -= len(effect.ids)
                session.send(Kind.ASSIGNED, effect.ids)
        elif isinstance(effect, AttemptsRevoked):
            session = self._sessions.get(effect.node_id)
            if session is not None:
                session.send(Kind.CANCELLED, effect.ids)

    def on_change(self, _revision: int, touched: Touched | None) -> None:
        """Plan again if tasks or workers changed, unless no worker is connected."""
        # A node that is alive again may have granted its credit before.
        if self._sessions and (touched is None or not PLANNED_BY.isdisjoint(touched)):
            self.wake.set()

    def on_leadership(self, leads: bool) -> None:  # noqa: FBT001
        """End every session when leadership is lost."""
        if not leads:
            for session in self._sessions.values():
                session.outbox.end(self._consensus.not_leader())

    def offers(self, state: ClusterState, now: float) -> dict[NodeId, WorkerOffer]:
        """What the workers can take at `now`: those that are alive, have credit and do not rest."""
        offers: dict[NodeId, WorkerOffer] = {}
        for node_id, session in self._sessions.items():
            node = state.members.node(node_id)
            if node is None or node.liveness is not Liveness.ALIVE:
                continue
            if (
                session.credit <= 0
                or session.leaving
                or now < self._backoffs.get(node_id, Backoff()).until
            ):
                continue
            free = node.slot_count - state.tasks.running_count(node_id)
            offers[node_id] = WorkerOffer(node_id, session.task_types, session.credit, free)
        return offers


async def _held(hello: pb.WorkerHello) -> set[AttemptId]:
    """The attempts that a worker reports."""
    if len(hello.attempts) > HELLO_ATTEMPTS_MAX:
        raise invalid_field("hello.attempts", f"at most {HELLO_ATTEMPTS_MAX}")
    return set(await gathered(map(attempt_from_proto, hello.attempts)))


def _in_commands(messages: Iterable[pb.AttemptOutcome]) -> Iterator[list[AttemptOutcome]]:
    """Split outcomes into lists that each fit in one command."""
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

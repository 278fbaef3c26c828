"""Messages that a leader still has to send in a worker's session, kept as attempt ids."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from ipfs_cluster_node.access.turns import current_turn
from ipfs_cluster_node.codec.tasks import attempt_to_proto, spec_to_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import AttemptId
from ipfs_cluster_node.core.tasks import TaskTable
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb

ASSIGNMENTS_PER_MESSAGE_MAX: Final = 64
ASSIGNMENT_BYTES_MAX: Final = 1024 * 1024
"""Payloads in one message, unless a single one is longer."""
IDS_PER_MESSAGE_MAX: Final = 512
OUTBOX_ATTEMPTS_MAX: Final = 16_384
"""A slower worker loses its session, and starts a new one."""
BYTES_PER_TURN: Final = 64 * 1024
"""Copied for one worker before yielding to others."""
BYTES_PER_ASSIGNMENT: Final = 1024
"""Counted for an assignment in addition to its payload."""


class Kind(Enum):
    """What a message says of an attempt."""

    ASSIGNED = "assigned"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"


class Outbox:
    """The messages that one session still has to send, in order."""

    def __init__(
        self,
        node_id: NodeId,
        tasks: Callable[[], TaskTable],
        return_credit: Callable[[int], None],
    ) -> None:
        """Send to a worker; payloads are read from `tasks` when they are sent.

        `return_credit` takes the number of assignments that were void and left out.
        """
        self._node_id = node_id
        self._tasks = tasks
        self._return_credit = return_credit
        self._queue: deque[tuple[Kind, AttemptId] | ClusterError] = deque()
        self._filled = asyncio.Event()
        self._turn = current_turn()
        self._copied_bytes = 0

    def put(self, kind: Kind, attempts: Iterable[AttemptId]) -> bool:
        """Queue a message; False, and the session ends, if its worker reads too slowly."""
        self._queue.extend((kind, attempt) for attempt in attempts)
        if len(self._queue) > OUTBOX_ATTEMPTS_MAX:
            self.end(ClusterError(Reason.OVERLOADED, "the session fell behind; start a new one"))
            return False
        if self._queue:
            self._filled.set()
        return True

    def close(self, error: ClusterError) -> None:
        """End the session once everything is sent."""
        self._queue.append(error)
        self._filled.set()

    def end(self, error: ClusterError) -> None:
        """End the session; nothing more is sent."""
        self._queue.clear()
        self.close(error)

    async def next(self) -> pb.WorkerSessionResponse:
        """The next message, made from the current tasks.

        Raises:
            ClusterError: Why the session ends.
        """
        while True:
            await self._filled.wait()
            if self._copied_bytes + self._head_bytes() > BYTES_PER_TURN and self._turn.over:
                await self._turn.next()
                self._copied_bytes = 0
            head = self._queue[0]  # The end, if the session ended meanwhile.
            if isinstance(head, ClusterError):
                raise head
            kind, _ = head
            message = (
                self._assignments()
                if kind is Kind.ASSIGNED
                else pb.WorkerSessionResponse(confirmed=pb.OutcomesConfirmed(ids=self._ids(kind)))
                if kind is Kind.CONFIRMED
                else pb.WorkerSessionResponse(cancellations=pb.Cancellations(ids=self._ids(kind)))
            )
            if not self._queue:
                self._filled.clear()
                self._copied_bytes = 0
            if message is not None:
                return message

    def _first(self, kind: Kind) -> AttemptId | None:
        """The next attempt, if it is of this kind."""
        head = self._queue[0] if self._queue else None
        return head[1] if isinstance(head, tuple) and head[0] is kind else None

    def _head_bytes(self) -> int:
        attempt = self._first(Kind.ASSIGNED)
        task = None if attempt is None else self._tasks().get(attempt.task_id)
        return 0 if task is None else BYTES_PER_ASSIGNMENT + len(task.spec.payload)

    def _ids(self, kind: Kind) -> list[pb.AttemptId]:
        ids: list[pb.AttemptId] = []
        while len(ids) < IDS_PER_MESSAGE_MAX and (attempt := self._first(kind)) is not None:
            self._queue.popleft()
            ids.append(attempt_to_proto(attempt))
        return ids

    def _assignments(self) -> pb.WorkerSessionResponse | None:
        tasks = self._tasks()
        batch = pb.Assignments()
        batch_bytes = left_out = 0
        while len(batch.assignments) < ASSIGNMENTS_PER_MESSAGE_MAX:
            attempt = self._first(Kind.ASSIGNED)
            if attempt is None:
                break
            task = tasks.get(attempt.task_id)
            if task is None or not tasks.is_current(attempt, self._node_id):
                self._queue.popleft()
                left_out += 1
                continue
            size = len(task.spec.payload)
            if batch.assignments and batch_bytes + size > ASSIGNMENT_BYTES_MAX:
                break
            self._queue.popleft()
            batch.assignments.add(id=attempt_to_proto(attempt), spec=spec_to_proto(task.spec))
            batch_bytes += size
        self._copied_bytes += batch_bytes + BYTES_PER_ASSIGNMENT * len(batch.assignments)
        if left_out:
            self._return_credit(left_out)
        return pb.WorkerSessionResponse(assignments=batch) if batch.assignments else None

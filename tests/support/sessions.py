"""A leader, and the other side of its workers' sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from ipfs_cluster_node.cluster.dispatch import Dispatch
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.sessions import hello_to_proto
from ipfs_cluster_node.codec.tasks import attempt_from_proto, attempt_to_proto
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.model import AttemptId, TaskSpec
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2
from tests.support.dispatch import MemoryCall, MemoryConsensus, attempt, until
from tests.support.virtual_time import loop_clock, monotonic
from tests.support.worlds import CLIENT, WORKER, World


class ScriptedWorker:
    """The other side of a session, in a test's hand."""

    def __init__(self, sessions: WorkerSessions, node_id: NodeId) -> None:
        self.call = MemoryCall(lambda requests: sessions.worker_session(node_id, requests))
        self.assigned: dict[AttemptId, pb.TaskSpec] = {}
        self.batches: list[worker_pb2.Assignments] = []
        self.confirmed: list[AttemptId] = []
        self.cancelled: list[AttemptId] = []
        self.stale: list[AttemptId] | None = None
        self.ended: ClusterError | None = None
        self.reads = True
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while isinstance(message := await self.call.read(), Message):
                assert isinstance(message, worker_pb2.WorkerSessionResponse)
                match message.WhichOneof("message"):
                    case "welcome":
                        self.stale = [attempt_from_proto(a) for a in message.welcome.stale]
                    case "assignments":
                        self.batches.append(message.assignments)
                        for each in message.assignments.assignments:
                            self.assigned[attempt_from_proto(each.id)] = each.spec
                    case "confirmed":
                        self.confirmed += [attempt_from_proto(a) for a in message.confirmed.ids]
                    case "cancellations":
                        self.cancelled += map(attempt_from_proto, message.cancellations.ids)
        except Exception as error:
            self.ended = error_from_rpc(error)  # type: ignore[arg-type]

    async def say(self, **message: Any) -> None:
        await self.call.write(worker_pb2.WorkerSessionRequest(**message))

    async def hello(self, *attempts: AttemptId, boot: int = 0) -> None:
        hello = hello_to_proto(attempts, boot)
        with suppress(asyncio.InvalidStateError):  # It was refused at once.
            await self.say(hello=hello)
        await until(lambda: self.stale is not None or self.ended is not None)

    async def credit(self, count: int) -> None:
        await self.say(credit=worker_pb2.WorkerCredit(attempt_count=count))

    async def tell(self, *outcomes: worker_pb2.AttemptOutcome) -> None:
        await self.say(outcomes=worker_pb2.AttemptOutcomes(outcomes=outcomes))


@asynccontextmanager
async def leading() -> AsyncIterator[Any]:
    """A leader without workers in a session."""
    world = World()
    consensus = MemoryConsensus(world.state)
    observations = Observations(monotonic)
    tasks = Tasks(consensus, observations)  # type: ignore[arg-type]
    sessions = WorkerSessions(consensus, tasks, observations, clock=loop_clock())  # type: ignore[arg-type]
    consensus.listeners.append(sessions.on_effect)
    consensus.watchers += [tasks.on_change, sessions.on_change]
    running = asyncio.create_task(Dispatch(consensus, sessions, clock=loop_clock()).run())  # type: ignore[arg-type]

    async def worker(*held: AttemptId, node: NodeId = WORKER, credit: int = 0) -> ScriptedWorker:
        made = ScriptedWorker(sessions, node)
        await made.hello(*held)
        if credit:
            await made.credit(credit)
        return made

    def submit(*numbers: int, payload: bytes = b"x") -> None:
        spec = TaskSpec(task_type="echo", payload=payload)
        ids = tuple(TaskId(f"t{number}") for number in numbers)
        body = c.SubmitTasks(
            task_ids=ids, specs=(spec,) * len(ids), fingerprint=sha256(payload).digest()
        )
        consensus.commit(body, caller=CLIENT)

    def task(number: int) -> Any:
        return world.state.tasks.get(TaskId(f"t{number}"))

    try:
        yield SimpleNamespace(
            consensus=consensus,
            tasks=tasks,
            sessions=sessions,
            worker=worker,
            submit=submit,
            task=task,
            state=world.state,
        )
    finally:
        assert not running.done(), "the loop that plans must not end"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def result(number: int, count: int = 1, **fields: Any) -> worker_pb2.AttemptOutcome:
    return worker_pb2.AttemptOutcome(
        id=attempt_to_proto(attempt(number, count)), result=pb.TaskResult(**fields)
    )


def failure(number: int, count: int = 1, **fields: Any) -> worker_pb2.AttemptOutcome:
    return worker_pb2.AttemptOutcome(
        id=attempt_to_proto(attempt(number, count)), failure=worker_pb2.AttemptFailure(**fields)
    )


def proposals(its: Any, kind: type) -> list[Any]:
    return [body for body in its.consensus.proposed if isinstance(body, kind)]

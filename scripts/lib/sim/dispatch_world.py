"""Masters, workers and their network, for the simulation of dispatch; and what must hold there."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.cluster.dispatch import Dispatch
from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.cluster.state_machine import ReplicatedStateMachine
from ipfs_cluster_node.cluster.task_timeouts import TaskTimeouts
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.cluster.worker_sessions import WorkerSessions
from ipfs_cluster_node.codec.commands import encode_command
from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.effects import Accepted, Rejected
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason
from ipfs_cluster_node.core.ids import NodeId, TaskId, did_from_public_key, node_id_from_public_key
from ipfs_cluster_node.core.model import (
    AttemptId,
    AttemptOutcome,
    Liveness,
    Principal,
    Role,
    TaskState,
)
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.state_data import differences
from ipfs_cluster_node.core.tables import Touched
from ipfs_cluster_node.node.worker import Worker
from ipfs_cluster_node.worker.v1 import worker_pb2 as pb
from scripts.lib.sim.checks import ViolationError
from tests.support.dispatch import FakeRunner, FakeUplink, MemoryCall, MemoryChannel, succeeded
from tests.support.virtual_time import loop_clock, monotonic, now_ms

LEASE_SECONDS: Final = 5.0
LIVENESS_SECONDS: Final = 0.5
HEARTBEAT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.2
FENCE_LOOK_SECONDS: Final = 0.02
MASTERS: Final = 3
WORKERS: Final = 3
CLIENT: Final = did_from_public_key(b"c" * 32)


@dataclass
class Master:
    """A master: its copy of the state, and what it serves of it."""

    node_id: NodeId
    world: "World"
    machine: ReplicatedStateMachine = field(default_factory=ReplicatedStateMachine)
    applied: int = 0
    is_leader: bool = False
    replaced: bool = False
    """Another leads already, and this one has not heard of it."""
    heard: dict[NodeId, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observations = Observations(monotonic)
        self.tasks = Tasks(self, self.observations)  # type: ignore[arg-type]
        self.sessions = WorkerSessions(self, self.tasks, self.observations, clock=loop_clock())  # type: ignore[arg-type]
        self.dispatch = Dispatch(self, self.sessions, clock=loop_clock())  # type: ignore[arg-type]
        self.timeouts = TaskTimeouts(self, lambda: None)  # type: ignore[arg-type]
        self.data = self.machine.state.data()
        self.machine.watch(self.tasks.on_change, self.sessions.on_change, self.check_touched)
        self.machine.listen(self.sessions.on_effect)

    # What `Consensus` gives.

    def now_ms(self) -> int:
        return now_ms()

    def state(self) -> ClusterState:
        return self.machine.state

    def check_leads(self) -> None:
        self.leader_state()

    def leader_state(self) -> ClusterState:
        if not self.is_leader:
            raise self.not_leader()
        return self.machine.state

    def read_state(self) -> ClusterState:
        if self.replaced:
            raise self.not_leader()
        return self.leader_state()

    def not_leader(self) -> ClusterError:
        leader = self.world.leader
        if leader is None or leader is self:
            return ClusterError(Reason.NO_LEADER, "no master leads now")
        return ClusterError(
            Reason.NOT_LEADER,
            "ask the leader",
            leader=Leader(leader.node_id, (leader.node_id,)),
        )

    async def propose(
        self, body: c.CommandBody, *, caller: str = "", request_id: str = ""
    ) -> tuple[str, ...]:
        if not self.is_leader:
            raise self.not_leader()
        rng = self.world.rng
        entry = encode_command(
            c.LogCommand(at_ms=now_ms(), body=body, caller=caller, request_id=request_id)
        )
        await asyncio.sleep(rng.choice((0.002, 0.002, 0.01, rng.uniform(0.0, 1.0))))
        unknown = ClusterError(Reason.UNKNOWN_OUTCOME, "it may or may not be committed")
        if self.replaced:
            await asyncio.sleep(rng.uniform(0.5, 3.0))
            raise unknown
        leads: bool = self.is_leader  # It may have changed meanwhile.
        if not leads:
            if rng.random() < 0.5 and self.world.leader is None:
                self.world.log.append(entry)  # The next leader has it.
            raise unknown
        self.world.log.append(entry)
        outcome = self.catch_up()
        if rng.random() < self.world.unknown_share:
            raise unknown
        if isinstance(outcome, Rejected):
            raise ClusterError(outcome.reason, outcome.message)
        assert isinstance(outcome, Accepted)
        return outcome.ids

    def catch_up(self) -> Accepted | Rejected | None:
        outcome: Accepted | Rejected | None = None
        while self.applied < len(self.world.log):
            self.applied += 1
            outcome = self.machine.apply(self.applied, self.world.log[self.applied - 1])
            self.machine.end_entry(self.applied)
        return outcome

    def check_touched(self, _revision: int, touched: Touched | None) -> None:
        """What an entry, here of one command, touched is what it changed."""
        before, self.data = self.data, self.machine.state.data()
        changed = differences(before, self.data)
        if touched != changed and self.world.broken is None:
            self.world.broken = ViolationError(f"{touched} was announced, and {changed} changed")

    # What `Members` does.

    async def watch_leases(self) -> None:
        while True:
            await asyncio.sleep(LIVENESS_SECONDS)
            if not self.is_leader:
                continue
            nodes = self.machine.state.members.nodes()
            silent = monotonic() - LEASE_SECONDS
            alive = [n.node_id for n in nodes if n.liveness is Liveness.ALIVE]
            dead = tuple(n for n in alive if n in self.heard and self.heard[n] < silent)
            if dead:
                self.world.lost_count += len(dead)
                with suppress(ClusterError):
                    await self.propose(c.SetLiveness(dead=dead))

    async def heartbeat(self, node_id: NodeId) -> None:
        node = self.leader_state().members.node(node_id)
        assert node is not None
        self.heard[node_id] = monotonic()
        if node.liveness is not Liveness.ALIVE:
            await self.propose(c.SetLiveness(alive=(node_id,)))

    def lead(self) -> None:
        self.catch_up()
        self.is_leader, self.replaced = True, False
        self.heard = dict.fromkeys(self.world.machines, monotonic())
        self.tasks.on_leadership(True)
        self.sessions.on_leadership(True)

    def follow(self) -> None:
        self.is_leader = self.replaced = False
        self.observations.clear()
        self.tasks.on_leadership(False)
        self.sessions.on_leadership(False)


class SimConnection(Connection):
    """A worker's connection to the masters; its network may be cut."""

    def __init__(self, world: "World", machine: "Machine") -> None:
        super().__init__([(m.node_id, m.node_id) for m in world.masters], None)
        self.calls: list[MemoryCall] = []
        self._world, self._machine = world, machine

    def channel(self, target: tuple[str, NodeId | None]) -> Any:
        def open_call() -> MemoryCall:
            call = MemoryCall(lambda requests: self._serve(NodeId(target[0]), requests))
            self.calls = [*self.calls[-3:], call]
            return call

        return MemoryChannel(open_call)

    async def _serve(
        self, node_id: NodeId, requests: AsyncIterator[pb.WorkerSessionRequest]
    ) -> AsyncIterator[pb.WorkerSessionResponse]:
        if self._machine.cut:
            await asyncio.sleep(0.1)
            raise ClusterError(Reason.UNREACHABLE, "nobody answers")
        master = self._world.master(node_id)
        async for response in master.sessions.worker_session(self._machine.node_id, requests):
            yield response


@dataclass
class Machine:
    """A worker's machine: its process comes and goes."""

    node_id: NodeId
    world: "World"
    slots: int
    cut: bool = False
    full: bool = False
    """Whether its disk has no room for tasks."""
    worker: Worker | None = None
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        self.runner = FakeRunner(
            kill_seconds=self.world.rng.choice((0.0, 0.05, 0.15)),
            outcome_of=self._completed,
            on_begin=lambda attempt: self.world.check_alone(attempt, self),
        )
        self.connection = SimConnection(self.world, self)
        self.uplink = FakeUplink(self.connection)
        self.uplink.lease_ends = 0.0
        self.worker = Worker(
            uplink=self.uplink,  # type: ignore[arg-type]
            runner=self.runner,  # type: ignore[arg-type]
            slots=self.slots,
            has_room=lambda: not self.full,
            clock=loop_clock(),
        )
        self.running = [
            asyncio.create_task(self.worker.run()),
            asyncio.create_task(self._heartbeats()),
        ]

    def _completed(self, attempt: AttemptId) -> AttemptOutcome:
        self.world.completed(attempt)
        return succeeded(attempt, f"{attempt.task_id}.{attempt.attempt}".encode())

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.world.rng.uniform(0.001, 0.02))
            leader = self.world.leader
            if self.cut or leader is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            sent_at = monotonic()
            try:
                await leader.heartbeat(self.node_id)
            except ClusterError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await asyncio.sleep(self.world.rng.uniform(0.001, 0.02))
            self.uplink.lapse_count += 0 < self.uplink.lease_ends <= monotonic()
            self.uplink.lease_ends = sent_at + LEASE_SECONDS
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def stop(self, *, well: bool) -> None:
        """End the process: told to, or by a crash, with which its attempts end at once."""
        worker, running = self.worker, self.running
        if worker is None:
            return
        if well:
            await worker.leave(timedelta(seconds=self.world.rng.choice((0, 0, 3))))
        if self.worker is not worker:
            return
        self.worker = None
        self.runner.kill_seconds = 0.0
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class World:
    """Runs one seed."""

    def __init__(self, seed: int, *, calm: bool) -> None:
        """Make it; `dispatch.Run` runs it.

        Args:
            seed: Decides everything.
            calm: Whether only leaders and connections fail, never a worker or its lease: then
                nothing that a worker completed may be done again.
        """
        random.seed(seed)  # The client's own chance.
        self.rng = random.Random(seed)  # noqa: S311
        self.calm = calm
        self.unknown_share = 0.05
        self.log: list[bytes] = []
        self.lost_count = 0
        self.completions: dict[TaskId, list[AttemptId]] = {}
        self.broken: ViolationError | None = None
        keys = [bytes([number]) * 32 for number in range(MASTERS + WORKERS)]
        ids = list(map(node_id_from_public_key, keys))
        self.masters = [Master(node_id, self) for node_id in ids[:MASTERS]]
        self.machines = {
            node_id: Machine(node_id, self, self.rng.choice((1, 2, 4))) for node_id in ids[MASTERS:]
        }
        roles = [Role.MASTER] * MASTERS + [Role.WORKER] * WORKERS
        principals = tuple(
            Principal(
                did=did_from_public_key(key), name=f"n{n}", role=role, enrolled_at_ms=1,
                liveness_at_ms=1, incarnation=1 if role is Role.MASTER else 0,
            )
            for n, (key, role) in enumerate(zip(keys, roles, strict=True))
        )  # fmt: skip
        self._commit(
            c.BootstrapCluster(
                cluster_id="id", cluster_name="name", cluster_did=CLIENT, principals=principals
            )
        )
        for node_id, machine in self.machines.items():
            self._commit(
                c.RegisterNode(
                    node_id=node_id, endpoints=(), task_types=("echo",),
                    slot_count=machine.slots, version="1",
                )
            )  # fmt: skip

    def _commit(self, body: c.CommandBody) -> None:
        self.log.append(encode_command(c.LogCommand(at_ms=now_ms(), body=body)))

    @property
    def leader(self) -> Master | None:
        """Who leads, as far as anybody can be told."""
        return next((m for m in self.masters if m.is_leader and not m.replaced), None)

    def master(self, node_id: NodeId) -> Master:
        return next(master for master in self.masters if master.node_id == node_id)

    # What must hold.

    def check_alone(self, attempt: AttemptId, machine: Machine) -> None:
        for other in self.machines.values():
            if other is machine or other.worker is None or not other.uplink.lease_holds:
                continue
            twins = [a for a in other.runner.alive if a.task_id == attempt.task_id]
            if twins and self.broken is None:
                self.broken = ViolationError(
                    f"{attempt} begins while {twins} lives where the lease still holds"
                )

    async def watch_fences(self) -> None:
        while True:
            await asyncio.sleep(FENCE_LOOK_SECONDS)
            for machine in self.machines.values():
                if machine.worker is None or machine.uplink.lease_holds:
                    continue
                if machine.runner.alive and self.broken is None:
                    self.broken = ViolationError(
                        f"{machine.runner.alive} live on at a worker whose lease is over"
                    )

    def completed(self, attempt: AttemptId) -> None:
        self.completions.setdefault(attempt.task_id, []).append(attempt)

    def check_results(self) -> None:
        """Once all has ended: whose results were accepted, and what was done twice."""
        state = self.masters[0].state()
        for task in state.tasks:
            done = self.completions.get(task.task_id, [])
            if task.state is TaskState.SUCCEEDED:
                made = f"{task.task_id}.{task.attempt}".encode()
                if task.result is None or task.result.data != made:
                    raise ViolationError(f"{task.task_id} has a result that is not {made!r}")
                if AttemptId(task.task_id, task.attempt) not in done:
                    raise ViolationError(f"{made!r} was never completed")
            timed_out = task.failure is not None and task.failure.reason is Reason.TASK_TIMED_OUT
            if timed_out != (task.state is TaskState.FAILED):
                raise ViolationError(f"{task} failed, or did not, by its timeout")
            if timed_out and task.finished_at_ms < task.deadline_ms:
                raise ViolationError(f"{task.task_id} timed out early")
            if self.calm and len(done) > 1:
                raise ViolationError(f"{done} were all completed, and no worker was lost")
        for master in self.masters[1:]:
            if master.data != state.data():
                differing = differences(state.data(), master.data)
                raise ViolationError(f"two masters came to different states: {differing}")

"""Real workers and sessions under seeded faults: a log, masters, networks and leases.

What must hold: nothing runs at a worker whose lease is over, and no task has two live attempts at
workers whose lease holds; a result that is accepted was made by the attempt that the log names; a
worker that lives and keeps its lease has none of its results made again; everything ends, and
afterwards every slot takes work.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

from ipfs_cluster_node.core import commands as c
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import TaskSpec
from scripts.lib.sim.checks import ViolationError
from scripts.lib.sim.dispatch_breaks import DISPATCH_BREAKS
from scripts.lib.sim.dispatch_world import CLIENT, LEASE_SECONDS, Machine, World
from tests.support.virtual_time import monotonic, run_virtual

END_SECONDS: Final = 120.0
"""Within which all ends once nothing fails any longer."""


class Run:
    """Clients and faults of one seed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = 0
        self.submitted = 0

    async def run(self, seconds: float) -> None:
        for master in self.world.masters:
            master.catch_up()
        self.world.masters[0].lead()
        loops = [
            asyncio.create_task(loop)
            for master in self.world.masters
            for loop in (master.dispatch.run(), master.watch_leases(), master.timeouts.run())
        ]
        loops.append(asyncio.create_task(self.world.watch_fences()))
        for machine in self.world.machines.values():
            machine.start()
        faults: list[Callable[[], Any]] = [self._elect, self._elect, self._break, self._break]
        if not self.world.calm:
            faults += [self._crash, self._cut, self._cut, self._terminate, self._cancel, self._fill]
        background: set[asyncio.Task[Any]] = set()
        ends = monotonic() + seconds
        while monotonic() < ends:
            await asyncio.sleep(self.world.rng.expovariate(1.0))
            await self._submit(self.world.rng.randint(1, 15))
            if self.world.rng.random() < 0.7:
                self.faults += 1
                fault = asyncio.create_task(self.world.rng.choice(faults)())
                background.add(fault)
            self._check(loops, background)
        await asyncio.gather(*background)
        await self._end(loops)

    def _check(self, loops: list[asyncio.Task[Any]], faults: set[asyncio.Task[Any]]) -> None:
        if self.world.broken is not None:
            raise self.world.broken
        alive = [m for m in self.world.machines.values() if m.worker is not None]
        for task in (*loops, *(task for m in alive for task in m.running)):
            if task.done():
                raise ViolationError(f"a loop ended: {task.exception()!r}")
        for task in faults:
            if task.done():
                task.result()

    async def _end(self, loops: list[asyncio.Task[Any]]) -> None:
        self.world.unknown_share = 0.0
        for machine in self.world.machines.values():
            machine.cut = machine.full = False
            if machine.worker is None:
                machine.start()
        if self.world.leader is None:
            self.world.masters[0].lead()
        await self._until(self._all_ended, "not every task ended", loops)
        # Nothing that happened may have cost a slot.
        slots = {node_id: machine.slots for node_id, machine in self.world.machines.items()}
        await asyncio.sleep(3 * LEASE_SECONDS)
        await self._submit(sum(slots.values()), seconds=60.0)

        def all_busy() -> bool:
            return all(len(m.runner.alive) == m.slots for m in self.world.machines.values())

        await self._until(all_busy, f"not all of {sum(slots.values())} slots took work", loops)
        await self._until(self._all_ended, "not every task ended at last", loops)
        await asyncio.sleep(2.0)
        held = [m.worker._held for m in self.world.machines.values() if m.worker is not None]  # noqa: SLF001
        if any(held):
            raise ViolationError(f"workers still hold {held}")
        for master in self.world.masters:
            master.catch_up()
        self.world.check_results()
        for task in (*loops, *(task for m in self.world.machines.values() for task in m.running)):
            task.cancel()
        await asyncio.sleep(0.1)

    def _all_ended(self) -> bool:
        leader = self.world.leader
        return leader is not None and leader.state().tasks.unfinished_count == 0

    async def _until(
        self, holds: Callable[[], bool], what: str, loops: list[asyncio.Task[Any]]
    ) -> None:
        ends = monotonic() + END_SECONDS
        while not holds():
            self._check(loops, set())
            if monotonic() > ends:
                raise ViolationError(f"{what} within {END_SECONDS:g} s")
            await asyncio.sleep(0.05)

    async def _submit(self, count: int, *, seconds: float | None = None) -> None:
        numbers = range(self.submitted, self.submitted + count)
        self.submitted += count
        specs = tuple(
            TaskSpec(
                task_type="echo",
                payload=str(self._duration() if seconds is None else seconds).encode(),
                task_timeout_ms=self._timeout_ms() if seconds is None else 0,
            )
            for _ in numbers
        )
        body = c.SubmitTasks(
            task_ids=tuple(TaskId(f"t{n}") for n in numbers), specs=specs, fingerprint=b""
        )
        for attempt in range(100):
            leader = self.world.leader
            if leader is not None:
                try:
                    await leader.propose(body, caller=CLIENT, request_id=f"r{numbers[0]}")
                except ClusterError:
                    pass
                else:
                    return
            await asyncio.sleep(0.1 * (1 + attempt))
        raise ViolationError("nothing could be submitted")

    def _duration(self) -> float:
        return self.world.rng.choices((0.001, 0.05, 0.5, 4.0), (50, 30, 17, 3))[0]

    def _timeout_ms(self) -> int:
        return self.world.rng.choices((0, 1000, 5000), (80, 10, 10))[0]

    # Faults.

    async def _elect(self) -> None:
        """The leader changes; the old one may not hear of it at once."""
        old = self.world.leader
        if old is None:
            return
        if self.world.rng.random() < 0.4:
            new = self.world.rng.choice([m for m in self.world.masters if m is not old])
            if new.is_leader:
                return
            old.replaced = True
            new.lead()
            await asyncio.sleep(self.world.rng.uniform(0.1, 3.0))
            if old.replaced:
                old.follow()
            return
        old.follow()
        await asyncio.sleep(self.world.rng.uniform(0.1, 2.0))
        if self.world.leader is None:
            candidates = [m for m in self.world.masters if not m.is_leader]
            self.world.rng.choice(candidates).lead()

    async def _break(self) -> None:
        """A worker's connections break; the leader may notice later."""
        machine = self._machine()
        for call in machine.connection.calls:
            call.cut(server_seconds=self.world.rng.choice((0.0, 0.5, 3.0)))

    async def _fill(self) -> None:
        """A worker's disk is full for a while; the log may have others do its work."""
        machine = self._machine()
        machine.full = True
        await asyncio.sleep(self.world.rng.uniform(0.1, 10.0))
        machine.full = False

    async def _cut(self) -> None:
        machine = self._machine()
        machine.cut = True
        for call in machine.connection.calls:
            call.cut(server_seconds=self.world.rng.choice((0.0, 1.0, 10.0)))
        await asyncio.sleep(self.world.rng.choice((0.5, 3.0, 4.9, 5.0, 5.1, 8.0, 15.0)))
        machine.cut = False

    async def _crash(self) -> None:
        machine = self._machine()
        await machine.stop(well=False)
        await asyncio.sleep(self.world.rng.choice((0.1, 2.0, 10.0)))
        if machine.worker is None:
            machine.start()

    async def _terminate(self) -> None:
        machine = self._machine()
        await machine.stop(well=True)
        await asyncio.sleep(self.world.rng.choice((0.1, 2.0, 10.0)))
        if machine.worker is None:
            machine.start()

    async def _cancel(self) -> None:
        leader = self.world.leader
        if leader is not None and self.submitted:
            number = self.world.rng.randrange(max(0, self.submitted - 40), self.submitted)
            with suppress(ClusterError):
                await leader.propose(c.CancelTask(task_id=TaskId(f"t{number}")))

    def _machine(self) -> Machine:
        return self.world.rng.choice(list(self.world.machines.values()))


@dataclass(frozen=True)
class DispatchReport:
    """What a seed came to."""

    seed: int
    tasks: int
    attempts: int
    faults: int
    lost: int
    failure: str = ""


def run_dispatch(seed: int, seconds: float, broken: str = "") -> DispatchReport:
    """Run a seed, every third of them calm."""
    tasks = attempts = 0
    ran: Run | None = None

    async def run() -> None:
        nonlocal ran
        ran = Run(World(seed, calm=seed % 3 == 0))
        await ran.run(seconds)

    failure = ""
    with DISPATCH_BREAKS[broken]() if broken else nullcontext():
        try:
            run_virtual(run())
        except (ViolationError, AssertionError, RuntimeError) as error:
            failure = f"{type(error).__name__}: {error}"
    assert ran is not None
    world = ran.world
    if not failure:
        table = world.masters[0].state().tasks
        tasks, attempts = len(table), sum(task.attempt for task in table)
    return DispatchReport(seed, tasks, attempts, ran.faults, world.lost_count, failure)

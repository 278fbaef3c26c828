"""One seed: faults for a while, then a liveness phase with a minority left broken."""

import logging
import traceback
from contextlib import nullcontext
from dataclasses import dataclass

from ipfs_cluster_node.adapters.raft.witness import Witness
from ipfs_cluster_node.core.ids import VoterId
from scripts.lib.sim.breaks import BREAKS
from scripts.lib.sim.checks import ViolationError
from scripts.lib.sim.parts import Node
from scripts.lib.sim.world import World

LIVENESS_SECONDS = 15.0
FAULTS = (
    "kill",
    "power",
    "power-all",
    "pause",
    "isolate",
    "one-way",
    "deaf",
    "mute",
    "partial",
    "split",
    "connection",
    "slow-link",
    "disk-slow",
    "disk-full",
    "disk-error",
    "add",
    "remove",
    "transfer",
    "leader-partial",
    "restart",
    "shrink-alone",
    "back-up",
    "put-back-log",
    "put-back-all",
)
CALM_SECONDS = 2.0
"""How long nothing else breaks before and after a node is restored from a copy: docs/recovery.md
says when that can be noticed."""


@dataclass(frozen=True)
class Report:
    """What a seed came to."""

    seed: int
    failure: str
    commits: int
    acknowledged: int
    faults: int
    disturbed: int
    put_back: int


def run_seed(seed: int, seconds: float, broken: str = "", wild: int = 0) -> Report:
    """Run a seed for so long, then check that a healthy majority goes on.

    Args:
        seed: Decides everything.
        seconds: How long things break, simulated.
        broken: The guard to take out, of `breaks.BREAKS`.
        wild: How much worse than order the messages are; 0 is left to the seed.
    """
    logging.disable(logging.CRITICAL)  # Faults are what this is about.
    with BREAKS[broken]() if broken else nullcontext():
        return _run_seed(seed, seconds, wild or int(seed % 4 == 0))


def _run_seed(seed: int, seconds: float, wild: int) -> Report:
    world = World(seed, size=3 if seed % 3 else 5, wild=wild)
    run = Run(world)
    failure = ""
    try:
        run.phase(seconds)
        run.liveness()
    except ViolationError as error:
        failure = f"at {world.now:.3f} s: {error}"
    except Exception:
        failure = f"at {world.now:.3f} s: {traceback.format_exc()}"
    finally:
        world.close()
    checks = world.checks
    return Report(
        seed,
        failure,
        checks.commits,
        len(checks.acknowledged),
        run.faults,
        world.disturbed,
        run.put_back,
    )


class Run:
    """Clients and faults of one seed."""

    def __init__(self, world: World) -> None:
        """Have a world."""
        self.world = world
        self.rng = world.rng
        self.faults = 0
        self.intensity = self.rng.uniform(0.5, 4)
        self.kinds = self.rng.sample(FAULTS, self.rng.randint(2, len(FAULTS)))
        self.faulty = True
        self._added = 0
        self._calm_until = 0.0
        self.put_back = 0
        """Old copies that were put back."""

    def phase(self, seconds: float) -> None:
        """Clients work, and things break."""
        self._client()
        self._fault()
        self.world.run(seconds)
        self.faulty = False

    def _client(self) -> None:
        world = self.world
        nodes = list(world.nodes.values())
        leaders = [n for n in world.live if n.engine is not None and n.engine.is_leader]
        for _ in range(self.rng.choice((1, 1, 1, 5, 20))):
            choice = leaders if leaders and self.rng.random() < 0.9 else nodes
            world.propose(self.rng.choice(choice))
        for node in nodes:
            world.read(node)
        # While nothing is written, a node that was cut off is not behind, and may win an election.
        pause = self.rng.uniform(0.5, 3) if self.rng.random() < 0.02 else 0
        world.after(pause + self.rng.uniform(0.005, 0.1), self._client)

    def _fault(self) -> None:
        if not self.faulty:
            return
        if self.world.now >= self._calm_until:
            self.faults += 1
            getattr(self, "_" + self.rng.choice(self.kinds).replace("-", "_"))()
        self.world.after(self.rng.expovariate(self.intensity), self._fault)

    def _any(self) -> Node:
        leader = self._leader()
        if leader is not None and self.rng.random() < 0.4:
            return leader
        return self.rng.choice(list(self.world.nodes.values()))

    def _pair(self) -> tuple[VoterId, VoterId]:
        a, b = self.rng.sample(sorted(self.world.nodes), 2)
        return a, b

    def _heal_later(self) -> None:
        self.world.after(self.rng.uniform(0.1, 6), self.world.heal)

    def _kill(self) -> None:
        node = self._any()
        self.world.stop(node, power_loss=False)
        self._start_later(node)

    def _start_later(self, node: Node) -> None:
        self.world.after(self.rng.uniform(0, 3), lambda: self._start(node))

    def _start(self, node: Node) -> None:
        if not node.disk.fault():
            self.world.start(node)

    def _power(self) -> None:
        node = self._any()
        self.world.stop(node, power_loss=True)
        self._start_later(node)

    def _power_all(self) -> None:
        for node in list(self.world.nodes.values()):
            if self.rng.random() < 0.8:
                self.world.stop(node, power_loss=True)
                self._start_later(node)

    def _pause(self) -> None:
        self._any().paused_until = self.world.now + self.rng.choice((0.3, 1, 3, 8))

    def _cut_off(self, voter: VoterId, *, mute: bool, deaf: bool) -> None:
        for other in self.world.nodes:
            if other != voter and mute:
                self.world.cut(voter, other)
            if other != voter and deaf:
                self.world.cut(other, voter)

    def _isolate(self) -> None:
        self._cut_off(self._any().voter, mute=True, deaf=True)
        self._heal_later()

    def _one_way(self) -> None:
        self.world.cut(*self._pair())
        self._heal_later()

    def _deaf(self) -> None:
        self._cut_off(self._any().voter, mute=False, deaf=True)
        self._heal_later()

    def _mute(self) -> None:
        self._cut_off(self._any().voter, mute=True, deaf=False)
        self._heal_later()

    def _partial(self) -> None:
        a, b = self._pair()
        self.world.cut(a, b)
        self.world.cut(b, a)
        self._heal_later()

    def _split(self) -> None:
        side = {v for v in self.world.nodes if self.rng.random() < 0.5}
        for a in self.world.nodes:
            for b in self.world.nodes:
                if a != b and (a in side) != (b in side):
                    self.world.cut(a, b)
        self._heal_later()

    def _connection(self) -> None:
        self.world.break_connection(*self._pair())

    def _slow_link(self) -> None:
        self.world.links[self._pair()].delay = (0.01, self.rng.choice((0.05, 0.2, 0.6)))
        self._heal_later()

    def _disk_slow(self) -> None:
        self.world.disk_fault(self._any(), "slow", self.rng.uniform(0.5, 4))

    def _disk_full(self) -> None:
        self.world.disk_fault(self._any(), "full", self.rng.uniform(0.5, 4))

    def _disk_error(self) -> None:
        self.world.disk_fault(self._any(), "error", self.rng.uniform(0.1, 1))

    def _add(self) -> None:
        world = self.world
        spare = [v for v in world.nodes if v.startswith("x")]
        if len(spare) < 2:
            self._added += 1
            spare = [world.add_node(VoterId(f"x{self._added}.1"), []).voter]
        target = self.rng.choice(spare)
        for attempt in range(30):
            world.after(attempt * 0.1, lambda: self._add_at_leader(target))

    def _add_at_leader(self, target: VoterId) -> None:
        for node in self.world.live:
            self.world.change("add", node, target)

    def _remove(self) -> None:
        if self.world.replaces:
            return
        target = self._any().voter
        for node in self.world.live:
            self.world.change("rem", node, target)

    def _transfer(self) -> None:
        target = self._any().voter
        for node in self.world.live:
            self.world.transfer(node, target)

    def _leader(self) -> Node | None:
        leaders = [n for n in self.world.live if n.engine is not None and n.engine.is_leader]
        return self.rng.choice(leaders) if leaders else None

    def _leader_partial(self) -> None:
        """The leader and one follower do not hear each other; the rest hears both."""
        leader = self._leader()
        if leader is not None:
            other = self.rng.choice([v for v in sorted(self.world.nodes) if v != leader.voter])
            self.world.cut(leader.voter, other)
            self.world.cut(other, leader.voter)
            self._heal_later()

    def _restart(self) -> None:
        """Restart a node so quickly that no other notices."""
        node = self._any()
        self.world.stop(node, power_loss=self.rng.random() < 0.5)
        self.world.after(self.rng.uniform(0, 0.1), lambda: self._start(node))

    def _shrink_alone(self) -> None:
        """A leader that is cut off removes the others."""
        leader = self._leader()
        if leader is not None and not self.world.replaces:
            for other in sorted(self.world.nodes):
                if other != leader.voter:
                    self.world.cut(leader.voter, other)
                    self.world.cut(other, leader.voter)
                    self.world.change("rem", leader, other)
            for _ in range(3):
                self.world.propose(leader)
            self._heal_later()

    # Old copies.

    def _back_up(self) -> None:
        self.world.back_up(self._any())

    def _can_lose(self, node: Node) -> bool:
        """Whether the others are a majority without it, by every configuration there is."""
        if node.retired or self.world.replaces:
            return False
        engines = [n.engine for n in self.world.nodes.values() if not n.retired]
        return all(engine is not None and len(engine.voters) > 2 for engine in engines)

    def _put_back_log(self) -> None:
        """The log's directory is put back, and what was noted beside it is as it was."""
        node = self._any()
        noted = Witness(node.notes).of(node.voter)
        copies = [copy for copy in node.copies if copy.claim.falls_short_of(noted)]
        if copies and self._can_lose(node):
            self.put_back += 1
            self.world.put_back(node, self.rng.choice(copies), with_notes=False)
            if not node.retired:
                raise ViolationError(f"{node.voter} does not notice that its log is an old copy")

    def _put_back_all(self) -> None:
        """A whole node is put back, while its leader runs and is connected."""
        if self.world.replaces:
            return
        self._calm_until = self.world.now + 2 * CALM_SECONDS
        self._settle()
        self.world.after(CALM_SECONDS, self._put_one_back)

    def _put_one_back(self) -> None:
        leader, node = self._leader(), self._any()
        if leader is None or leader is node or leader.engine is None:
            return
        known = leader.engine.mark_of(node.voter)
        copies = [copy for copy in node.copies if copy.claim.falls_short_of(known)]
        if node.voter not in leader.engine.reachable or not copies or not self._can_lose(node):
            return
        if leader.engine.match_index(node.voter) < leader.engine.commit_index:
            return
        self.put_back += 1
        self.world.put_back(node, self.rng.choice(copies), with_notes=True)

        def check() -> None:
            if not node.retired:
                raise ViolationError(f"nobody notices that {node.voter} is an old copy")

        self.world.after(CALM_SECONDS * 0.9, check)

    # The end.

    def _settle(self) -> None:
        self.world.heal()
        for node in list(self.world.nodes.values()):
            node.paused_until = 0.0
            node.sync_seconds = 0.001
            node.disk.fault = lambda: 0
            self.world.start(node)

    def liveness(self) -> None:
        """Repair all but a minority; writes go on, and healthy nodes reach the same state."""
        world = self.world
        world.run(1.0)
        self._settle()
        world.run(1.0)
        if not world.run(LIVENESS_SECONDS, until=lambda: not world.replaces):
            raise ViolationError("the successor of a retired node does not come to vote")
        voters = self._voters()
        broken = set(self.rng.sample(sorted(voters), (len(voters) - 1) // 2))
        kind = self.rng.choice(("dead", "deaf", "mute", "isolated", "none"))
        self._break(broken, kind)
        healthy = [world.nodes[v] for v in sorted(voters - broken)]
        if kind == "none":
            healthy = [world.nodes[v] for v in sorted(voters)]
        before = set(world.checks.acknowledged)
        if not world.run(LIVENESS_SECONDS, until=lambda: self._newer(before)):
            raise ViolationError(
                f"no write for {LIVENESS_SECONDS:g} s with {kind}: {sorted(broken)}"
            )
        floor = world.checks.acknowledged_max
        if not world.run(
            LIVENESS_SECONDS, until=lambda: all(len(n.machine.commands) >= floor for n in healthy)
        ):
            behind = {n.voter: len(n.machine.commands) for n in healthy}
            raise ViolationError(f"{behind} of {floor} commands with {kind}: {sorted(broken)}")
        for node in healthy:
            acknowledged = {c: p for c, p in world.checks.acknowledged.items() if p <= floor}
            world.checks.acknowledged = acknowledged
            world.checks.finally_holds(node.machine, node.voter)

    def _newer(self, before: set[bytes]) -> bool:
        return len(self.world.checks.acknowledged) > len(before)

    def _voters(self) -> set[VoterId]:
        """The newest configuration that anybody has committed."""
        engines = [node.engine for node in self.world.live if node.engine is not None]
        newest = max(engines, key=lambda e: e.commit_index)
        return set(newest.journal.voters())

    def _break(self, broken: set[VoterId], kind: str) -> None:
        world = self.world
        for voter in broken:
            if kind == "dead":
                world.stop(world.nodes[voter], power_loss=True)
            mute, deaf = kind in ("mute", "isolated"), kind in ("deaf", "isolated")
            self._cut_off(voter, mute=mute, deaf=deaf)

"""A cluster of real engines in one process, with time, network and disks that a seed decides."""

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ipfs_cluster_node.adapters.raft import clock
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.proposals import Proposal
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.checks import Machine, ViolationError
from scripts.lib.sim.disk import MemoryDisk, PowerLossError
from scripts.lib.sim.parts import Copy, Link, Node, Timeline

CONFIG: Final = RaftConfig(
    snapshot_entries=25,
    trailing_entries=4,
    catch_up_entries=10,
    segment_bytes_max=2048,
    batch_bytes_max=2048,
    proposals_waiting_max=50,
)
TICK_SECONDS: Final = 0.02
DETECT_SECONDS: Final = 2.0
"""How long a cut lasts before the connection is closed."""
RECONNECT_SECONDS: Final = 0.2
REPLAYS_KEPT: Final = 200
CLOCK_RATES: Final = (0.95, 1.05)
"""Slowest and fastest rate of a node's clock."""


class World(Timeline):
    """A cluster in simulated time; the same seed always runs in the same way."""

    def __init__(self, seed: int, *, size: int, wild: int) -> None:
        """Make a cluster.

        Args:
            seed: Decides everything.
            size: How many voters.
            wild: Whether messages are also duplicated, reordered, lost one by one and replayed,
                which no connection does.
        """
        random.seed(seed)  # For PySyncObj, which draws from it.
        self.rng = random.Random(seed)  # noqa: S311
        self.wild = wild
        self.disturbed = 0
        """Messages that came twice, late, or after their connection had ended."""
        super().__init__()
        self.nodes: dict[VoterId, Node] = {}
        self.links: dict[tuple[VoterId, VoterId], Link] = {}
        self._replays: list[tuple[VoterId, VoterId, pb.RaftMessage]] = []
        self._current: Node | None = None
        self._clients = 0
        self.replaces = False
        """Whether some retired node's successor does not vote yet."""
        clock.use(self._read_clock)
        voters = [VoterId(f"n{number}.1") for number in range(1, size + 1)]
        for voter in voters:
            self.add_node(voter, voters)

    def _read_clock(self) -> float:
        node = self._current
        return self.now if node is None else self.now * node.rate + node.offset

    @contextmanager
    def _as(self, node: Node) -> Iterator[None]:
        before, self._current = self._current, node
        try:
            yield
        finally:
            self._current = before

    # Nodes.

    def add_node(self, voter: VoterId, voters: list[VoterId]) -> Node:
        """Make a node with an empty log and start it."""
        rng = random.Random(self.rng.random())  # noqa: S311
        rate, offset = self.rng.uniform(*CLOCK_RATES), self.rng.uniform(0, 1e4)
        node = Node(voter, MemoryDisk(rng), MemoryDisk(rng), rate, offset)
        for other in self.nodes:
            self.links[voter, other] = Link()
            self.links[other, voter] = Link()
        self.nodes[voter] = node
        create_store(node.disk, voter, voters)
        self.start(node)
        return node

    def start(self, node: Node) -> None:
        """Start a node from its disk."""
        if node.engine is not None or node.retired:
            return
        node.life += 1
        node.machine = Machine(checks=self.checks)
        node.inbox, node.step, node.awake = [], None, False
        with self._as(node):
            try:
                node.engine = Engine(
                    disk=node.disk, machine=node.machine, config=CONFIG, notes=node.notes
                )
            except LogDamagedError as error:
                self._retire(node, error)
                return
            except ClusterError as error:
                raise ViolationError(f"{node.voter} does not start: {error}") from error
        self._check_restored(node)
        for other in self.nodes.values():
            self._connect(node, other)
            self._connect(other, node)
        self._tick(node, node.life)

    def _check_restored(self, node: Node) -> None:
        try:
            self.checks.restored(node.machine)
        except ViolationError as error:
            raise ViolationError(f"{node.voter} restored {error}") from error

    def stop(self, node: Node, *, power_loss: bool) -> None:
        """End a node's process, or its machine's power."""
        if node.engine is None:
            return
        if node.step is not None and power_loss:
            # The power fails in the middle of a write.
            node.disk.dying = True
            with suppress(PowerLossError, OSError):
                node.step.write()
        with self._as(node):
            node.engine.give_up()
            node.engine.close()
        node.engine, node.step = None, None
        if power_loss:
            node.disk.crash()
            node.notes.crash()
        else:
            node.disk.kill()
            node.notes.kill()
        for other in self.nodes.values():
            if other is not node:
                self._disconnect(other, node)
                self._disconnect(node, other)

    def _tick(self, node: Node, life: int) -> None:
        if node.life == life and node.engine is not None:
            self._wake(node, 0.0)
            self.after(TICK_SECONDS * self.rng.uniform(0.9, 1.1), lambda: self._tick(node, life))

    def _wake(self, node: Node, seconds: float = 0.0001) -> None:
        if node.awake or node.step is not None or node.engine is None:
            return
        node.awake = True
        life = node.life
        wait = max(seconds, node.paused_until - self.now)
        self.after(wait, lambda: self._begin_step(node, life))

    def _begin_step(self, node: Node, life: int) -> None:
        engine = node.engine
        if node.life != life or engine is None or node.step is not None:
            return
        if node.paused_until > self.now:
            self.after(node.paused_until - self.now, lambda: self._begin_step(node, life))
            return
        node.awake = False
        inbox, node.inbox = node.inbox, []
        with self._as(node):
            try:
                for sender, message in inbox:
                    engine.receive(sender, message)
                node.step = engine.begin_step()
            except OSError:
                self._fail(node)
                return
        for peer, message in node.step.appends:
            self._send(node.voter, peer, message)
        if not node.step.writes:
            self._end_step(node, life)
        else:
            self.after(
                node.sync_seconds * self.rng.uniform(0.5, 2), lambda: self._end_step(node, life)
            )

    def _end_step(self, node: Node, life: int) -> None:
        engine = node.engine
        if node.life != life or engine is None or node.step is None:
            return
        if node.paused_until > self.now:
            self.after(node.paused_until - self.now, lambda: self._end_step(node, life))
            return
        with self._as(node):
            try:
                node.step.write()
            except OSError:
                self._fail(node)
                return
            node.step = None
            outbox = engine.end_step()
            if engine.leads:
                self.checks.leads(engine.term, node.voter)
            make = engine.take_snapshot()
            if make is not None:
                self.after(self.rng.uniform(0, 0.1), lambda: self._snapshot(node, life, make))
            has_work = engine.has_work
        for peer, message in outbox:
            self._send(node.voter, peer, message)
        if has_work or node.inbox:
            self._wake(node)

    def _snapshot(self, node: Node, life: int, make: Callable[[], None]) -> None:
        if node.life != life or node.engine is None:
            return
        if node.step is not None:
            self.after(0.001, lambda: self._snapshot(node, life, make))
            return
        try:
            make()
        except OSError:
            self._fail(node)
            return
        with self._as(node):
            node.engine.snapshot_taken()

    def _fail(self, node: Node) -> None:
        """End the process, since its disk failed; it starts again once the disk works."""
        self.stop(node, power_loss=False)

    # Network.

    def _connect(self, sender: Node, receiver: Node) -> None:
        if sender is receiver:
            return
        link = self.links[sender.voter, receiver.voter]
        link.epoch += 1
        epoch = link.epoch

        def attempt() -> None:
            if link.epoch != epoch:
                return
            if sender.engine is None or receiver.engine is None:
                return
            if link.cut or self.links[receiver.voter, sender.voter].cut:
                self.after(RECONNECT_SECONDS, attempt)
                return
            try:
                known = receiver.engine.mark_of(sender.voter)
                receiver.engine.admit(sender.voter, sender.engine.claim(), known)
            except ClusterError as error:
                self._retire(sender, error)
                return
            link.up = True
            with self._as(sender):
                sender.engine.connected(receiver.voter, up=True)

        self.after(RECONNECT_SECONDS * self.rng.uniform(0.1, 1), attempt)

    def _disconnect(self, sender: Node, receiver: Node) -> None:
        link = self.links[sender.voter, receiver.voter]
        link.up = False
        link.epoch += 1
        if sender.engine is not None:
            with self._as(sender):
                sender.engine.connected(receiver.voter, up=False)
            self._connect(sender, receiver)

    def cut(self, sender: VoterId, receiver: VoterId) -> None:
        """Drop everything in one direction; both ends notice after a while."""
        link = self.links[sender, receiver]
        if link.cut:
            return
        link.cut = True
        epochs = (link.epoch, self.links[receiver, sender].epoch)

        def notice() -> None:
            # A one-way cut breaks the connections of both directions: answers do not come.
            if not link.cut:
                return
            for a, b, epoch in ((sender, receiver, epochs[0]), (receiver, sender, epochs[1])):
                if self.links[a, b].epoch == epoch:
                    self._disconnect(self.nodes[a], self.nodes[b])

        self.after(DETECT_SECONDS * self.rng.uniform(0.5, 1), notice)

    def heal(self) -> None:
        """Repair every link."""
        for link in self.links.values():
            link.cut = False
            link.delay = (0.0002, 0.002)

    def break_connection(self, sender: VoterId, receiver: VoterId) -> None:
        """Break a connection, and lose what is in flight on it."""
        self._disconnect(self.nodes[sender], self.nodes[receiver])

    def _send(self, sender: VoterId, peer: VoterId, message: pb.RaftMessage) -> None:
        link = self.links.get((sender, peer))
        if link is None or not link.up or link.cut:
            return
        data = message.SerializeToString()
        delay = self.rng.uniform(*link.delay)
        if self.wild:
            self._send_wildly(sender, peer, data, link)
            return
        at = max(self.now + delay, link.last_delivery)
        link.last_delivery = at
        epoch = link.epoch
        self.after(at - self.now, lambda: self._deliver(sender, peer, data, link, epoch))

    def _send_wildly(self, sender: VoterId, peer: VoterId, data: bytes, link: Link) -> None:
        often, seldom = 0.05 * self.wild, 0.02 * self.wild
        copies = self.rng.choices((0, 1, 2), (0.03, 0.97 - often, often))[0]
        self.disturbed += copies > 1
        for _ in range(copies):
            delay = self.rng.uniform(*link.delay)
            if self.rng.random() < often:
                delay += self.rng.uniform(0, 0.3)
                self.disturbed += 1
            self.after(delay, lambda: self._deliver(sender, peer, data, link, None))
        if self.rng.random() < seldom:
            self._replays = self._replays[-REPLAYS_KEPT:]
            self._replays.append((sender, peer, pb.RaftMessage.FromString(data)))
        if self._replays and self.rng.random() < seldom:
            self.disturbed += 1
            old_sender, old_peer, old = self.rng.choice(self._replays)
            old_link = self.links[old_sender, old_peer]
            self._deliver(old_sender, old_peer, old.SerializeToString(), old_link, None)

    def _deliver(
        self, sender: VoterId, peer: VoterId, data: bytes, link: Link, epoch: int | None
    ) -> None:
        node = self.nodes[peer]
        if node.engine is None or link.cut or (epoch is not None and epoch != link.epoch):
            return
        message = pb.RaftMessage.FromString(data)
        node.inbox.append((sender, message))
        with self._as(node):
            can_wait = node.engine.can_wait(sender, message)
        if not can_wait:
            self._wake(node)

    # Old copies.

    def back_up(self, node: Node) -> None:
        """Copy a node's files; while it runs, as of its last step."""
        if node.engine is not None and node.step is None and not node.engine.journal.dirty:
            claim = node.engine.claim()
            node.copies.append(Copy(node.disk.copy(), node.notes.copy(), claim))

    def put_back(self, node: Node, copy: Copy, *, with_notes: bool) -> None:
        """Stop a node, put an old copy in its place, and start that."""
        self.stop(node, power_loss=False)
        node.put_back = True
        node.disk.put_back(copy.log)
        if with_notes:
            node.notes.put_back(copy.notes)
        self.start(node)

    def _retire(self, node: Node, error: ClusterError) -> None:
        """Replace a node whose log was recognized as an old copy with another incarnation."""
        if not node.put_back:
            raise ViolationError(f"{node.voter} is taken for an old copy: {error}")
        if node.retired:
            return
        node.retired = True
        self.stop(node, power_loss=False)
        name, _, incarnation = node.voter.partition(".")
        self._replace(node.voter, VoterId(f"{name}.{int(incarnation) + 1}"))

    def _replace(self, old: VoterId, new: VoterId) -> None:
        """Do what ReplaceLog does: take the old one's vote, then let the new one join."""
        engines = [node.engine for node in self.live if node.engine is not None]
        leaders = [engine for engine in engines if engine.is_leader]
        gone = leaders and all(old not in engine.voters for engine in leaders)
        if gone and new not in self.nodes:
            self.add_node(new, [])
        for node in self.live:
            if gone:
                self.change("add", node, new)
            else:
                self.change("rem", node, old)
        self.replaces = not any(new in engine.voters for engine in leaders)
        if self.replaces:
            self.after(0.1, lambda: self._replace(old, new))

    # Clients.

    def propose(self, node: Node) -> None:
        """One client writes at one node."""
        if node.engine is None or node.paused_until > self.now:
            return
        self._clients += 1
        command = b"c%d" % self._clients + b"x" * self.rng.choice((0, 0, 30, 300))

        def on_done(outcome: object) -> None:
            if isinstance(outcome, int):
                self.checks.acknowledge(command, outcome)
                for each in self.nodes.values():
                    self.read(each)

        with self._as(node):
            try:
                node.engine.propose(Proposal(command, on_done))
            except ClusterError:
                return
        self._wake(node)

    def read(self, node: Node) -> None:
        """One client reads at one node, without waiting."""
        if node.engine is None or node.paused_until > self.now:
            return
        with self._as(node):
            if node.engine.leads_for_sure:
                place = len(node.machine.commands)
                self.checks.read(place, self.checks.acknowledged_max, node.voter)

    def change(self, operation: str, node: Node, voter: VoterId) -> None:
        """An operator adds a voter (a learner first) or removes one."""
        engine = node.engine
        if engine is None or not engine.is_leader:
            return
        with self._as(node):
            try:
                if operation == "rem":
                    if voter != node.voter and voter in engine.voters and len(engine.voters) > 2:
                        engine.change_voters("rem", voter)
                elif voter not in engine.voters and self.links[node.voter, voter].up:
                    if voter not in engine.learners:
                        engine.add_learner(voter)
                    elif engine.match_index(voter) >= engine.commit_index:
                        engine.change_voters("add", voter)
            except ClusterError:
                return
        self._wake(node)

    def transfer(self, node: Node, target: VoterId) -> None:
        """An operator asks the leader to hand over."""
        if node.engine is not None and node.engine.is_leader:
            with self._as(node):
                try:
                    node.engine.transfer_leadership(target)
                except ClusterError:
                    return

    # Faults of a disk.

    def disk_fault(self, node: Node, kind: str, seconds: float) -> None:
        """Let a node's disk fail for a while, or be slow."""
        if kind == "slow":
            node.sync_seconds = 0.3
            self.after(seconds, lambda: setattr(node, "sync_seconds", 0.001))
            return
        number = errno.ENOSPC if kind == "full" else errno.EIO
        node.disk.fault = lambda: number

        def mend() -> None:
            node.disk.fault = lambda: 0
            self.start(node)

        self.after(seconds, mend)

    @property
    def live(self) -> list[Node]:
        """The nodes whose engines run."""
        return [node for node in self.nodes.values() if node.engine is not None]

    def close(self) -> None:
        """End every engine."""
        for node in self.live:
            assert node.engine is not None
            node.engine.close()
            node.engine = None
        clock.use()

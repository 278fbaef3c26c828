"""What a simulated cluster is made of: nodes, their old copies, links, and the order of events."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.step import Step
from ipfs_cluster_node.adapters.raft.witness import Mark
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.checks import Checks, Machine
from scripts.lib.sim.disk import MemoryDisk


@dataclass
class Node:
    """One machine: its disk lasts, its engine is started and stopped."""

    voter: VoterId
    disk: MemoryDisk
    notes: MemoryDisk
    """The disk of the note of how far voters have come."""
    rate: float
    offset: float
    engine: Engine | None = None
    machine: Machine = field(default_factory=Machine)
    inbox: list[tuple[VoterId, pb.RaftMessage]] = field(default_factory=list)
    step: Step | None = None
    awake: bool = False
    paused_until: float = 0.0
    sync_seconds: float = 0.001
    life: int = 0
    """Number of starts: events meant for an earlier life are dropped."""
    copies: list["Copy"] = field(default_factory=list)
    put_back: bool = False
    """Whether its disk was restored from an old copy."""
    retired: bool = False
    """Whether that was noticed, and another incarnation takes its place."""


@dataclass
class Copy:
    """A backup of a node."""

    log: dict[str, bytes]
    notes: dict[str, bytes]
    claim: Mark
    """How far the log in it goes, at most."""


@dataclass
class Link:
    """One direction between two nodes."""

    up: bool = True
    cut: bool = False
    epoch: int = 0
    last_delivery: float = 0.0
    delay: tuple[float, float] = (0.0002, 0.002)


class Timeline:
    """Simulated time: what is to happen, in order, checked after each event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.checks = Checks()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later."""
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, act))

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; returns whether `until` became true."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, act = heapq.heappop(self._events)
            act()
            if self.checks.broken is not None:
                raise self.checks.broken
            if until():
                return True
        self.now = end
        return until()

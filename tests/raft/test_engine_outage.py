"""An engine that takes the place of one whose disk failed, in the same process."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ipfs_cluster_node.adapters.raft.clock import use
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.outages import SNAPSHOT_RETRY_SECONDS
from ipfs_cluster_node.adapters.raft.proposals import Proposal
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from scripts.lib.sim.disk import MemoryDisk
from tests.support.replicas import ListMachine

A = VoterId("a.1")
CONFIG = RaftConfig()


class Alone:
    """The only voter of a cluster, driven by hand."""

    def __init__(self) -> None:
        self.moment = 1000.0
        use(lambda: self.moment)
        self.disk = MemoryDisk(random.Random(0))
        create_store(self.disk, A, [A])
        self.machine = ListMachine()
        self.led: list[tuple[bool, int]] = []
        self.config = replace(CONFIG, snapshot_entries=10, trailing_entries=2)
        self.engine = Engine(disk=self.disk, machine=self.machine, config=self.config)
        self.engine.on_leadership = lambda leads, term: self.led.append((leads, term))

    def reopen(self) -> None:
        self.engine = Engine(
            disk=self.disk, machine=self.machine, config=self.config, before=self.engine
        )

    def step(self) -> None:
        self.engine.begin_step().write()
        self.engine.end_step()

    def until_it_leads(self) -> None:
        for _ in range(1000):
            self.moment += self.config.tick_interval.total_seconds()
            self.step()
            if self.engine.is_leader:
                return
        raise AssertionError("it does not lead")

    def propose(self, *commands: bytes) -> list[object]:
        outcomes: list[object] = []
        for command in commands:
            self.engine.propose(Proposal(command, outcomes.append))
            for _ in range(10):
                self.moment += self.config.tick_interval.total_seconds()
                self.step()
        return outcomes


@pytest.fixture
def alone() -> Iterator[Alone]:
    yield Alone()
    use()


def test_what_was_applied_before_an_outage_is_applied_once(alone: Alone) -> None:
    alone.until_it_leads()
    assert len(alone.propose(b"one", b"two")) == 2
    for number in range(3):  # One outage after the other.
        alone.reopen()
        assert alone.machine.commands[:2] == ["one", "two"]
        alone.until_it_leads()
        [outcome] = alone.propose(b"after %d" % number)
        assert outcome == (3 + number, f"after {number}")
    assert alone.machine.commands == ["one", "two", "after 0", "after 1", "after 2"]


def test_who_listens_for_the_leadership_hears_of_it_after_an_outage(alone: Alone) -> None:
    alone.until_it_leads()
    alone.engine.stop_leading()
    alone.reopen()
    alone.until_it_leads()
    assert [leads for leads, _ in alone.led] == [True, False, True]
    assert alone.led[2][1] > alone.led[0][1]


def test_who_waits_is_answered_when_the_node_leads_no_longer(alone: Alone) -> None:
    alone.until_it_leads()
    outcomes: list[object] = []
    alone.engine.propose(Proposal(b"never", outcomes.append))
    alone.engine.stop_leading()
    [outcome] = outcomes
    assert isinstance(outcome, ClusterError)
    assert outcome.reason is Reason.NO_LEADER
    assert alone.led[-1][0] is False


def test_a_disk_that_hangs_costs_the_only_voter_no_leadership(alone: Alone) -> None:
    """Nobody else can lead."""
    alone.until_it_leads()
    alone.engine.disk_hangs(1.0)
    assert alone.engine.is_leader
    assert [leads for leads, _ in alone.led] == [True]


def test_a_snapshot_without_room_is_tried_again_later_and_a_received_one_stops_the_log(
    alone: Alone,
) -> None:
    alone.until_it_leads()
    alone.propose(*(b"%d" % n for n in range(12)))
    assert alone.engine.take_snapshot() is not None
    assert alone.engine.take_snapshot() is None  # It is under way.
    assert alone.engine.snapshot_failed()  # The log goes on without it.
    alone.moment += SNAPSHOT_RETRY_SECONDS - 0.1
    assert alone.engine.take_snapshot() is None
    alone.moment += 0.2
    make = alone.engine.take_snapshot()
    assert make is not None
    make()
    alone.engine.snapshot_taken()
    assert alone.engine.journal.first_index > 1
    alone.engine._snapshots._received = (VoterId("b.1"), 500)
    assert alone.engine.take_snapshot() is not None
    assert not alone.engine.snapshot_failed()


def test_how_far_it_came_is_noted_at_the_end_unless_a_write_may_not_have_ended() -> None:
    disk, notes = MemoryDisk(random.Random(0)), MemoryDisk(random.Random(1))
    create_store(disk, A, [A])
    engine = Engine(disk=disk, machine=ListMachine(), config=CONFIG, notes=notes)
    assert engine.last_note() is not None
    engine.journal.setCurrentTerm(5, A)
    assert engine.last_note() is None  # Nobody knows yet whether that will be there.
    step = engine.begin_step()
    assert engine.last_note() is None
    step.write()
    engine.end_step()
    assert engine.last_note() is not None


def test_an_old_state_is_no_younger_after_an_outage(alone: Alone) -> None:
    """A reopened engine has heard no leader: what it lacks, it lacked before too."""
    alone.moment += 500
    assert alone.engine.age_seconds == 500
    alone.reopen()
    assert alone.engine.age_seconds == 500

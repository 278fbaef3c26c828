"""A voter that comes back with less than it had is noticed, and no other is."""

import random
from collections.abc import Iterator

import pytest

from ipfs_cluster_node.adapters.raft.clock import use
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.engine import Engine
from ipfs_cluster_node.adapters.raft.errors import LogDamagedError
from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.proposals import Proposal
from ipfs_cluster_node.adapters.raft.step import Step
from ipfs_cluster_node.adapters.raft.store import create_store
from ipfs_cluster_node.adapters.raft.witness import (
    NOTE_NAME,
    NOTE_SECONDS,
    SYNC_SECONDS,
    Mark,
    Witness,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from scripts.lib.sim.disk import MemoryDisk
from tests.support.replicas import ListMachine

A, B, C = VoterId("a.1"), VoterId("b.1"), VoterId("c.1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    use(lambda: clock.now)
    yield clock
    use()


class Trio:
    """Three engines whose messages arrive at once, while their links stand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.disks = {voter: MemoryDisk(random.Random(0)) for voter in (A, B, C)}
        self.notes = {voter: MemoryDisk(random.Random(0)) for voter in (A, B, C)}
        self.engines: dict[VoterId, Engine] = {}
        for voter, disk in self.disks.items():
            create_store(disk, voter, [A, B, C])
            self.start(voter)

    def start(self, voter: VoterId) -> None:
        self.engines[voter] = Engine(
            disk=self.disks[voter],
            machine=ListMachine(),
            config=RaftConfig(),
            notes=self.notes[voter],
        )
        for other, engine in self.engines.items():
            if other != voter:
                engine.connected(voter, up=True)
                self.engines[voter].connected(other, up=True)

    def stop(self, voter: VoterId) -> None:
        del self.engines[voter]
        for engine in self.engines.values():
            engine.connected(voter, up=False)

    def run(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += 0.02
            for _ in range(6):
                for voter, engine in list(self.engines.items()):
                    step = engine.begin_step()
                    step.write()
                    for peer, message in (*step.appends, *engine.end_step()):
                        if peer in self.engines:
                            self.engines[peer].receive(voter, message)

    def leader(self) -> VoterId:
        for _ in range(100):
            self.run(0.1)
            for voter, engine in self.engines.items():
                if engine.is_leader:
                    return voter
        raise AssertionError("nobody leads")

    def write(self, leader: VoterId, count: int) -> None:
        done: list[object] = []
        for number in range(count):
            self.engines[leader].propose(Proposal(b"%d" % number, done.append))
        self.run(0.3)
        assert len(done) == count
        assert not any(isinstance(each, ClusterError) for each in done)

    def admit(self, here: VoterId, voter: VoterId) -> None:
        engine = self.engines[here]
        engine.admit(voter, self.engines[voter].claim(), engine.mark_of(voter))


@pytest.mark.parametrize(
    ("claim", "short"),
    [
        (Mark(10, 3, 5), False),
        (Mark(11, 3, 5), False),
        (Mark(10, 4, 6), False),
        (Mark(9, 3, 5), True),
        (Mark(10, 3, 4), True),
        # Longer, with a tail that was never committed: another log.
        (Mark(30, 2, 5), True),
    ],
)
def test_h26_what_falls_short_of_what_was_acknowledged(claim: Mark, short: bool) -> None:  # noqa: FBT001
    assert claim.falls_short_of(Mark(10, 3, 5)) is short


def test_h26_a_follower_put_back_is_refused_by_its_leader_and_by_who_was_told(
    clock: Clock,
) -> None:
    trio = Trio(clock)
    leader = trio.leader()
    back, told = (voter for voter in (A, B, C) if voter != leader)
    copies = (trio.disks[back].copy(), trio.notes[back].copy())
    trio.write(leader, 30)
    trio.stop(back)
    trio.disks[back].put_back(copies[0])
    trio.notes[back].put_back(copies[1])
    trio.start(back)
    for here in (leader, told):
        with pytest.raises(ClusterError) as raised:
            trio.admit(here, back)
        assert raised.value.reason is Reason.LOG_ROLLED_BACK
        assert "old copy" in raised.value.message


def test_h26_a_leader_put_back_is_refused_by_its_followers(clock: Clock) -> None:
    trio = Trio(clock)
    leader = trio.leader()
    follower = next(voter for voter in (A, B, C) if voter != leader)
    copy = trio.disks[leader].copy()
    trio.write(leader, 5)
    trio.notes[leader].remove(NOTE_NAME)
    trio.stop(leader)
    trio.disks[leader].put_back(copy)
    trio.start(leader)
    with pytest.raises(ClusterError, match="old copy"):
        trio.admit(follower, leader)


def test_h26_a_vote_that_was_forgotten_is_noticed(clock: Clock) -> None:
    """Otherwise a voter that was put back could vote twice in one term."""
    trio = Trio(clock)
    leader = trio.leader()
    voter = next(v for v in (A, B, C) if v != leader)
    copy = trio.disks[voter].copy()
    other = next(v for v in (A, B, C) if v not in {leader, voter})
    newer = pb.RaftMessage(term=trio.engines[leader].term + 3, stale_term=pb.StaleTerm())
    trio.engines[leader].receive(other, newer)
    trio.leader()
    trio.notes[voter].remove(NOTE_NAME)
    trio.stop(voter)
    trio.disks[voter].put_back(copy)
    trio.start(voter)
    claim = trio.engines[voter].claim()
    here = next(v for v in trio.engines if v != voter and trio.engines[v].mark_of(voter).term > 1)
    assert claim.term < trio.engines[here].mark_of(voter).term
    with pytest.raises(ClusterError, match="old copy"):
        trio.admit(here, voter)


def test_h26_who_restarts_with_all_it_had_is_let_in(clock: Clock) -> None:
    trio = Trio(clock)
    leader = trio.leader()
    trio.write(leader, 20)
    for voter in (A, B, C):
        trio.stop(voter)
        trio.start(voter)
        for here in (A, B, C):
            if here != voter:
                trio.admit(here, voter)
    trio.write(trio.leader(), 5)


def test_h26_what_was_never_committed_may_go(clock: Clock) -> None:
    """A leader that was cut off has entries of its own, which the next one replaces."""
    trio = Trio(clock)
    leader = trio.leader()
    trio.write(leader, 3)
    alone = trio.engines[leader]
    others = {voter: engine for voter, engine in trio.engines.items() if voter != leader}
    trio.engines = {leader: alone}
    alone.propose(Proposal(b"lost", lambda _outcome: None))
    trio.run(0.1)
    before = alone.claim()
    trio.engines = others
    trio.write(trio.leader(), 1)
    trio.engines[leader] = alone
    trio.run(1.0)
    assert alone.journal.term_at(before.index) != before.entry_term
    for here in others:
        trio.admit(here, leader)


def test_h26_only_the_log_is_put_back_and_what_lies_beside_it_tells(clock: Clock) -> None:
    """No other voter has to be present."""
    trio = Trio(clock)
    leader = trio.leader()
    copy = trio.disks[leader].copy()
    trio.write(leader, 5)
    trio.run(2 * NOTE_SECONDS)
    trio.stop(leader)
    trio.disks[leader].put_back(copy)
    with pytest.raises(LogDamagedError, match="old copy"):
        trio.start(leader)


def test_h26_an_old_copy_after_all_masters_were_off_is_noticed(clock: Clock) -> None:
    """What a voter saw of others survives its own restart."""
    trio = Trio(clock)
    leader = trio.leader()
    back = next(voter for voter in (A, B, C) if voter != leader)
    copies = (trio.disks[back].copy(), trio.notes[back].copy())
    trio.write(leader, 5)
    trio.run(2 * NOTE_SECONDS)
    for voter in (A, B, C):
        trio.stop(voter)
    trio.disks[back].put_back(copies[0])
    trio.notes[back].put_back(copies[1])
    for voter in (A, B, C):
        trio.start(voter)
    with pytest.raises(ClusterError, match="old copy"):
        trio.admit(leader, back)


def test_h26_a_leader_counts_no_more_of_a_follower_than_it_claims(clock: Clock) -> None:
    trio = Trio(clock)
    leader = trio.leader()
    follower = next(voter for voter in (A, B, C) if voter != leader)
    engine = trio.engines[leader]
    match = engine.match_index(follower)
    engine.admit(follower, Mark(index=match + 5), Mark())
    assert engine.match_index(follower) == match
    engine.admit(follower, Mark(index=match - 1), Mark())
    assert engine.match_index(follower) == match - 1


def test_h26_the_note_of_another_incarnation_says_nothing(clock: Clock) -> None:
    notes = MemoryDisk(random.Random(0))
    known = Witness(notes)
    known.saw_entry(A, 500, 9)
    note = known.note([A], 0.0)
    assert note is not None
    note.write()
    disk = MemoryDisk(random.Random(0))
    create_store(disk, VoterId("a.2"), [])
    Engine(disk=disk, machine=ListMachine(), config=RaftConfig(), notes=notes)


def test_h26_a_torn_note_says_nothing(clock: Clock) -> None:
    """A guess from half of a note would refuse a voter that has lost nothing."""
    notes = MemoryDisk(random.Random(0))
    known = Witness(notes)
    known.saw_entry(A, 500, 9)
    note = known.note([A], 0.0)
    assert note is not None
    note.write()
    assert Witness(notes).of(A) == Mark(500, 9)
    for position in range(len(note.data)):
        torn = bytearray(note.data)
        torn[position] ^= 1
        notes.note(NOTE_NAME, bytes(torn))
        assert Witness(notes).of(A) == Mark(), position


def test_h26_what_is_noted_is_in_the_log_before() -> None:
    """Otherwise a crash between the two leaves a log that falls short of its own note, for good."""
    order: list[str] = []

    class Recorded(MemoryDisk):
        def sync(self, name: str) -> None:
            order.append(name)
            super().sync(name)

    journal = SegmentedJournal(Recorded(random.Random(0)), base_voters=frozenset({A}))
    journal.add(REGULAR + b"x", journal.last_index + 1, 1)
    witness = Witness(Recorded(random.Random(0)))
    witness.saw_term(A, 1)
    order.clear()
    Step(journal, journal.take_pending(), [], None, witness.note([A], 0.0)).write()
    assert order == ["journal-00000001", NOTE_NAME]


def test_h26_a_power_cut_takes_the_notes_of_the_last_seconds_only(clock: Clock) -> None:
    synced: list[float] = []

    class Recorded(MemoryDisk):
        def sync(self, name: str) -> None:
            assert name == NOTE_NAME
            synced.append(moment)
            super().sync(name)

    known = Witness(Recorded(random.Random(0)))
    for number in range(100):
        moment = number * NOTE_SECONDS
        known.saw_term(A, number + 1)
        note = known.note([A], moment)
        assert note is not None
        note.write()
    assert synced == pytest.approx([0.0, SYNC_SECONDS])


def test_h26_a_step_that_may_not_have_been_written_is_not_noted(clock: Clock) -> None:
    trio = Trio(clock)
    leader = trio.leader()
    engine = trio.engines[leader]
    trio.run(0.2)
    assert engine.last_note() is not None
    engine.propose(Proposal(b"x", lambda _outcome: None))
    step = engine.begin_step()
    assert engine.last_note() is None
    step.write()
    engine.end_step()
    assert engine.last_note() is not None


class TestNotes:
    def test_marks_only_grow(self) -> None:
        witness = Witness()
        witness.saw_entry(A, 5, 2)
        witness.saw_entry(A, 4, 3)
        witness.saw_term(A, 7)
        witness.saw_term(A, 6)
        assert witness.of(A) == Mark(5, 2, 7)
        witness.saw_entry(A, 6, 2)
        assert witness.of(A) == Mark(6, 2, 7), "an entry takes no term away"
        assert witness.of(B) == Mark()

    def test_an_entry_of_an_unknown_term_says_nothing(self) -> None:
        witness = Witness()
        witness.saw_entry(A, 5, None)
        assert witness.of(A) == Mark()

    def test_what_is_told_is_kept(self) -> None:
        witness = Witness()
        witness.saw_entry(A, 5, 2)
        witness.learn([(A, Mark(4, 1, 9)), (B, Mark(7, 3, 3))])
        assert witness.of(A) == Mark(5, 2, 9)
        assert witness.marks([A, B, C]) == [
            pb.VoterMark(voter=A, index=5, entry_term=2, term=9),
            pb.VoterMark(voter=B, index=7, entry_term=3, term=3),
        ]

    def test_a_note_outlives_the_process_and_forgets_who_is_gone(self) -> None:
        disk = MemoryDisk(random.Random(0))
        witness = Witness(disk)
        witness.saw_entry(A, 5, 2)
        witness.saw_term(A, 3)
        witness.saw_entry(B, 6, 2)
        note = witness.note([A], 10.0)
        assert note is not None
        note.write()
        again = Witness(disk)
        assert again.of(A) == Mark(5, 2, 3)
        assert again.of(B) == witness.of(B) == Mark()

    def test_a_shorter_note_in_the_place_of_a_longer_one_is_whole(self) -> None:
        disk = MemoryDisk(random.Random(0))
        witness = Witness(disk)
        witness.saw_entry(A, 5, 2)
        note = witness.note([A], 10.0)
        assert note is not None
        disk.note(NOTE_NAME, note.data + b"rest of a longer one")
        assert Witness(disk).of(A) == Mark(5, 2, 0)

    @pytest.mark.parametrize("length", [0, 3, 8, 12])
    def test_a_torn_note_says_nothing(self, length: int) -> None:
        disk = MemoryDisk(random.Random(0))
        witness = Witness(disk)
        witness.saw_entry(A, 5, 2)
        note = witness.note([A], 10.0)
        assert note is not None
        disk.note(NOTE_NAME, note.data[:length])
        assert Witness(disk).of(A) == Mark()

    def test_a_note_is_due_where_something_is_new_and_seldom(self) -> None:
        witness = Witness(MemoryDisk(random.Random(0)))
        assert not witness.is_due(10.0)
        witness.saw_term(A, 1)
        assert witness.is_due(10.0)
        first = witness.note([A], 10.0)
        assert not witness.is_due(10.0 + 2 * NOTE_SECONDS)
        witness.saw_term(A, 2)
        assert not witness.is_due(10.0 + NOTE_SECONDS / 2)
        assert witness.is_due(10.0 + 2 * NOTE_SECONDS)
        second = witness.note([A], 10.0 + 2 * NOTE_SECONDS)
        third = witness.note([A], 10.0 + SYNC_SECONDS)
        assert [each.syncs for each in (first, second, third) if each] == [True, False, True]

    def test_without_a_place_nothing_is_noted(self) -> None:
        witness = Witness()
        witness.saw_term(A, 1)
        assert not witness.is_due(10.0)
        assert witness.note([A], 10.0) is None

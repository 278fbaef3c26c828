"""Each guard around PySyncObj, by the number of its hazard in docs/consensus.md."""

import pickle
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest

from ipfs_cluster_node.adapters.raft.clock import boot_time, now, use
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.disk import DirectoryDisk
from ipfs_cluster_node.adapters.raft.engine import Engine, create_store
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.guarded.follower import APPLY_SECONDS_MAX
from ipfs_cluster_node.adapters.raft.guarded.library import PRIVATE_MEMBERS, PRIVATE_METHODS
from ipfs_cluster_node.adapters.raft.guarded.outgoing import NANOSECONDS
from ipfs_cluster_node.adapters.raft.guarded.voter import GuardedSyncObj
from ipfs_cluster_node.adapters.raft.journal import REGULAR, SegmentedJournal
from ipfs_cluster_node.adapters.raft.messages import decode_message, encode_message
from ipfs_cluster_node.adapters.raft.witness import Witness
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.v1 import raft_pb2 as pb
from scripts.lib.sim.disk import MemoryDisk
from tests.support.replicas import ListMachine

SELF, *OTHERS = (VoterId(f"{name}.1") for name in "abcde")
B, C, D, E = OTHERS


class Host:
    """One guarded PySyncObj without network; what it sends is read off `sent`."""

    def __init__(self, directory: Path, voters: list[VoterId]) -> None:
        self.applied: list[bytes] = []
        self.snapshots_needed: list[VoterId] = []
        self.journal = SegmentedJournal(DirectoryDisk(directory), base_voters=frozenset(voters))
        self.raft = GuardedSyncObj(
            voter=SELF,
            journal=self.journal,
            config=RaftConfig(),
            witness=Witness(),
            apply_entry=lambda _index, command: self.applied.append(command),
            on_snapshot_needed=self.snapshots_needed.append,
        )
        for voter in voters:
            if voter != SELF:
                self.raft.connected(voter, up=True)

    def sent(self, kind: str) -> list[Any]:
        taken, self.raft.out.outbox = self.raft.out.outbox, []
        return [
            (message.term, getattr(message, kind))
            for _, message in taken
            if message.WhichOneof("kind") == kind
        ]

    def campaign(self) -> int:
        """Begin a candidacy; returns its term."""
        self.raft._campaign()
        self.raft.tick()
        return int(self.raft._getTerm())

    def lead(self, votes: list[VoterId]) -> int:
        term = self.campaign()
        for voter in votes:
            self.raft.receive(voter, {"type": "response_vote", "term": term})
        assert self.raft._isLeader()
        self.sent("append_entries")
        return term

    def append(
        self,
        sender: VoterId,
        term: int,
        previous: tuple[int, int],
        entries: list[tuple[int, int]],
        commit: int = 1,
    ) -> None:
        self.raft.receive(
            sender,
            {
                "type": "append_entries",
                "sent_at_ns": 0,
                "term": term,
                "commit_index": commit,
                "marks": [],
                "prevLogIdx": previous[0],
                "prevLogTerm": previous[1],
                "entries": [(REGULAR + b"%d.%d" % e, *e) for e in entries],
            },
        )

    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.journal[:]]


@pytest.fixture
def host_of(tmp_path: Path) -> Callable[..., Host]:
    def make(*voters: VoterId) -> Host:
        return Host(tmp_path, [SELF, *(voters or (B, C))])

    return make


def test_the_private_members_that_are_used_exist(host_of: Callable[..., Host]) -> None:
    raft = host_of().raft
    plain = pysyncobj.SyncObj
    assert [name for name in PRIVATE_MEMBERS if not hasattr(raft, name)] == []
    assert [name for name in PRIVATE_METHODS if not hasattr(plain, name)] == []


@pytest.mark.parametrize(
    ("heartbeat", "least", "most"),
    [(5, 600, 1200), (300, 600, 1200), (200, 600, 1200), (100, 600, 800)],
)
def test_times_that_would_not_hold_together_are_refused(
    heartbeat: int, least: int, most: int
) -> None:
    with pytest.raises(ClusterError) as caught:
        RaftConfig(
            heartbeat_interval=timedelta(milliseconds=heartbeat),
            election_timeout_min=timedelta(milliseconds=least),
            election_timeout_max=timedelta(milliseconds=most),
        )
    assert caught.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("heartbeat", "least", "most"),
    [(100, 4_000, 6_000), (10, 31, 47), (199, 600, 900), (2_000, 60_000, 3_600_000)],
)
def test_times_that_are_taken_are_taken_by_pysyncobj_too(
    heartbeat: int, least: int, most: int
) -> None:
    """It asserts, and a node would not start for a reason that nobody understands."""
    config = RaftConfig(
        heartbeat_interval=timedelta(milliseconds=heartbeat),
        election_timeout_min=timedelta(milliseconds=least),
        election_timeout_max=timedelta(milliseconds=most),
    )
    disk = MemoryDisk(random.Random(0))
    create_store(disk, SELF, [SELF])
    assert Engine(disk=disk, machine=ListMachine(), config=config).voters == {SELF}


def test_h1_an_old_append_cuts_nothing_that_agrees(host_of: Callable[..., Host]) -> None:
    host = host_of()
    host.append(B, 1, (1, 0), [(n, 1) for n in range(2, 12)], commit=11)
    host.raft.tick()
    host.append(B, 1, (1, 0), [(2, 1), (3, 1)])  # A late duplicate.
    host.append(B, 1, (4, 1), [])  # A heartbeat behind the end.
    assert host.journal.last_index == 11


def test_h1_a_conflict_is_replaced_and_a_committed_entry_never(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    host.append(B, 1, (1, 0), [(2, 1), (3, 1)])
    host.append(C, 2, (2, 1), [(3, 2)], commit=3)
    assert host.log()[-1] == (3, 2)
    with pytest.raises(ConsensusViolationError):
        host.append(B, 3, (2, 1), [(3, 3)])


def test_h2_an_acknowledgement_of_an_earlier_term_or_of_a_stranger_counts_not(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    last = host.journal.last_index
    ack = {
        "type": "next_node_idx",
        "sent_at_ns": 0,
        "next_node_idx": last + 1,
        "reset": False,
        "success": True,
    }
    host.raft.receive(B, {**ack, "term": term - 1})
    host.raft.receive(VoterId("stranger.1"), {**ack, "term": term})
    host.raft.tick()
    assert host.raft.commit_index < last
    host.raft.receive(B, {**ack, "term": term})
    host.raft.tick()
    assert host.raft.commit_index == last


def test_h2_what_we_acknowledge_carries_the_term(host_of: Callable[..., Host]) -> None:
    host = host_of()
    host.append(B, 4, (1, 0), [(2, 4)])
    [(term, result)] = host.sent("append_result")
    assert (term, result.success, result.next_index) == (4, True, 3)


def test_h3_a_tail_that_was_not_compared_is_not_acknowledged(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    host.append(B, 1, (1, 0), [(n, 1) for n in range(2, 9)])
    host.sent("append_result")
    host.append(C, 2, (1, 0), [(2, 1), (3, 1)], commit=8)
    [(_, result)] = host.sent("append_result")
    assert result.next_index == 4
    assert host.raft.commit_index == 3


def test_h4_a_voter_counts_once_and_a_stranger_never(host_of: Callable[..., Host]) -> None:
    host = host_of(B, C, D, E)
    vote = {"type": "response_vote", "term": host.campaign()}
    for sender in (B, B, B, VoterId("stranger.1")):
        host.raft.receive(sender, vote)
    led = [host.raft._isLeader()]
    host.raft.receive(C, vote)
    led.append(host.raft._isLeader())
    assert led == [False, True]


def test_h5_a_message_before_a_snapshot_commits_nothing(host_of: Callable[..., Host]) -> None:
    host = host_of()
    host.append(B, 1, (1, 0), [(2, 1), (3, 1)])
    host.raft.receive(
        C, {"type": "append_entries", "term": 2, "commit_index": 3, "sent_at_ns": 0, "marks": []}
    )
    assert host.raft.commit_index == 1
    [_, (_, heard)] = host.sent("append_result")
    assert not heard.success


def test_h6_what_no_append_has_verified_is_not_acknowledged(host_of: Callable[..., Host]) -> None:
    host = host_of()
    success = {
        "type": "next_node_idx",
        "sent_at_ns": 0,
        "reset": False,
        "success": True,
        "next_node_idx": 9,
    }
    host.raft.out.send(host.raft._node(B), success)
    assert host.sent("append_result") == []


def test_h7_an_index_is_committed_only_as_far_as_the_journal_knows(
    host_of: Callable[..., Host], tmp_path: Path
) -> None:
    host = host_of()
    host.append(B, 1, (1, 0), [(2, 1)], commit=2)
    host.journal.write_and_sync(host.journal.take_pending())
    again = Host(tmp_path, [SELF, B, C])
    assert again.raft.commit_index == 1  # Learned again, never believed.


def test_h12_no_second_change_before_the_first_is_committed(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    allowed = [host.raft.can_change_voters]  # Not yet: this term's no-op is not committed.
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True, "term": term}
    host.raft.receive(B, {**ack, "next_node_idx": host.journal.last_index + 1})
    host.raft.tick()
    allowed.append(host.raft.can_change_voters)
    host.raft.change_voters("add", D)
    allowed.append(host.raft.can_change_voters)  # Queued, and not in the log yet.
    host.raft.tick()
    assert D in host.raft.others
    allowed.append(host.raft.can_change_voters)
    assert allowed == [False, True, False, False]


def test_h13_a_leader_that_nobody_answers_steps_down(host_of: Callable[..., Host]) -> None:
    host = host_of()
    began = now()
    try:
        host.lead([B])
        use(lambda: began + 0.85)
        host.raft.tick()
        led = [host.raft.leads]
        use(lambda: began + 1.0)
        host.raft.tick()
        led.append(host.raft.leads)
    finally:
        use(boot_time)
    assert led == [True, False]


def test_h14_who_hears_nobody_raises_no_terms(host_of: Callable[..., Host]) -> None:
    host = host_of()
    began = now()
    try:
        for tenths in range(600):
            use(partial(float, began + tenths / 10))
            host.raft.tick()
    finally:
        use(boot_time)
    assert host.raft._getTerm() == 0
    assert len(host.sent("pre_vote")) > 50  # It asked, and got no answer.


def test_h14_a_candidacy_follows_a_majority_that_would_vote(host_of: Callable[..., Host]) -> None:
    host = host_of()
    host.raft._SyncObj__raftElectionDeadline = 0
    host.raft.tick()
    asked = host.sent("pre_vote")
    assert len(asked) == 2
    grant = {"type": "pre_vote_granted", "term": 0, "round": asked[0][1].round}
    host.raft.receive(VoterId("stranger.1"), grant)
    host.raft.tick()
    terms = [host.raft._getTerm()]
    host.raft.receive(B, grant)
    host.raft.tick()
    assert [*terms, host.raft._getTerm()] == [0, 1]
    assert len(host.sent("request_vote")) == 2


def test_h14_a_leader_that_is_heard_is_not_disturbed(host_of: Callable[..., Host]) -> None:
    host = host_of()
    host.append(B, 3, (1, 0), [(2, 3)])
    host.sent("append_result")
    ask = {"term": 3, "last_log_index": 9, "last_log_term": 9}
    host.raft.receive(C, {**ask, "type": "pre_vote", "round": 1})
    host.raft.receive(C, {**ask, "type": "request_vote", "term": 4, "transfer": False})
    assert (host.raft.out.outbox, host.raft._getTerm()) == ([], 3)
    # But if the leader asked for it.
    host.raft.receive(C, {**ask, "type": "request_vote", "term": 4, "transfer": True})
    [(term, _)] = host.sent("vote_granted")
    assert term == 4


def test_h14_a_pre_vote_is_not_for_who_is_behind(host_of: Callable[..., Host]) -> None:
    host = host_of()
    host.append(B, 3, (1, 0), [(2, 3), (3, 3)])
    host.sent("append_result")
    began = now()
    try:
        use(lambda: began + 5)
        for last_log_term, last_log_index in ((3, 2), (2, 9)):
            ask = {"last_log_index": last_log_index, "last_log_term": last_log_term, "round": 1}
            host.raft.receive(C, {**ask, "type": "pre_vote", "term": 3})
        refused = list(host.raft.out.outbox)
        ask = {"last_log_index": 3, "last_log_term": 3, "round": 7}
        host.raft.receive(C, {**ask, "type": "pre_vote", "term": 3})
    finally:
        use(boot_time)
    assert refused == []
    [(_, granted)] = host.sent("pre_vote_granted")
    assert granted.round == 7


def test_h14_who_has_an_older_term_is_told(host_of: Callable[..., Host]) -> None:
    """Else a node with a newer term could never follow that leader again."""
    host = host_of()
    host.append(B, 5, (1, 0), [(2, 5)])
    host.sent("append_result")
    host.append(C, 4, (1, 0), [(2, 4)])
    [(term, _)] = host.sent("stale_term")
    assert term == 5
    leader = host
    term = leader.lead([B])
    leader.raft.receive(VoterId("stranger.1"), {"type": "stale_term", "term": term + 3})
    led = [leader.raft.leads]
    leader.raft.receive(C, {"type": "stale_term", "term": term + 3})
    assert [*led, leader.raft.leads] == [True, False]
    assert leader.raft._getTerm() == term + 3


def test_a_handed_over_candidacy_is_only_for_the_leader_to_ask(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    host.append(B, 3, (1, 0), [(2, 3)])
    host.sent("append_result")
    for sender, term in ((C, 3), (B, 2)):
        host.raft.receive(sender, {"type": "timeout_now", "term": term})
        host.raft.tick()
    assert host.raft._getTerm() == 3
    host.raft.receive(B, {"type": "timeout_now", "term": 3})
    host.raft.tick()
    assert host.raft._getTerm() == 4
    assert all(vote.transfer for _, vote in host.sent("request_vote"))


def test_h17_and_h22_nothing_is_unpickled_and_nothing_else_travels(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    with pytest.raises(ConsensusViolationError):
        pysyncobj.syncobj.pickle.loads(pickle.dumps("x"))
    for message in (
        {"type": "apply_command", "command": b"\x02evil"},
        {"type": "append_entries", "transmission": "start", "data": b"", "term": 1},
    ):
        assert encode_message(message, 1) is None
    version = pb.RaftMessage(term=1)
    version.append_entries.previous_index = 1
    version.append_entries.entries.add(index=2, term=1, command=b"\x03evil")
    assert decode_message(version) is None
    gap = pb.RaftMessage(term=1)
    gap.append_entries.previous_index = 1
    gap.append_entries.entries.add(index=5, term=1, command=b"\x00")
    assert decode_message(gap) is None
    assert decode_message(pb.RaftMessage(term=1)) is None
    host.raft.receive(
        VoterId("stranger.1"),
        {
            "type": "next_node_idx",
            "sent_at_ns": 0,
            "term": 0,
            "next_node_idx": 9,
            "reset": True,
            "success": True,
        },
    )


def test_h21_a_node_that_no_configuration_names_does_not_campaign(tmp_path: Path) -> None:
    host = Host(tmp_path, [B, C])
    host.raft.connected(B, up=True)
    assert host.campaign() == 0


def test_a_learner_of_a_leader_that_stepped_down_gets_entries_once_it_votes(
    host_of: Callable[..., Host],
) -> None:
    """Its link stood all the time, so nobody told again that it is connected."""
    host = host_of()
    host.lead([B])
    host.raft.connected(D, up=True)
    host.raft.add_learner(D)
    host.raft.step_down(host.raft._getTerm() + 1)
    host.raft.use_voters([SELF, B, C, D])  # Another leader let it vote.
    host.lead([B, C])
    host.raft._applyCommand(b"x", None, REGULAR[0])
    host.raft.tick()
    targets = {to for to, m in host.raft.out.outbox if m.append_entries.entries}
    assert targets == {B, C, D}


def test_h24_an_acknowledgement_sends_nothing_again(host_of: Callable[..., Host]) -> None:
    host = host_of()
    term = host.lead([B])
    for _ in range(3):
        host.raft._applyCommand(b"x", None, REGULAR[0])
        host.raft.tick()
    host.sent("append_entries")
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True, "term": term}
    host.raft.receive(B, {**ack, "next_node_idx": 3})
    host.raft.append(b"y")
    sent = [[e.index for e in append.entries] for _, append in host.sent("append_entries")]
    assert sent == [[host.journal.last_index]] * len([B, C])


def test_h25_what_a_follower_lacks_is_sent_a_window_at_a_time(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    for _ in range(30):
        host.raft._applyCommand(b"x" * 1_000_000, None, REGULAR[0])
        host.raft.tick()
    host.sent("append_entries")
    window, size = RaftConfig().window_bytes_max, RaftConfig().batch_bytes_max

    def refuse(sent_at_ns: int) -> None:
        refusal = {"type": "next_node_idx", "next_node_idx": 2, "reset": True, "success": False}
        host.raft.receive(B, {**refusal, "sent_at_ns": sent_at_ns, "term": term})
        host.raft.tick()

    def sent_to_b() -> list[Any]:
        taken, host.raft.out.outbox = host.raft.out.outbox, []
        return [m.append_entries for to, m in taken if to == B and m.append_entries.entries]

    began = int(now() * NANOSECONDS)
    host.raft.connected(B, up=False)
    host.raft.connected(B, up=True)
    refuse(began)
    first = sent_to_b()
    assert window <= sum(append.ByteSize() for append in first) <= window + 2 * size
    # The answer to an append from before: what it lacks is under way.
    refuse(began - 1)
    assert sent_to_b() == []
    # Each answer lets as much more go.
    last = first[0].entries[-1].index
    ack = {"type": "next_node_idx", "reset": False, "success": True, "term": term}
    host.raft.receive(B, {**ack, "next_node_idx": last + 1, "sent_at_ns": began})
    host.raft.tick()
    more = sent_to_b()
    assert [append.previous_index for append in more] == [first[-1].entries[-1].index]
    # Whose connection breaks has nothing under way.
    host.raft.connected(B, up=False)
    host.raft.connected(B, up=True)
    refuse(int(now() * NANOSECONDS))
    assert len(sent_to_b()) == len(first)


def test_much_that_is_committed_is_applied_in_several_ticks(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    moment, each = now(), APPLY_SECONDS_MAX / 5
    applied: list[int] = []

    def apply(index: int, _command: bytes) -> None:
        nonlocal moment
        moment += each
        applied.append(index)

    host.raft._apply_entry = apply
    use(lambda: moment)
    try:
        entries = [(index, 1) for index in range(2, 30)]
        host.append(B, 1, (1, 0), entries, commit=29)
        counts = []
        while host.raft.applied_index < host.raft.commit_index:
            before = len(applied)
            host.raft.tick()
            counts.append(len(applied) - before)
        assert applied == list(range(2, 30))
        assert max(counts) <= 6
        assert host.raft.commit_index == 29
    finally:
        use(boot_time)


def test_a_follower_that_needs_a_snapshot_is_offered_one_with_each_heartbeat(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    for _ in range(5):
        host.raft._applyCommand(b"x", None, REGULAR[0])
        host.raft.tick()
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True, "term": term}
    host.raft.receive(B, {**ack, "next_node_idx": host.journal.last_index + 1})
    host.raft.tick()
    host.journal.write_and_sync(host.journal.take_pending())
    host.journal.trim(host.raft.commit_index, frozenset({SELF, B, C}))
    lacks = {**ack, "success": False, "reset": True, "next_node_idx": 2}
    host.raft.receive(C, lacks)
    host.sent("append_entries")
    host.raft._SyncObj__newAppendEntriesTime = 0
    host.raft.tick()
    assert host.snapshots_needed == [C]
    assert len(host.sent("append_entries")) == 2  # One to each follower.
    # Its answer brings nothing on: the next heartbeat does.
    host.raft.receive(C, {**lacks, "sent_at_ns": int(now() * NANOSECONDS)})
    host.raft.tick()
    assert host.snapshots_needed == [C]
    host.raft._SyncObj__newAppendEntriesTime = 0
    host.raft.tick()
    assert host.snapshots_needed == [C, C]


def test_a_commit_alone_is_sent_with_the_next_heartbeat(host_of: Callable[..., Host]) -> None:
    host, moment = host_of(), 1000.0
    use(lambda: moment)
    try:
        term = host.lead([B])
        host.raft.append(b"command")
        appends = [append for _, append in host.sent("append_entries")]
        last = host.journal.last_index
        assert [[entry.index for entry in each.entries] for each in appends] == [[last], [last]]
        ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True}
        host.raft.receive(B, {**ack, "term": term, "next_node_idx": last + 1})
        host.raft.tick()
        assert host.raft.commit_index == last
        assert host.sent("append_entries") == []
        moment += 1.1 * RaftConfig().heartbeat_interval.total_seconds()
        host.raft.tick()
        assert [each.commit_index for _, each in host.sent("append_entries")] == [last, last]
    finally:
        use(boot_time)


def test_a_change_of_the_voters_is_sent_at_once(host_of: Callable[..., Host]) -> None:
    host = host_of()
    term = host.lead([B])
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True}
    host.raft.receive(B, {**ack, "term": term, "next_node_idx": host.journal.last_index + 1})
    host.raft.tick()
    host.raft.change_voters("rem", C)
    host.raft.tick()
    assert [len(each.entries) for _, each in host.sent("append_entries")] == [1]

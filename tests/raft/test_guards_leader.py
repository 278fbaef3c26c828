"""Guards of a leader, by the number of their hazard in docs/consensus.md."""

from collections.abc import Callable
from typing import Any

from ipfs_cluster_node.adapters.raft.clock import now, use
from ipfs_cluster_node.adapters.raft.config import RaftConfig
from ipfs_cluster_node.adapters.raft.guarded.outgoing import NANOSECONDS
from ipfs_cluster_node.core.ids import VoterId
from ipfs_cluster_node.internal.v1 import raft_pb2 as pb
from tests.support.voters import SELF, B, C, D, E, Host


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


def test_an_acknowledgement_of_more_than_the_leader_has_counts_not(
    host_of: Callable[..., Host],
) -> None:
    """Entries that are yet to come would be committed by it."""
    host = host_of()
    term = host.lead([B])
    last = host.journal.last_index
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True, "term": term}
    host.raft.receive(B, {**ack, "next_node_idx": last + 5})
    host.raft.tick()
    assert host.raft.match_index(B) < last
    host.raft.append(b"x")
    host.raft.tick()
    assert host.raft.commit_index < last
    host.raft.receive(B, {**ack, "next_node_idx": last + 1})
    host.raft.tick()
    assert (host.raft.match_index(B), host.raft.commit_index) == (last, last)


def test_h4_a_voter_counts_once_and_a_stranger_never(host_of: Callable[..., Host]) -> None:
    host = host_of(B, C, D, E)
    vote = {"type": "response_vote", "term": host.campaign()}
    for sender in (B, B, B, VoterId("stranger.1")):
        host.raft.receive(sender, vote)
    led = [host.raft._isLeader()]
    host.raft.receive(C, vote)
    led.append(host.raft._isLeader())
    assert led == [False, True]


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
        use()
    assert led == [True, False]


def test_a_learner_of_a_leader_that_stepped_down_gets_entries_once_it_votes(
    host_of: Callable[..., Host],
) -> None:
    """Its link was up all the time, so its connection is not announced again."""
    host = host_of()
    host.lead([B])
    host.raft.connected(D, up=True)
    host.raft.add_learner(D)
    host.raft.step_down(host.raft._getTerm() + 1)
    host.raft.use_voters([SELF, B, C, D])  # Another leader let it vote.
    host.lead([B, C])
    host.raft.append(b"x")
    host.raft.tick()
    targets = {to for to, m in host.raft.take_appends() if m.append_entries.entries}
    assert targets == {B, C, D}


def test_h24_an_acknowledgement_sends_nothing_again(host_of: Callable[..., Host]) -> None:
    host = host_of()
    term = host.lead([B])
    for _ in range(3):
        host.raft.append(b"x")
        host.raft.tick()
    host.sent("append_entries")
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True, "term": term}
    host.raft.receive(B, {**ack, "next_node_idx": 3})
    host.raft.append(b"y")
    sent = [[e.index for e in append.entries] for _, append in host.sent("append_entries")]
    assert sent == [[host.journal.last_index]] * len([B, C])


def test_an_acknowledgement_needs_a_tick_if_it_may_commit(host_of: Callable[..., Host]) -> None:
    host = host_of()
    term = host.lead([B])
    host.raft.append(b"x")
    host.raft.tick()
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True, "term": term}
    for voter, needs in ((B, True), (C, False)):
        host.raft.receive(voter, {**ack, "next_node_idx": host.journal.last_index + 1})
        assert host.raft.needs_tick == needs
        host.raft.tick()
        assert not host.raft.needs_tick
    assert host.raft.commit_index == host.journal.last_index
    host.raft.change_voters("rem", C)
    assert host.raft.needs_tick


def test_a_late_acknowledgement_is_of_a_voter_and_of_the_last_entry_once_it_is_committed(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    host.raft.append(b"x")
    last = host.journal.last_index

    def ack(**changed: Any) -> pb.RaftMessage:
        result = {"next_index": last + 1, "success": True} | changed
        return pb.RaftMessage(
            term=result.pop("term", term), append_result=pb.AppendResult(**result)
        )

    assert not host.raft.is_late(C, ack())  # It may commit.
    taken = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True}
    host.raft.receive(B, {**taken, "term": term, "next_node_idx": last + 1})
    host.raft.tick()
    assert host.raft.is_late(C, ack())
    assert not host.raft.is_late(B, ack())  # A heartbeat's: it prolongs the lease.
    assert not host.raft.is_late(D, ack())  # A learner's, for which somebody waits.
    for other in ({"next_index": last}, {"success": False}, {"term": term + 1}):
        assert not host.raft.is_late(C, ack(**other))
    assert not host.raft.is_late(C, pb.RaftMessage(term=term))
    host.raft.append(b"y")
    assert not host.raft.is_late(C, ack())
    host.raft.step_down(term + 1)
    assert not host.raft.is_late(C, ack())


def test_h25_what_a_follower_lacks_is_sent_a_window_at_a_time(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    for _ in range(30):
        host.raft.append(b"x" * 1_000_000)
        host.raft.tick()
    host.sent("append_entries")
    window, size = RaftConfig().window_bytes_max, RaftConfig().batch_bytes_max

    def refuse(sent_at_ns: int) -> None:
        refusal = {"type": "next_node_idx", "next_node_idx": 2, "reset": True, "success": False}
        host.raft.receive(B, {**refusal, "sent_at_ns": sent_at_ns, "term": term})
        host.raft.tick()

    def sent_to_b() -> list[Any]:
        taken = host.raft.take_appends()
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


def test_a_follower_that_needs_a_snapshot_is_offered_one_with_each_heartbeat(
    host_of: Callable[..., Host],
) -> None:
    host = host_of()
    term = host.lead([B])
    for _ in range(5):
        host.raft.append(b"x")
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
        use()


def test_a_change_of_the_voters_is_sent_at_once(host_of: Callable[..., Host]) -> None:
    host = host_of()
    term = host.lead([B])
    ack = {"type": "next_node_idx", "sent_at_ns": 0, "reset": False, "success": True}
    host.raft.receive(B, {**ack, "term": term, "next_node_idx": host.journal.last_index + 1})
    host.raft.tick()
    host.raft.change_voters("rem", C)
    host.raft.tick()
    assert [len(each.entries) for _, each in host.sent("append_entries")] == [1]

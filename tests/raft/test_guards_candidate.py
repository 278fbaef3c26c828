"""Guards of elections, by the number of their hazard in docs/consensus.md."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ipfs_cluster_node.adapters.raft.clock import now, use
from ipfs_cluster_node.core.ids import VoterId
from tests.support.voters import B, C, Host


def test_h14_who_hears_nobody_raises_no_terms(host_of: Callable[..., Host]) -> None:
    host = host_of()
    began = now()
    try:
        for tenths in range(600):
            use(partial(float, began + tenths / 10))
            host.raft.tick()
    finally:
        use()
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
        use()
    assert refused == []
    [(_, granted)] = host.sent("pre_vote_granted")
    assert granted.round == 7


def test_h14_who_has_an_older_term_is_told(host_of: Callable[..., Host]) -> None:
    """Otherwise a node with a newer term could never follow that leader again."""
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


def test_h21_a_node_that_no_configuration_names_does_not_campaign(tmp_path: Path) -> None:
    host = Host(tmp_path, [B, C])
    host.raft.connected(B, up=True)
    assert host.campaign() == 0

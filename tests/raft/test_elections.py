"""Candidacies, votes and leases, decided without a clock."""

from ipfs_cluster_node.adapters.raft.elections import LEASE_SHARE, Elections, is_majority
from ipfs_cluster_node.core.ids import VoterId

A, B, C, D, E = (VoterId(f"{name}.1") for name in "abcde")
THREE, FIVE = frozenset({A, B, C}), frozenset({A, B, C, D, E})
TIMEOUT = 0.6
LEASE = LEASE_SHARE * TIMEOUT


def elections(now: float = 0.0) -> Elections:
    return Elections(A, election_timeout_min=TIMEOUT, now=now)


def test_who_has_just_started_votes_for_nobody_yet() -> None:
    """It may have promised a leader, and forgotten."""
    assert elections(now=10.0).hears_leader(10.5)
    assert not elections(now=10.0).hears_leader(10.7)


def test_a_leader_that_is_heard_is_not_voted_out() -> None:
    node = elections()
    node.heard_leader(5.0)
    assert node.hears_leader(5.5)
    assert not node.hears_leader(5.7)


def test_a_leader_that_is_gone_is_named_no_more() -> None:
    node = elections()
    node.heard_leader(5.0)
    assert node.unheard(6.0) == 1.0
    node.leader_arrived(5.5)  # It waits for this node's disk.
    assert node.unheard(6.0) == 0.5
    assert node.silence(6.0) == 1.0  # It holds up no vote.
    node.heard_leader(7.0)
    assert node.unheard(7.5) == 0.5


def test_a_candidacy_needs_a_majority_that_would_vote() -> None:
    node = elections()
    asked = node.begin_pre_vote()
    assert not node.may_campaign(FIVE)
    for sender in (B, B, B, VoterId("stranger.1")):
        node.take_grant(sender, asked)
    assert not node.may_campaign(FIVE)
    node.take_grant(C, asked - 1)  # The answer to an earlier asking.
    assert not node.may_campaign(FIVE)
    node.take_grant(C, asked)
    assert node.may_campaign(FIVE)
    assert not node.may_campaign(FIVE)  # Once.


def test_a_leader_that_is_heard_meanwhile_ends_the_asking() -> None:
    node = elections()
    asked = node.begin_pre_vote()
    node.heard_leader(1.0)
    node.take_grant(B, asked)
    assert not node.may_campaign(THREE)


def test_a_lease_runs_from_what_a_majority_has_confirmed() -> None:
    leader = elections()
    leader.begin_leading()
    assert leader.lease_until(THREE) < 0
    leader.confirm(B, 10.0, now=10.1)
    assert leader.lease_until(THREE) == 10.0 + LEASE
    assert leader.lease_until(FIVE) < 0
    leader.confirm(C, 9.0, now=10.1)
    assert leader.lease_until(THREE) == 10.0 + LEASE
    assert leader.lease_until(FIVE) == 9.0 + LEASE
    leader.confirm(B, 8.0, now=10.1)  # Late: what is known stays.
    leader.confirm(C, 99.0, now=10.1)  # Of no clock of ours.
    assert leader.lease_until(FIVE) == 9.0 + LEASE


def test_a_lease_is_shorter_than_a_promise() -> None:
    assert LEASE < TIMEOUT


def test_a_leader_that_hands_over_has_no_lease_in_this_term() -> None:
    leader = elections()
    leader.begin_leading()
    leader.confirm(B, 10.0, now=10.0)
    leader.hand_over()
    leader.confirm(B, 11.0, now=11.0)
    assert leader.lease_until(THREE) < 0
    leader.begin_leading()
    assert leader.lease_until(THREE) < 0  # What was confirmed was for another term.


def test_who_is_alone_or_does_not_vote() -> None:
    assert elections().lease_until(frozenset({A})) == float("inf")
    assert elections().lease_until(frozenset({B, C})) < 0


def test_a_majority_is_more_than_half() -> None:
    assert [is_majority(these, FIVE) for these in ({A, B}, {A, B, C})] == [False, True]
    assert not is_majority({A, B}, frozenset({A, B, C, D}))

"""The age of what a node that does not lead has."""

from ipfs_cluster_node.adapters.raft.staleness import Staleness


def test_who_has_applied_what_it_was_told_is_as_old_as_that() -> None:
    fresh = Staleness(100.0)
    assert fresh.age(applied_index=5, now=103.0) == 3.0
    fresh.told(5, applied_index=5, now=110.0)
    assert fresh.age(applied_index=5, now=110.5) == 0.5
    assert fresh.age(applied_index=5, now=112.0) == 2.0


def test_a_leader_that_is_heard_makes_an_old_state_no_younger() -> None:
    fresh = Staleness(100.0)
    fresh.told(5, applied_index=5, now=101.0)
    for moment in range(102, 110):
        fresh.told(500, applied_index=7, now=float(moment))
    assert fresh.age(applied_index=7, now=110.0) == 9.0
    assert fresh.age(applied_index=500, now=110.0) == 8.0


def test_who_is_always_one_message_behind_is_young() -> None:
    fresh = Staleness(100.0)
    for index in range(1, 100):
        fresh.told(index, applied_index=index - 1, now=100.0 + index)
    assert fresh.age(applied_index=98, now=199.0) == 1.0

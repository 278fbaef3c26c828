"""Guards of a follower, by the number of their hazard in docs/consensus.md."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.raft.clock import now, use
from ipfs_cluster_node.adapters.raft.errors import ConsensusViolationError
from ipfs_cluster_node.adapters.raft.guarded.follower import APPLY_SECONDS_MAX
from tests.support.voters import SELF, B, C, Host


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
        use()


def test_a_new_leader_that_has_committed_nothing_makes_no_state_current(
    host_of: Callable[..., Host],
) -> None:
    """It may not know yet what its predecessor committed."""
    moment = now()
    use(lambda: moment)
    try:
        host = host_of()
        host.append(B, 1, (1, 0), [(2, 1)], commit=2)
        host.raft.tick()
        moment += 10
        host.append(B, 1, (2, 1), [], commit=2)
        assert host.raft.age_seconds == 0
        moment += 10
        host.append(C, 2, (2, 1), [], commit=1)
        host.append(C, 2, (2, 1), [(3, 2)], commit=2)
        host.raft.tick()
        assert host.raft.age_seconds == 10
        host.append(C, 2, (3, 2), [], commit=3)
        host.raft.tick()
        assert host.raft.age_seconds == 0
        # One that is behind has what the leader sent before, of its term.
        moment += 5
        host.append(C, 2, (3, 2), [(4, 2)], commit=4)
        host.raft.tick()
        assert host.raft.age_seconds == 0
    finally:
        use()

"""One process at a time speaks for a member."""

import pytest

from ipfs_cluster_node.core.boots import (
    UNKNOWN,
    Boots,
    Process,
    beside,
    gives_way,
    runs_twice,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId

HERE, NODE, OTHER = NodeId("here"), NodeId("node"), NodeId("other")


def is_refused(boots: Boots, node_id: NodeId, boot: int) -> bool:
    try:
        boots.check(node_id, boot)
    except ClusterError as error:
        assert error.reason is Reason.MEMBER_RUNS_TWICE
        assert "stop one of the two" in error.message
        return True
    return False


def test_who_has_a_connection_keeps_its_place() -> None:
    boots = Boots(HERE, 1)
    boots.joined(NODE, 5)
    assert is_refused(boots, NODE, 6)
    assert not is_refused(boots, NODE, 5)
    assert not is_refused(boots, OTHER, 6)
    with pytest.raises(ClusterError):
        boots.joined(NODE, 6)


def test_a_place_is_free_once_the_last_connection_has_ended() -> None:
    boots = Boots(HERE, 1)
    boots.joined(NODE, 5)
    boots.joined(NODE, 5)
    boots.left(NODE)
    assert is_refused(boots, NODE, 6)
    boots.left(NODE)
    assert not is_refused(boots, NODE, 6)
    boots.joined(NODE, 6)
    assert is_refused(boots, NODE, 5)


def test_a_copy_of_the_leader_itself_is_refused() -> None:
    assert is_refused(Boots(HERE, 1), HERE, 2)
    assert not is_refused(Boots(HERE, 1), HERE, 1)


def test_a_leader_says_where_it_is_to_a_copy_of_itself() -> None:
    boots = Boots(HERE, 1, "m1:1")
    with pytest.raises(ClusterError, match="here runs already at m1:1,"):
        boots.check(HERE, 2)
    boots.joined(NODE, 5)
    with pytest.raises(ClusterError, match="node runs already, in another"):
        boots.check(NODE, 6)


def test_who_says_no_boot_is_not_told_from_others() -> None:
    boots = Boots(HERE, 1)
    boots.joined(NODE, UNKNOWN)
    assert not is_refused(boots, NODE, 6)
    boots.joined(NODE, 6)
    assert is_refused(boots, NODE, 7)
    assert not is_refused(boots, NODE, UNKNOWN)


def process(boot: int, uptime_seconds: float = 1.0, address: str = "h:1") -> Process:
    return Process(address, boot, uptime_seconds)


def test_a_process_knows_itself_by_its_boot_wherever_it_answers() -> None:
    assert beside(1, [process(1, address="h:1"), process(1, address="name:2")]) == []
    assert beside(1, []) == []
    assert beside(1, [process(1), process(2)]) == [process(2)]


def test_who_proves_the_identity_and_says_no_boot_is_another_process() -> None:
    """As a master does whose log is replaced; the asking process always says its own."""
    assert beside(1, [process(UNKNOWN)]) == [process(UNKNOWN)]


def test_of_two_processes_whoever_began_first_goes_on() -> None:
    assert gives_way(5.0, process(2, uptime_seconds=6.0))
    assert not gives_way(5.0, process(2, uptime_seconds=4.0))


def test_two_processes_never_both_go_on() -> None:
    """Each asks at a time of its own: what it ran when it asked is compared, not later."""
    for began_later in (0.0, 0.001, 1.0):
        for delay in (0.0, 0.002, 2.0):
            first, later = 10.0 + began_later, 10.0
            ends = [
                gives_way(first, process(2, uptime_seconds=later + delay)),
                gives_way(later, process(1, uptime_seconds=first + delay)),
            ]
            assert any(ends)


def test_who_is_refused_hears_where_the_other_one_is_and_the_way_out() -> None:
    error = runs_twice(NODE, "m1.example:9096")
    assert error.reason is Reason.MEMBER_RUNS_TWICE
    assert f"{NODE} runs already at m1.example:9096" in error.message
    assert "stop one of the two" in error.message
    assert "empty home directory" in error.message

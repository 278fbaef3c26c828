"""One process at a time speaks for a member."""

import pytest

from ipfs_cluster_node.core.boots import (
    UNKNOWN,
    Boots,
    other_address,
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


def test_a_process_knows_itself_by_its_boot_wherever_it_answers() -> None:
    assert other_address(1, {}) is None
    assert other_address(1, {"h:1": 1, "name:2": 1}) is None
    assert other_address(1, {"h:1": 1, "name:2": 2}) == "name:2"


def test_who_proves_the_identity_and_says_no_boot_is_another_process() -> None:
    """As a master does whose log is replaced; the asking process always says its own."""
    assert other_address(1, {"h:1": UNKNOWN}) == "h:1"


def test_who_is_refused_hears_where_the_other_one_is_and_the_way_out() -> None:
    error = runs_twice(NODE, "m1.example:9096")
    assert error.reason is Reason.MEMBER_RUNS_TWICE
    assert f"{NODE} runs already at m1.example:9096" in error.message
    assert "stop one of the two" in error.message
    assert "empty home directory" in error.message

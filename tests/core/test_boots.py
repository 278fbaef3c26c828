"""One process at a time speaks for a member."""

import pytest

from ipfs_cluster_node.core.boots import UNKNOWN, Boots
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


def test_who_says_no_boot_is_not_told_from_others() -> None:
    boots = Boots(HERE, 1)
    boots.joined(NODE, UNKNOWN)
    assert not is_refused(boots, NODE, 6)
    boots.joined(NODE, 6)
    assert is_refused(boots, NODE, 7)
    assert not is_refused(boots, NODE, UNKNOWN)

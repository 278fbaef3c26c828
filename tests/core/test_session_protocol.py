"""The version of a session is the highest that both sides speak."""

import pytest

from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.session_protocol import (
    PROTOCOL_VERSIONS,
    agreed_version,
    check_version,
)


def test_the_highest_version_of_both_holds() -> None:
    assert agreed_version([1, 2, 4], {1, 2, 3}) == 2
    assert agreed_version(PROTOCOL_VERSIONS) == max(PROTOCOL_VERSIONS)


@pytest.mark.parametrize("worker", [[], [0], [4, 5]])
def test_without_a_common_version_both_sides_are_named(worker: list[int]) -> None:
    with pytest.raises(ClusterError) as refused:
        agreed_version(worker, {2, 3})
    assert refused.value.reason is Reason.PROTOCOL_UNSUPPORTED
    assert ("version 4, 5" if worker == [4, 5] else "no version") in refused.value.message
    assert "the leader version 2, 3" in refused.value.message


def test_a_leader_may_choose_only_what_was_offered() -> None:
    check_version(1, {1, 2})
    for said in (0, 3):
        with pytest.raises(ClusterError) as refused:
            check_version(said, {1, 2})
        assert refused.value.reason is Reason.PROTOCOL_UNSUPPORTED

"""What is said of a key that is no setting."""

import pytest

from ipfs_cluster_node.core.settings import ClusterConfig


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("Node_Lease", "did you mean node_lease? Keys of your own begin with `user.`"),
        ("node-lease", "did you mean node_lease?"),
        ("team", "did you mean user.team?"),
        ("user.", "there are block_deletion_paused, "),
        ("user.a b", "there are block_deletion_paused, "),
    ],
)
def test_an_unknown_key_is_told_what_may_be_meant(key: str, meant: str) -> None:
    with pytest.raises(ValueError, match="is not a setting; ") as caught:
        ClusterConfig().change({key: "1"}, {})
    assert meant in str(caught.value)
    assert "user.user." not in str(caught.value)

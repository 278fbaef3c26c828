"""Requirements of requests whose numbers no call may have."""

import pytest

from ipfs_cluster_node.access.requirements import create_join_token
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.v1 import membership_pb2, roles_pb2

LONGEST = 2**63 - 1


@pytest.mark.parametrize("seconds", [LONGEST, -LONGEST])
def test_a_lifetime_that_no_duration_can_have_is_refused(seconds: int) -> None:
    """It was answered with INTERNAL."""
    request = membership_pb2.CreateJoinTokenRequest(role=roles_pb2.ROLE_WORKER)
    request.ttl.seconds, request.ttl.nanos = seconds, 100
    with pytest.raises(ClusterError) as caught:
        list(create_join_token(request, None))  # type: ignore[arg-type]
    assert caught.value.reason is Reason.INVALID_ARGUMENT

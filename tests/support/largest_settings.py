"""The largest requests about settings."""

from collections.abc import Callable

from ipfs_cluster_node.core.settings import CHANGES_MAX, USER_VALUE_CHARS_MAX
from ipfs_cluster_node.v1 import membership_pb2 as pb

LONG = {f"user.largest{n}": "v" * USER_VALUE_CHARS_MAX for n in range(900)}
MANY = {f"user.largest{n}": "" for n in range(CHANGES_MAX)}


def proposals(new_id: Callable[[], str]) -> list[pb.ProposeConfigRequest]:
    return [pb.ProposeConfigRequest(request_id=new_id(), values=each) for each in (LONG, MANY)]


def plans() -> list[pb.PlanConfigRequest]:
    changes = [pb.PlanConfigRequest(values=each) for each in (LONG, MANY)]
    return [*changes, pb.PlanConfigRequest(revert_to=0)]

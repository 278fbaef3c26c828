"""A leader's soft state: all of it is cleared when the leadership ends."""

from ipfs_cluster_node.cluster.observations import Observations
from ipfs_cluster_node.core.backoff import Backoff
from ipfs_cluster_node.core.ids import NodeId, TaskId
from tests.support.virtual_time import monotonic

NODE = NodeId("n")


def test_nothing_outlives_the_leadership() -> None:
    observations = Observations(monotonic)
    fresh = {name: value for name, value in vars(observations).items() if name[:8] != "listened"}
    observations.hear(NODE)
    observations.revived.add(NODE)
    observations.room_bytes[NODE] = 1
    observations.contents[NODE] = (1, 0.0)
    observations.epochs[NODE] = 1
    observations.backoffs[NODE] = Backoff()
    observations.progress[TaskId("t")] = (0.5, "half")
    assert all(fresh.values()), "a new field is noted here as well"
    observations.clear()
    assert not any(fresh.values())

"""Which waiting task goes to which worker."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.tasks import TaskTable


@dataclass(frozen=True, slots=True)
class WorkerOffer:
    """What a worker with a session takes now."""

    node_id: NodeId
    task_types: frozenset[str]
    credit: int
    """How many more attempts it takes."""


def plan(
    tasks: TaskTable, offers: Mapping[NodeId, WorkerOffer], *, count_max: int
) -> list[tuple[TaskId, NodeId]]:
    """Match waiting tasks with workers.

    The highest priority first, within a type in the order of submission; each task goes to the
    worker with the most free credit among those with a handler for its type.

    Args:
        tasks: Read only.
        offers: The workers to choose from.
        count_max: Longest plan; what is left is planned next time.

    Returns:
        At most `count_max` pairs, at most `credit` for each worker.
    """
    credit = {node_id: offer.credit for node_id, offer in offers.items() if offer.credit > 0}
    planned: list[tuple[TaskId, NodeId]] = []
    for task_type, waiting in tasks.pending():
        # Most credit first; the id breaks ties, so that a plan is a function of its arguments.
        able = [
            (-free, node_id)
            for node_id, free in credit.items()
            if task_type in offers[node_id].task_types
        ]
        heapq.heapify(able)
        for task_id in islice(waiting, count_max - len(planned)):
            if not able:
                break
            free, node_id = able[0]
            planned.append((task_id, node_id))
            credit[node_id] -= 1
            if credit[node_id]:
                heapq.heapreplace(able, (free + 1, node_id))
            else:
                heapq.heappop(able)
                del credit[node_id]
        if len(planned) >= count_max or not credit:
            break
    return planned

"""Which waiting task goes to which worker."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

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

    The highest priority first, then in the order of submission, whatever the type: one type that is
    always submitted keeps no other waiting. Each task goes to the worker with the most free credit
    among those with a handler for its type.

    Args:
        tasks: Read only.
        offers: The workers to choose from.
        count_max: Longest plan; what is left is planned next time.

    Returns:
        At most `count_max` pairs, at most `credit` for each worker.
    """
    credit = {node_id: offer.credit for node_id, offer in offers.items() if offer.credit > 0}
    able: dict[str, list[tuple[int, NodeId]]] = {}
    planned: list[tuple[TaskId, NodeId]] = []
    for by_type in tasks.pending():
        for task_type in by_type.keys() - able.keys():
            able[task_type] = [
                (-free, node_id)
                for node_id, free in credit.items()
                if task_type in offers[node_id].task_types
            ]
            heapq.heapify(able[task_type])
        queues = {t: iter(queue) for t, queue in by_type.items() if able[t]}
        heads = [(*next(queue), task_type) for task_type, queue in queues.items()]
        heapq.heapify(heads)
        while heads:
            if len(planned) >= count_max:
                return planned
            _, task_id, task_type = heads[0]
            node_id = _most_free(able[task_type], credit)
            if node_id is None:
                heapq.heappop(heads)
                continue
            planned.append((task_id, node_id))
            credit[node_id] -= 1
            following = next(queues[task_type], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (*following, task_type))
    return planned


def _most_free(able: list[tuple[int, NodeId]], credit: Mapping[NodeId, int]) -> NodeId | None:
    """Who has the most credit; the id breaks ties, so that a plan depends on its arguments only.

    Args:
        able: A heap of workers by their credit, the most first, as it was when it was looked at
            last: other types use the same workers. Put right here.
        credit: As it is.
    """
    while able:
        free, node_id = able[0]
        if -free == credit[node_id] and free:
            return node_id
        if credit[node_id]:
            heapq.heapreplace(able, (-credit[node_id], node_id))
        else:
            heapq.heappop(able)
    return None

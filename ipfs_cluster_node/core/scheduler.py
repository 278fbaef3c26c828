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
    free_slots: int = 0
    """How many of its slots have no attempt; what is given beyond waits there."""


_Rank = tuple[int, int, NodeId]
"""Free slots and credit, both negative so that the most comes first; the id breaks ties, so that a
plan depends on its arguments only."""


def plan(
    tasks: TaskTable, offers: Mapping[NodeId, WorkerOffer], *, count_max: int
) -> list[tuple[TaskId, NodeId]]:
    """Match waiting tasks with workers.

    The highest priority first, then in the order of submission, whatever the type: one type that is
    always submitted keeps no other waiting. Each task goes to the worker with the most free slots
    among those with a handler for its type; where all slots are taken, to the one with the most
    credit. So none waits behind a long attempt while a slot idles elsewhere.

    Args:
        tasks: Read only.
        offers: The workers to choose from.
        count_max: Longest plan; what is left is planned next time.

    Returns:
        At most `count_max` pairs, at most `credit` for each worker.
    """
    ranks = {
        node_id: (-max(0, offer.free_slots), -offer.credit, node_id)
        for node_id, offer in offers.items()
        if offer.credit > 0
    }
    able: dict[str, list[_Rank]] = {}
    planned: list[tuple[TaskId, NodeId]] = []
    for by_type in tasks.pending():
        for task_type in by_type.keys() - able.keys():
            able[task_type] = [
                rank for node_id, rank in ranks.items() if task_type in offers[node_id].task_types
            ]
            heapq.heapify(able[task_type])
        queues = {t: iter(queue) for t, queue in by_type.items() if able[t]}
        heads = [(*next(queue), task_type) for task_type, queue in queues.items()]
        heapq.heapify(heads)
        while heads:
            if len(planned) >= count_max:
                return planned
            _, task_id, task_type = heads[0]
            node_id = _most_free(able[task_type], ranks)
            if node_id is None:
                heapq.heappop(heads)
                continue
            planned.append((task_id, node_id))
            slots, credit, _ = ranks[node_id]
            ranks[node_id] = (min(0, slots + 1), credit + 1, node_id)
            following = next(queues[task_type], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (*following, task_type))
    return planned


def _most_free(able: list[_Rank], ranks: Mapping[NodeId, _Rank]) -> NodeId | None:
    """Whose rank is the first.

    Args:
        able: A heap of the workers' ranks as they were when they were looked at last: other types
            use the same workers. Put right here; ranks only grow.
        ranks: As they are.
    """
    while able:
        _, _, node_id = able[0]
        rank = ranks[node_id]
        if not rank[1]:
            heapq.heappop(able)
        elif able[0] != rank:
            heapq.heapreplace(able, rank)
        else:
            return node_id
    return None

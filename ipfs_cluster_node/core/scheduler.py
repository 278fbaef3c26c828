"""Matches pending tasks with workers."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from ipfs_cluster_node.core.ids import NodeId, TaskId
from ipfs_cluster_node.core.tasks import TaskTable


@dataclass(frozen=True, slots=True)
class WorkerOffer:
    """A connected worker's current capacity."""

    node_id: NodeId
    task_types: frozenset[str]
    credit: int
    """The number of further attempts that it accepts."""
    free_slots: int = 0
    """The number of idle slots; further attempts would wait at the worker."""


_Rank = tuple[int, int, NodeId]
"""Free slots and credit, both negative so that the largest comes first; the id breaks ties, so that
a plan depends on its arguments only."""


def plan(
    tasks: TaskTable, offers: Mapping[NodeId, WorkerOffer], *, count_max: int
) -> list[tuple[TaskId, NodeId]]:
    """Match pending tasks with workers.

    Highest priority first, then in the order of submission across all types, so that no type
    starves another. Each task goes to the worker with the most free slots among those with a
    handler for its type; if all slots are taken, to the one with the most credit. So none waits
    behind a long attempt while a slot idles elsewhere.

    Args:
        tasks: The tasks; not modified.
        offers: The workers to choose from.
        count_max: Longest plan; remaining tasks are planned next time.

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
    """The worker with the first rank.

    `able` is a heap of the workers' ranks, possibly outdated as other types use the same workers.
    It is corrected here; ranks only grow.
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

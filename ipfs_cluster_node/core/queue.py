"""Pending tasks in the order of their submission."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice

from ipfs_cluster_node.core.ids import TaskId


class TaskQueue:
    """Pending tasks by their sequence; a requeued one keeps its place.

    Nearly all arrive in order, into a dict. Requeued ones are few, at most as many as workers held,
    so a sorted list holds them.
    """

    def __init__(self) -> None:
        self._in_order: dict[TaskId, int] = {}
        self._last = 0
        self._returned: list[tuple[int, TaskId]] = []

    def __bool__(self) -> bool:
        return bool(self._in_order or self._returned)

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self._in_order) + len(self._returned)

    def ahead_of(self, sequence: int, count_max: int) -> int:
        """How many are before a sequence; once there are more than `count_max`, one more."""
        ahead = bisect_left(self._returned, (sequence, ""))
        for each in islice(self._in_order.values(), max(0, count_max + 1 - ahead)):
            if each >= sequence:
                break
            ahead += 1
        return min(ahead, count_max + 1)

    def __iter__(self) -> Iterator[tuple[int, TaskId]]:
        """Sequence and id of each, lowest sequence first."""
        in_order = ((sequence, task_id) for task_id, sequence in self._in_order.items())
        return heapq.merge(in_order, self._returned) if self._returned else in_order

    def add(self, sequence: int, task_id: TaskId) -> None:
        """Add a task that is not in the queue."""
        if sequence > self._last:
            self._last = sequence
            self._in_order[task_id] = sequence
        else:
            insort(self._returned, (sequence, task_id))

    def remove(self, sequence: int, task_id: TaskId) -> None:
        """Remove a task that is in the queue."""
        if self._in_order.pop(task_id, None) is None:
            position = bisect_left(self._returned, (sequence, task_id))
            assert self._returned[position] == (sequence, task_id)
            del self._returned[position]

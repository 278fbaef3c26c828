"""Limits on the number and bytes of tasks that the cluster holds."""

from collections.abc import Sequence

from ipfs_cluster_node.core.effects import Rejected
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TaskSpec
from ipfs_cluster_node.core.settings import ClusterConfig
from ipfs_cluster_node.core.tasks import TaskTable


def no_room_for(
    tasks: TaskTable, settings: ClusterConfig, specs: Sequence[TaskSpec]
) -> Rejected | None:
    """Why tasks are refused even if all removable ended ones were deleted."""
    more = len(specs)
    count_max, bytes_max = settings["task_count_max"], settings["task_bytes_max"]
    kept = min(tasks.ended_count, _ended_keep(settings))
    if tasks.unfinished_count + kept + more > count_max:
        return Rejected(
            Reason.TOO_MANY_TASKS,
            f"{tasks.unfinished_count} tasks wait or run and {kept} that ended are kept in any "
            f"case: {more} more are too many for task_count_max ({count_max}); wait until some "
            "end, or raise it",
        )
    unfinished_bytes = tasks.stored_bytes - tasks.ended_bytes
    kept_bytes = min(tasks.ended_bytes, bytes_max // 2)
    payload_bytes = sum(len(spec.payload) for spec in specs)
    if unfinished_bytes + kept_bytes + payload_bytes > bytes_max:
        return Rejected(
            Reason.TOO_MANY_TASKS,
            f"tasks that wait or run hold {unfinished_bytes} bytes, and those that ended keep "
            f"{kept_bytes} in any case: {payload_bytes} more are too many for task_bytes_max "
            f"({bytes_max}); wait until some end, name large inputs by CID, or raise it",
        )
    return None


def make_room(
    tasks: TaskTable, settings: ClusterConfig, count: int, payload_bytes: int, *, forget_max: int
) -> None:
    """Delete ended tasks, oldest first, until `count` more with `payload_bytes` fit."""
    bytes_max = settings["task_bytes_max"]
    tasks.make_room(
        count=settings["task_count_max"] - count,
        count_keep=_ended_keep(settings),
        stored_bytes=bytes_max - payload_bytes,
        bytes_keep=bytes_max // 2,
        forget_max=forget_max,
    )


def _ended_keep(settings: ClusterConfig) -> int:
    return min(settings["task_ended_keep_min"], settings["task_count_max"] // 2)

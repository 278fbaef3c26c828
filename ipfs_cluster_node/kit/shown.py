"""Nodes and tasks as a kit's methods return them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ipfs_cluster_node.client.values import decoded
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.views import ListedNode, ListedTask
from ipfs_cluster_node.kit.results import ErrorType, KitError, Result

STATUS: Final[Mapping[TaskState, str]] = {
    TaskState.PENDING: "pending",
    TaskState.RUNNING: "running",
    TaskState.SUCCEEDED: "completed",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
}
"""A task's state, as IPFS Kit spells it."""
TIMED_OUT: Final = (Reason.TASK_TIMED_OUT, Reason.ATTEMPT_TIMED_OUT)
TIMEOUT: Final = "timeout"
"""The status of a task that failed for that."""


def given_status(status: Any) -> list[TaskState]:
    """The states of tasks that are shown with this status, or of all; raises KitError."""
    if not status:
        return []
    states = [
        s for s, word in STATUS.items() if word == ("failed" if status == TIMEOUT else status)
    ]
    if not states:
        raise KitError(
            ErrorType.VALIDATION,
            f"{status!r:.80} is no status; there are {', '.join((*STATUS.values(), TIMEOUT))}",
        )
    return states


def node_result(node: ListedNode) -> Result:
    """A node."""
    return {
        "id": node.node_id,
        "name": node.name,
        "role": str(node.role),
        "status": "online" if node.liveness == "alive" else "offline",
        "addresses": list(node.endpoints),
        "is_leader": node.leader,
        "task_types": list(node.task_types),
        "running": node.running_attempt_count,
        "slots": node.slot_count,
    }


def task_result(task: ListedTask) -> Result:
    """A task, with its result or failure once it has ended."""
    status = task.status
    shown: Result = {
        "task_id": task.task_id,
        "task_type": task.spec.task_type,
        "status": "unknown" if status.state is None else STATUS[status.state],
        "priority": task.spec.priority,
        "node_id": status.node_id,
        "attempt": status.attempt,
        "created_at": status.submitted_at_ms / 1000,
        "completed_at": status.finished_at_ms / 1000 or None,
        "progress": status.progress_ratio,
    }
    if status.result is not None:
        value = decoded(replace(status.result, cid=""))  # What came beside a file.
        shown["result"] = value if isinstance(value, dict | list | str | int | float) else None
        shown["result_cid"] = status.result.cid or None
    if status.state is TaskState.FAILED and status.failure is not None:
        if status.failure.reason in TIMED_OUT:
            shown["status"] = TIMEOUT
        shown["failure"] = {
            "reason": str(status.failure.reason),
            "message": status.failure.message,
        }
    return shown

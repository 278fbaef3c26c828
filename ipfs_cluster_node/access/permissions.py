"""Permissions of callers that are not authorized by their own delegations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipfs_cluster_node.access.context import Caller
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import AttemptId, Task, TaskState
from ipfs_cluster_node.core.state import ClusterState


@dataclass(frozen=True, slots=True)
class Unrestricted:
    """Permissions of a caller whose class suffices for the method, without a delegation."""

    caller: Caller
    delegation_cids: tuple[str, ...] = ()

    def allows(self, _args: Mapping[str, Value]) -> bool:
        """Everything."""
        return True

    async def renew(self) -> None:
        """Do nothing: its membership is checked elsewhere."""


@dataclass(frozen=True, slots=True)
class AttemptPermissions:
    """Permissions of a worker with one attempt: the files that its submitter may name."""

    caller: Caller
    attempt: AttemptId
    state: Callable[[], ClusterState]
    delegation_cids: tuple[str, ...] = ()

    def allows(self, args: Mapping[str, Value]) -> bool:
        """Whether this is a file of the attempt."""
        return args.get("cid") in {each.cid for each in self._task().spec.inputs}

    async def renew(self) -> None:
        """Check that the attempt still runs; raises ClusterError."""
        self._task()

    def _task(self) -> Task:
        task = self.state().tasks.get(self.attempt.task_id)
        if (
            task is None
            or task.state is not TaskState.RUNNING
            or task.attempt != self.attempt.attempt
            or task.node_id != self.caller.node_id
        ):
            raise ClusterError(
                Reason.STALE_ATTEMPT,
                f"attempt {self.attempt.attempt} of {self.attempt.task_id} does not run on "
                "this node, as far as is known here",
            )
        return task

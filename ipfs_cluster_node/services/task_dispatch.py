"""TaskDispatchService."""

from collections.abc import AsyncIterator
from typing import Any, Final

from ipfs_cluster_node.access.context import current_caller, current_permissions
from ipfs_cluster_node.access.turns import gathered
from ipfs_cluster_node.cluster.pages import page_of_items
from ipfs_cluster_node.cluster.tasks import Tasks
from ipfs_cluster_node.codec.pages import page_of
from ipfs_cluster_node.codec.submissions import Submission
from ipfs_cluster_node.codec.tasks import (
    namespaces_from_proto,
    prefix_of,
    request_id_of,
    states_from_proto,
    task_id_of,
    task_to_proto,
)
from ipfs_cluster_node.codec.views import details_to_proto
from ipfs_cluster_node.core.authorization import MEMBER_LIST, member_args, task_args
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import WATCHED_TASKS_MAX, Task, TaskSpec
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1 import task_dispatch_pb2_grpc

TASKS_SCANNED_MAX: Final = 20_000
"""Tasks that one page looks at; the next page goes on after them."""


class TaskDispatchServicer(task_dispatch_pb2_grpc.TaskDispatchServiceServicer):
    """Tasks."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    # The gate passes these two the decoded value.
    async def SubmitTask(  # type: ignore[override]
        self, request: Submission, context: Any
    ) -> pb.SubmitTaskResponse:
        """Submit a task."""
        [task_id] = await self._submit(request, list(request))
        return pb.SubmitTaskResponse(task_id=task_id)

    async def SubmitTasks(  # type: ignore[override]
        self, request: Submission, context: Any
    ) -> pb.SubmitTasksResponse:
        """Submit many tasks."""
        task_ids = await self._submit(request, await gathered(request))
        return pb.SubmitTasksResponse(task_ids=task_ids)

    async def _submit(self, submission: Submission, specs: list[TaskSpec]) -> tuple[TaskId, ...]:
        return await self._tasks.submit_tasks(
            specs,
            fingerprint=submission.fingerprint(),
            caller=current_caller().did,
            request_id=request_id_of(submission.request_id),
        )

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        """Read one task."""
        task = self._tasks.get_task(task_id_of(request.task_id))
        message = task_to_proto(task, progress=self._tasks.progress.get(task.task_id))
        permissions = current_permissions()
        details = self._tasks.details_of(
            task, lambda node: permissions.allows_under(MEMBER_LIST, member_args(node))
        )
        details_to_proto(message, task, details)
        return pb.GetTaskResponse(task=message)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        """List tasks."""
        page = page_of(request, "tasks")
        permissions = current_permissions()
        states = states_from_proto(request.states)
        prefix = prefix_of(request.task_id_prefix, "task_id_prefix")
        in_namespace = namespaces_from_proto(request.namespace_pattern)
        shown, following = await page_of_items(
            (
                (
                    self._listed(task)
                    if (not states or task.state in states)
                    and (not prefix or task.task_id.startswith(prefix))
                    and (not request.task_type or task.spec.task_type == request.task_type)
                    and (in_namespace is None or in_namespace(task.spec.namespace))
                    and permissions.allows(task_args(task, permissions.caller.did))
                    else None,
                    task.sequence,
                )
                for task in self._tasks.newest_first(page.after_number())
            ),
            page,
            scanned_max=TASKS_SCANNED_MAX,
        )
        return pb.ListTasksResponse(tasks=shown, next_page_token=following)

    def _listed(self, task: Task) -> pb.Task:
        message = task_to_proto(task, with_data=False)
        status = message.status
        status.submitter_name, status.node_name = self._tasks.names_of(task)
        return message

    async def WatchTasks(
        self, request: pb.WatchTasksRequest, context: Any
    ) -> AsyncIterator[pb.WatchTasksResponse]:
        """Watch tasks."""
        if not 1 <= len(request.task_ids) <= WATCHED_TASKS_MAX:
            raise invalid_field("task_ids", f"1 to {WATCHED_TASKS_MAX}")
        task_ids = await gathered(task_id_of(text, "task_ids") for text in request.task_ids)
        permissions = current_permissions()
        async for changed in self._tasks.watch_tasks(task_ids):
            progress = self._tasks.progress
            tasks = [t for t in changed if permissions.allows(task_args(t, permissions.caller.did))]
            if len(tasks) < len(changed):
                await permissions.renew()  # Raises if they ended, and so ends the watch.
            yield pb.WatchTasksResponse(
                tasks=await gathered(
                    task_to_proto(t, progress=progress.get(t.task_id)) for t in tasks
                )
            )

    async def CancelTask(
        self, request: pb.CancelTaskRequest, context: Any
    ) -> pb.CancelTaskResponse:
        """Cancel a task."""
        await self._tasks.cancel_task(
            task_id_of(request.task_id),
            caller=current_caller().did,
            request_id=request_id_of(request.request_id),
        )
        return pb.CancelTaskResponse()

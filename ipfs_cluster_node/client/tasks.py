"""Submits, reads, awaits and cancels tasks."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import grpc

from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls
from ipfs_cluster_node.client.connection import new_request_id
from ipfs_cluster_node.codec.tasks import states_to_proto, task_from_proto
from ipfs_cluster_node.codec.views import watched_task_from_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import (
    DEFAULT_NAMESPACE,
    PAYLOAD_BYTES_MAX,
    SUBMISSION_TASKS_MAX,
    WATCHED_TASKS_MAX,
    Task,
    TaskState,
)
from ipfs_cluster_node.core.views import WatchedTask
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub

SUBMISSION_BYTES: Final = 1024 * 1024


class TaskCalls(Calls):
    """The operations of TaskDispatchService."""

    async def submit_task(
        self,
        task_type: str,
        payload: bytes | str | dict[str, Any] = b"",
        *,
        inputs: Iterable[tuple[str, str] | tuple[str, str, str]] = (),
        attempt_timeout: timedelta | None = None,
        priority: int = 0,
        namespace: str = DEFAULT_NAMESPACE,
        request_id: str | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> str:
        """Submit a task; returns its id once it is committed.

        Args:
            task_type: Names the handler.
            payload: At most 1 MiB; a dict is sent as JSON.
            inputs: Name, CID and, if the bytes don't tell it, the format.
            attempt_timeout: Time limit of one attempt; default 10 minutes.
            priority: 0 (last) to 9 (first).
            namespace: Its namespace, for permissions; names separated by slashes.
            request_id: Makes a repeat by another process safe; default a new one.
            timeout: For all attempts to reach the leader together.
        """
        spec = task_spec(
            task_type,
            payload,
            inputs=inputs,
            attempt_timeout=attempt_timeout,
            priority=priority,
            namespace=namespace,
        )
        request = pb.SubmitTaskRequest(request_id=request_id or new_request_id(), spec=spec)
        response = await self._unary(request, timeout)
        return str(response.task_id)

    async def submit_tasks(
        self, specs: Sequence[pb.TaskSpec], *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[str]:
        """Submit many tasks, made by `task_spec`; returns their ids in order.

        Sent in groups, each all or nothing; a failure says nothing about earlier groups.
        """
        task_ids: list[str] = []
        for group in _groups(specs):
            request = pb.SubmitTasksRequest(request_id=new_request_id(), specs=group)
            response = await self._unary(request, timeout)
            task_ids += response.task_ids
        return task_ids

    async def get_task(self, task_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT) -> Task:
        """Read one task."""
        response = await self._unary(pb.GetTaskRequest(task_id=task_id), timeout)
        return task_from_proto(response.task)

    async def list_tasks(
        self,
        *,
        states: Iterable[TaskState] = (),
        task_type: str = "",
        limit: int = 100,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[Task]:
        """List tasks, the newest first, without inline results."""
        request = pb.ListTasksRequest(states=states_to_proto(states), task_type=task_type)
        return await self._list(request, "tasks", task_from_proto, timeout, limit)

    async def watch_tasks(
        self, task_ids: Sequence[str], *, timeout: timedelta
    ) -> AsyncIterator[WatchedTask]:
        """Yield tasks as they are and as they change, until all have ended.

        Continues at the new leader when the leader changes.

        Raises:
            ClusterError: DEADLINE_EXCEEDED, if they have not all ended within `timeout`.
        """
        waiting = dict.fromkeys(task_ids)
        changed: asyncio.Queue[WatchedTask | Exception | None] = asyncio.Queue(1000)
        seen: set[str] = set()

        async def follow(channel: grpc.aio.Channel, seconds: float) -> None:
            ids = list(waiting)[:WATCHED_TASKS_MAX]
            request = pb.WatchTasksRequest(task_ids=ids)
            call = TaskDispatchServiceStub(channel).WatchTasks(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for response in call:
                for watched in map(watched_task_from_proto, response.tasks):
                    seen.add(watched.task.task_id)
                    if watched.task.state.is_terminal:
                        waiting.pop(watched.task.task_id, None)
                    await changed.put(watched)

        async def follow_all() -> None:
            try:
                while waiting:
                    left = ends - asyncio.get_running_loop().time()
                    await self._connection.following(follow, timeout=max(0.001, left))
                await changed.put(None)
            except ClusterError as error:
                if seen and error.reason is Reason.DEADLINE_EXCEEDED:
                    error = ClusterError(
                        Reason.DEADLINE_EXCEEDED,
                        f"{len(waiting)} tasks have not ended within {timeout}; they continue: "
                        "watch them, or cancel them",
                    )
                await changed.put(error)
            except Exception as error:
                await changed.put(error)  # Else the caller would wait for ever.

        ends = asyncio.get_running_loop().time() + timeout.total_seconds()
        follower = asyncio.create_task(follow_all(), name="watch-tasks")
        try:
            while (item := await changed.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def wait_tasks(self, task_ids: Sequence[str], *, timeout: timedelta) -> dict[str, Task]:
        """Wait until every task has ended; returns them by id."""
        ended: dict[str, Task] = {}
        async for watched in self.watch_tasks(task_ids, timeout=timeout):
            if watched.task.state.is_terminal:
                ended[watched.task.task_id] = watched.task
        return ended

    async def cancel_task(self, task_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT) -> None:
        """Cancel a task."""
        request = pb.CancelTaskRequest(request_id=new_request_id(), task_id=task_id)
        await self._unary(request, timeout)


def task_spec(
    task_type: str,
    payload: bytes | str | dict[str, Any] = b"",
    *,
    inputs: Iterable[tuple[str, str] | tuple[str, str, str]] = (),
    attempt_timeout: timedelta | None = None,
    priority: int = 0,
    namespace: str = DEFAULT_NAMESPACE,
) -> pb.TaskSpec:
    """Build the specification of a task; see `Client.submit_task`.

    Raises:
        ClusterError: INVALID_ARGUMENT, PAYLOAD_TOO_LARGE.
    """
    try:
        return _spec(task_type, payload, inputs, attempt_timeout, priority, namespace)
    except UnicodeEncodeError as error:
        raise ClusterError(
            Reason.INVALID_ARGUMENT,
            f"{error.object[error.start]!a} is half of a surrogate pair, which UTF-8 can't hold; "
            "give bytes as the payload, or text without it",
        ) from error


def _spec(
    task_type: str,
    payload: bytes | str | dict[str, Any],
    inputs: Iterable[tuple[str, str] | tuple[str, str, str]],
    attempt_timeout: timedelta | None,
    priority: int,
    namespace: str,
) -> pb.TaskSpec:
    content_type = ""
    if isinstance(payload, dict):
        payload, content_type = json.dumps(payload).encode(), "application/json"
    elif isinstance(payload, str):
        payload, content_type = payload.encode(), "text/plain; charset=utf-8"
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ClusterError(
            Reason.PAYLOAD_TOO_LARGE,
            f"the payload has {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed; add "
            "larger data as content and name its CID as an input",
        )
    spec = pb.TaskSpec(
        task_type=task_type,
        payload=payload,
        content_type=content_type,
        priority=priority,
        namespace=namespace,
    )
    for name, cid, *rest in inputs:
        spec.inputs.add(name=name, cid=cid, format=rest[0] if rest else "")
    if attempt_timeout is not None:
        spec.attempt_timeout.FromTimedelta(attempt_timeout)
    return spec


def _groups(specs: Sequence[pb.TaskSpec]) -> Iterable[list[pb.TaskSpec]]:
    group: list[pb.TaskSpec] = []
    size = 0
    for spec in specs:
        spec_bytes = spec.ByteSize()
        if group and (len(group) == SUBMISSION_TASKS_MAX or size + spec_bytes > SUBMISSION_BYTES):
            yield group
            group, size = [], 0
        group.append(spec)
        size += spec_bytes
    if group:
        yield group

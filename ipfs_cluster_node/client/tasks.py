"""Submits, reads, awaits and cancels tasks."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import grpc

from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT, Calls
from ipfs_cluster_node.client.connection import new_request_id
from ipfs_cluster_node.client.submitted import TASK_TIMEOUT_DEFAULT, SubmittedTask
from ipfs_cluster_node.client.values import (
    Payload,
    checked_text,
    encoded,
    ids,
    message,
    milliseconds,
    seconds,
    shown,
)
from ipfs_cluster_node.codec.tasks import spec_to_proto, states_to_proto
from ipfs_cluster_node.codec.views import TASK
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field
from ipfs_cluster_node.core.model import (
    ATTEMPT_COUNT_DEFAULT,
    ATTEMPT_COUNT_MAX,
    ATTEMPT_TIMEOUT_MS_DEFAULT,
    DEFAULT_NAMESPACE,
    PRIORITY_MAX,
    SUBMISSION_TASKS_MAX,
    TASK_TIMEOUT_MS_DEFAULT,
    WATCHED_TASKS_MAX,
    TaskInput,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.core.views import ListedTask
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub

SUBMISSION_BYTES: Final = 1024 * 1024


class TaskCalls(Calls):
    """The operations of TaskDispatchService."""

    async def submit_task(
        self,
        task_type: str,
        payload: Payload = b"",
        *,
        inputs: Iterable[tuple[str, str] | tuple[str, str, str]] = (),
        attempt_timeout: timedelta | None = None,
        task_timeout: timedelta | None = None,
        attempt_count_max: int = ATTEMPT_COUNT_DEFAULT,
        priority: int = 0,
        namespace: str = DEFAULT_NAMESPACE,
        keep_result: bool = False,
        request_id: str | None = None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> SubmittedTask:
        """Submit a task; returns its id, which can also be waited for, once it is committed.

        Args:
            task_type: Names the handler.
            payload: At most 1 MiB of bytes, text (sent as UTF-8), or a dict or list (as JSON).
            inputs: Name, CID and, if the bytes don't tell it, the format.
            attempt_timeout: Time limit of one attempt; default 10 minutes.
            task_timeout: Time limit from submission to the end, after which the task fails with
                TASK_TIMED_OUT; default 7 days.
            attempt_count_max: How many attempts may fail before the task fails, 1 to 20. A failure
                that another attempt would not change ends it at once.
            priority: 0 (last) to 9 (first).
            namespace: Its namespace, for permissions; names separated by slashes.
            keep_result: Whether the file of its result stays until it is removed, and not only as
                long as the task; needs the right to keep files there.
            request_id: Makes a repeat by another process safe; default a new one.
            timeout: For all attempts to reach the leader together.

        Raises:
            ClusterError: INVALID_ARGUMENT, PAYLOAD_TOO_LARGE, TASK_TYPE_UNKNOWN, NOT_DELEGATED,
                TOO_MANY_TASKS.
        """
        spec = task_spec(
            task_type,
            payload,
            inputs=inputs,
            attempt_timeout=attempt_timeout,
            task_timeout=task_timeout,
            attempt_count_max=attempt_count_max,
            priority=priority,
            namespace=namespace,
            keep_result=keep_result,
        )
        if spec.inputs:
            spec = replace(spec, inputs=await self._whole_inputs(spec.inputs, timeout))
        request = message(
            pb.SubmitTaskRequest,
            request_id=request_id or new_request_id(),
            spec=_spec_message(spec),
        )
        response = await self._unary(request, timeout)
        return SubmittedTask(response.task_id, self)

    async def _whole_inputs(
        self, inputs: tuple[TaskInput, ...], timeout: timedelta
    ) -> tuple[TaskInput, ...]:
        return tuple(
            [replace(each, cid=await self.lookups.cid(each.cid, timeout)) for each in inputs]
        )

    async def submit_tasks(
        self, specs: Iterable[TaskSpec], *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[SubmittedTask]:
        """Submit many tasks, made by `task_spec`; returns their ids in order.

        Sent in groups, each all or nothing; a failure says nothing about earlier groups.
        """
        tasks: list[SubmittedTask] = []
        for group in _groups(specs):
            request = pb.SubmitTasksRequest(request_id=new_request_id(), specs=group)
            response = await self._unary(request, timeout)
            tasks += (SubmittedTask(task_id, self) for task_id in response.task_ids)
        return tasks

    def task(self, task_id: str) -> SubmittedTask:
        """A task that was submitted before, by its id; no call is made."""
        return SubmittedTask(checked_text(task_id, "task_id"), self)

    async def get_task(self, task_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT) -> ListedTask:
        """Read one task, by its id or the beginning of it.

        With its attempts, its small payload and what it waits for.
        """
        task_id = await self.lookups.task_id(task_id, timeout)
        response = await self._unary(message(pb.GetTaskRequest, task_id=task_id), timeout)
        return TASK.decode(response.task)

    async def list_tasks(
        self,
        *,
        states: Iterable[TaskState] = (),
        task_type: str = "",
        task_id_prefix: str = "",
        namespace_pattern: str = "",
        limit: int = 100,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> list[ListedTask]:
        """List tasks, the newest first, without inline results and output.

        Args:
            states: Only these; none: all.
            task_type: Only this type; empty: all.
            task_id_prefix: Only those whose id begins with this; empty: all.
            namespace_pattern: Only namespaces that match it, `*` being any run of characters:
                `team-a/*`; empty: all.
            limit: The most tasks to return.
            timeout: For each page.

        Raises:
            ClusterError: INVALID_ARGUMENT.
        """
        try:
            wanted = states_to_proto([TaskState(state) for state in states])
        except ValueError as error:
            raise invalid_field(
                "states", f"{error}; give some of {', '.join(TaskState)}"
            ) from error
        request = message(
            pb.ListTasksRequest,
            states=wanted,
            task_type=task_type,
            task_id_prefix=task_id_prefix,
            namespace_pattern=namespace_pattern,
        )
        return await self._list(request, "tasks", TASK.decode, timeout, limit)

    async def watch_tasks(
        self, task_ids: Iterable[str], *, timeout: timedelta = TASK_TIMEOUT_DEFAULT
    ) -> AsyncIterator[ListedTask]:
        """Yield tasks as they are and as they change, until all have ended.

        Continues at the new leader when the leader changes.

        Raises:
            ClusterError: DEADLINE_EXCEEDED, if they have not all ended within `timeout`.
        """
        ends = asyncio.get_running_loop().time() + seconds(timeout)
        waiting = dict.fromkeys(await self.lookups.task_ids(ids(task_ids), timeout))
        changed: asyncio.Queue[ListedTask | Exception | None] = asyncio.Queue(1000)
        seen: set[str] = set()

        async def follow(channel: grpc.aio.Channel, seconds: float) -> None:
            request = pb.WatchTasksRequest(task_ids=list(waiting)[:WATCHED_TASKS_MAX])
            call = TaskDispatchServiceStub(channel).WatchTasks(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for response in call:
                for watched in map(TASK.decode, response.tasks):
                    seen.add(watched.task_id)
                    if watched.status.has_ended:
                        waiting.pop(watched.task_id, None)
                    await changed.put(watched)

        async def follow_all() -> None:
            try:
                while waiting:
                    left = ends - asyncio.get_running_loop().time()
                    await self._connection.following(follow, timeout=max(0.001, left))
                await changed.put(None)
            except ClusterError as error:
                if seen and error.reason is Reason.DEADLINE_EXCEEDED:
                    what = "the task has" if len(waiting) == 1 else f"{len(waiting)} tasks have"
                    error = ClusterError(
                        Reason.DEADLINE_EXCEEDED,
                        f"{what} not ended within {seconds(timeout):g} s and will continue: watch "
                        "or cancel what continues",
                    )
                await changed.put(error)
            except Exception as error:
                await changed.put(error)  # Otherwise the caller would wait for ever.

        follower = asyncio.create_task(follow_all(), name="watch-tasks")
        try:
            while (item := await changed.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def wait_tasks(
        self, task_ids: Iterable[str], *, timeout: timedelta = TASK_TIMEOUT_DEFAULT
    ) -> dict[str, ListedTask]:
        """Wait until every task has ended; returns them by their whole ids."""
        ended: dict[str, ListedTask] = {}
        async for watched in self.watch_tasks(task_ids, timeout=timeout):
            if watched.status.has_ended:
                ended[watched.task_id] = watched
        return ended

    async def cancel_task(self, task_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT) -> None:
        """Cancel a task, by its id or the beginning of it."""
        task_id = await self.lookups.task_id(task_id, timeout)
        request = message(pb.CancelTaskRequest, request_id=new_request_id(), task_id=task_id)
        await self._unary(request, timeout)


def task_spec(
    task_type: str,
    payload: Payload = b"",
    *,
    inputs: Iterable[tuple[str, str] | tuple[str, str, str]] = (),
    attempt_timeout: timedelta | None = None,
    task_timeout: timedelta | None = None,
    attempt_count_max: int = ATTEMPT_COUNT_DEFAULT,
    priority: int = 0,
    namespace: str = DEFAULT_NAMESPACE,
    keep_result: bool = False,
) -> TaskSpec:
    """Build the specification of a task; see `Client.submit_task`.

    Raises:
        ClusterError: INVALID_ARGUMENT, PAYLOAD_TOO_LARGE.
    """
    data, content_type = encoded(payload)
    timeout_ms = ATTEMPT_TIMEOUT_MS_DEFAULT
    if attempt_timeout is not None:
        timeout_ms = _positive(attempt_timeout, "attempt_timeout")
    task_timeout_ms = TASK_TIMEOUT_MS_DEFAULT
    if task_timeout is not None:
        task_timeout_ms = _positive(task_timeout, "task_timeout")
    if type(attempt_count_max) is not int or not 1 <= attempt_count_max <= ATTEMPT_COUNT_MAX:
        raise invalid_field(
            "attempt_count_max", f"it is {shown(attempt_count_max)}; give 1 to {ATTEMPT_COUNT_MAX}"
        )
    if not isinstance(keep_result, bool):
        raise invalid_field("keep_result", f"it is {shown(keep_result)}; give True or False")
    if not isinstance(priority, int) or not 0 <= priority <= PRIORITY_MAX:
        raise invalid_field("priority", f"it is {shown(priority)}; give 0 to {PRIORITY_MAX}")
    return TaskSpec(
        task_type=checked_text(task_type, "task_type"),
        payload=data,
        content_type=content_type,
        inputs=tuple(_input(each) for each in inputs),
        attempt_timeout_ms=timeout_ms,
        task_timeout_ms=task_timeout_ms,
        attempt_count_max=attempt_count_max,
        priority=priority,
        namespace=checked_text(namespace, "namespace"),
        keep_result=keep_result,
    )


def _positive(timeout: timedelta, field: str) -> int:
    """A timeout in milliseconds; 0 would be sent as none, which stands for the default."""
    found = milliseconds(timeout, field)
    if found < 1:
        raise invalid_field(field, f"it is {timeout}; give a longer time")
    return found


def _input(given: Any) -> TaskInput:
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise invalid_field(
            "inputs", f"one is {shown(given)}; each is (name, CID) or (name, CID, format)"
        )
    return TaskInput(*(checked_text(part, "inputs") for part in given))


def _spec_message(spec: Any) -> pb.TaskSpec:
    if not isinstance(spec, TaskSpec):
        raise invalid_field("specs", f"one is {shown(spec)}; make each by `task_spec`")
    try:
        return spec_to_proto(spec)
    except (TypeError, ValueError) as error:
        raise ClusterError(Reason.INVALID_ARGUMENT, f"{spec.task_type}: {error}") from error


def _groups(specs: Iterable[TaskSpec]) -> Iterable[list[pb.TaskSpec]]:
    group: list[pb.TaskSpec] = []
    size = 0
    for spec in specs:
        each = _spec_message(spec)
        spec_bytes = each.ByteSize()
        if group and (len(group) == SUBMISSION_TASKS_MAX or size + spec_bytes > SUBMISSION_BYTES):
            yield group
            group, size = [], 0
        group.append(each)
        size += spec_bytes
    if group:
        yield group

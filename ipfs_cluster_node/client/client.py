"""The client: every public operation, spelled as in the protos, for asyncio."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from ipfs_cluster_node.adapters.net.tls import ClientTls
from ipfs_cluster_node.client import backup
from ipfs_cluster_node.client.access import AccessCalls
from ipfs_cluster_node.client.calls import TIMEOUT_DEFAULT
from ipfs_cluster_node.client.certificates import CertificateCalls, ProfileCertificate
from ipfs_cluster_node.client.connection import Connection, Target, new_request_id
from ipfs_cluster_node.client.content import AddedContent, Progress, upload
from ipfs_cluster_node.client.membership import MembershipCalls
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.tasks import states_to_proto, task_from_proto
from ipfs_cluster_node.config.credentials import read_credentials
from ipfs_cluster_node.config.profiles import (
    Profile,
    ProfileEndpoint,
    chosen_profile,
    load_profile,
    save_profile,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import (
    DEFAULT_NAMESPACE,
    PAYLOAD_BYTES_MAX,
    SUBMISSION_TASKS_MAX,
    WATCHED_TASKS_MAX,
    Task,
    TaskState,
)
from ipfs_cluster_node.services.authorization import BACKUP_SECONDS_MAX
from ipfs_cluster_node.v1 import content_pb2, health_pb2, membership_pb2, state_delta_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub
from ipfs_cluster_node.v1.state_delta_pb2_grpc import StateDeltaServiceStub
from ipfs_cluster_node.v1.task_dispatch_pb2_grpc import TaskDispatchServiceStub

SUBMISSION_BYTES: Final = 1024 * 1024
LEARN_SECONDS_MAX: Final = 5.0
LEARN_INTERVAL_SECONDS: Final = 60.0


class Client(AccessCalls, CertificateCalls, MembershipCalls):
    """One cluster, as one principal.

    Every operation goes to the leader, follows it when it changes, and is repeated safely until it
    succeeds, is refused, or `timeout` is over. Failures are `ClusterError`: branch on `reason`.
    """

    def __init__(
        self,
        connection: Connection,
        on_masters: Callable[[Sequence[Target]], None] = lambda _targets: None,
    ) -> None:
        """Use a connection; `from_profile` makes one.

        Args:
            connection: Knows at least one master; the others are learned with the first answer.
            on_masters: Called with every master known, when they were learned.
        """
        self._connection = connection
        self._on_masters = on_masters
        self._learning: asyncio.Task[None] | None = None
        self._learn_at = 0.0
        self.certificate: ProfileCertificate | None = None
        """Renews itself; None for a client that was given a connection."""

    @classmethod
    def from_profile(cls, name: str | None = None, *, stale: bool = False, ucan: str = "") -> Self:
        """Open the profile that `init`, `join` or `dev` wrote.

        Args:
            name: Default: the environment's, else `default`.
            stale: Whether reads may be answered by any master with what it has, which may be old;
                else they are linearizable.
            ucan: A container of delegations to call by; default: all that the cluster keeps for
                this client.

        Raises:
            ClusterError: CONFIG_INVALID.
        """
        profile = load_profile(name)

        def remember(targets: Sequence[Target]) -> None:
            # Else a profile that names one master is of no use once that one is gone.
            endpoints = tuple(ProfileEndpoint(a, n) for a, n in targets if n is not None)
            if set(endpoints) != set(profile.endpoints):
                save_profile(chosen_profile(name), replace(profile, endpoints=endpoints))

        return cls.from_settings(profile, remember, stale=stale, ucan=ucan)

    @classmethod
    def from_settings(
        cls,
        profile: Profile,
        on_masters: Callable[[Sequence[Target]], None] = lambda _targets: None,
        *,
        stale: bool = False,
        ucan: str = "",
    ) -> Self:
        """Open a profile.

        Raises:
            ClusterError: CONFIG_INVALID, if a file of it can't be read.
        """
        try:
            kept = read_credentials(profile.ca, profile.certificate, profile.key)
            tls = ClientTls(kept.ca_pem, kept.certificate_pem, kept.key_pem)
        except OSError as error:
            raise ClusterError(
                Reason.CONFIG_INVALID,
                f"{error.filename}, which the profile names, can't be read; mend the profile",
            ) from error
        targets = [(e.address, NodeId(e.node_id)) for e in profile.endpoints]
        connection = Connection(targets, tls, stale=stale, ucan=ucan)
        client = cls(connection, on_masters)
        client.certificate = ProfileCertificate(profile, connection, kept)
        return client

    async def __aenter__(self) -> Self:
        if self.certificate is not None:
            await self.certificate.renew_if_expired()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._learning is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEARN_SECONDS_MAX):
                    await asyncio.gather(self._learning, return_exceptions=True)
        if self.certificate is not None:
            await self.certificate.close()
        await self._connection.close()

    # Tasks.

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
            task_type: Which handler.
            payload: At most 1 MiB; a dict travels as JSON.
            inputs: Name, CID and, if it can't be told from the bytes, the format.
            attempt_timeout: Longest one attempt may run; default 10 minutes.
            priority: 0 (last) to 9 (first).
            namespace: To which it belongs, for rights; names separated by slashes.
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
        response = await self._unary(TaskDispatchServiceStub, "SubmitTask", request, timeout)
        return str(response.task_id)

    async def submit_tasks(
        self, specs: Sequence[pb.TaskSpec], *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[str]:
        """Submit many tasks, made by `task_spec`; returns their ids in order.

        Sent in groups, each all or none; a failure says nothing of the groups before it.
        """
        task_ids: list[str] = []
        for group in _groups(specs):
            request = pb.SubmitTasksRequest(request_id=new_request_id(), specs=group)
            response = await self._unary(TaskDispatchServiceStub, "SubmitTasks", request, timeout)
            task_ids += response.task_ids
        return task_ids

    async def get_task(self, task_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT) -> Task:
        """Read one task."""
        request = pb.GetTaskRequest(task_id=task_id)
        response = await self._unary(TaskDispatchServiceStub, "GetTask", request, timeout)
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
        tasks: list[Task] = []
        token = ""
        while len(tasks) < limit:
            request = pb.ListTasksRequest(
                page_size=min(1000, limit - len(tasks)),
                page_token=token,
                states=states_to_proto(states),
                task_type=task_type,
            )
            response = await self._unary(TaskDispatchServiceStub, "ListTasks", request, timeout)
            tasks += map(task_from_proto, response.tasks)
            token = response.next_page_token
            if not token:
                break
        return tasks

    async def watch_tasks(
        self, task_ids: Sequence[str], *, timeout: timedelta
    ) -> AsyncIterator[pb.Task]:
        """Yield tasks as they are and as they change, until each has ended.

        Goes on at the new leader when the leader changes.

        Raises:
            ClusterError: DEADLINE_EXCEEDED, if they have not all ended within `timeout`.
        """
        waiting = dict.fromkeys(task_ids)
        changed: asyncio.Queue[pb.Task | ClusterError | None] = asyncio.Queue(1000)
        seen: set[str] = set()

        async def follow(channel: grpc.aio.Channel, seconds: float) -> None:
            ids = list(waiting)[:WATCHED_TASKS_MAX]
            request = pb.WatchTasksRequest(task_ids=ids)
            call = TaskDispatchServiceStub(channel).WatchTasks(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for response in call:
                for task in response.tasks:
                    seen.add(task.task_id)
                    if _has_ended(task):
                        waiting.pop(task.task_id, None)
                    await changed.put(task)

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
                        f"{len(waiting)} tasks have not ended within {timeout}; they go on: watch "
                        "them, or cancel them",
                    )
                await changed.put(error)

        ends = asyncio.get_running_loop().time() + timeout.total_seconds()
        follower = asyncio.create_task(follow_all(), name="watch-tasks")
        try:
            while (item := await changed.get()) is not None:
                if isinstance(item, ClusterError):
                    raise item
                yield item
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def wait_tasks(self, task_ids: Sequence[str], *, timeout: timedelta) -> dict[str, Task]:
        """Wait until every task has ended; returns them by id."""
        ended: dict[str, Task] = {}
        async for task in self.watch_tasks(task_ids, timeout=timeout):
            if _has_ended(task):
                ended[task.task_id] = task_from_proto(task)
        return ended

    async def cancel_task(self, task_id: str, *, timeout: timedelta = TIMEOUT_DEFAULT) -> None:
        """Cancel a task."""
        request = pb.CancelTaskRequest(request_id=new_request_id(), task_id=task_id)
        await self._unary(TaskDispatchServiceStub, "CancelTask", request, timeout)

    # Content.

    async def add_content(
        self,
        path: Path,
        *,
        on_progress: Progress = lambda _done: None,
        timeout: timedelta = timedelta(hours=1),
    ) -> AddedContent:
        """Add a file; returns once two masters (all, if fewer) hold it durably."""
        return await upload(
            self._connection,
            path,
            name=path.name,
            timeout=timeout.total_seconds(),
            on_progress=on_progress,
        )

    async def stat_content(
        self, cid: str, *, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> content_pb2.Content:
        """Tell a file's size and holders."""
        request = content_pb2.StatContentRequest(cid=cid)
        response = await self._unary(ContentServiceStub, "StatContent", request, timeout)
        return response.content  # type: ignore[no-any-return]

    async def list_content(
        self, *, limit: int = 100, timeout: timedelta = TIMEOUT_DEFAULT
    ) -> list[content_pb2.Content]:
        """List the files, ordered by CID."""
        contents: list[content_pb2.Content] = []
        token = ""
        while len(contents) < limit:
            request = content_pb2.ListContentRequest(
                page_size=min(1000, limit - len(contents)), page_token=token
            )
            response = await self._unary(ContentServiceStub, "ListContent", request, timeout)
            contents += response.contents
            token = response.next_page_token
            if not token:
                break
        return contents

    async def get_content(
        self, cid: str, *, timeout: timedelta = timedelta(hours=1)
    ) -> AsyncIterator[bytes]:
        """Yield a file's bytes in order. Taken up again where a connection breaks."""
        done = 0
        ends = asyncio.get_running_loop().time() + timeout.total_seconds()
        pieces: asyncio.Queue[bytes | ClusterError | None] = asyncio.Queue(8)

        async def receive(channel: grpc.aio.Channel, seconds: float) -> None:
            nonlocal done
            request = content_pb2.GetContentRequest(cid=cid, offset_bytes=done)
            call = ContentServiceStub(channel).GetContent(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for response in call:
                done += len(response.data)
                await pieces.put(response.data)

        async def receive_all() -> None:
            try:
                left = ends - asyncio.get_running_loop().time()
                await self._connection.following(receive, timeout=left)
                await pieces.put(None)
            except ClusterError as error:
                await pieces.put(error)

        receiver = asyncio.create_task(receive_all(), name="get-content")
        try:
            while (item := await pieces.get()) is not None:
                if isinstance(item, ClusterError):
                    raise item
                yield item
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)

    # A node, and the state as a whole.

    async def get_health(
        self, address: str, node_id: str, *, timeout: timedelta = timedelta(seconds=5)
    ) -> health_pb2.GetHealthResponse:
        """Ask one node how it is."""
        channel = self._connection.channel((address, NodeId(node_id)))
        try:
            return await HealthServiceStub(channel).GetHealth(
                health_pb2.GetHealthRequest(), timeout=timeout.total_seconds()
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error

    async def get_snapshot(self, table: str, *, timeout: timedelta = timedelta(minutes=5)) -> Any:
        """Fetch a table of the state, `nodes`, `tasks` or `content`, as a `pyarrow.Table`."""
        from ipfs_cluster_node.codec.tables import SnapshotReader  # Heavy.

        number = state_delta_pb2.StateTable.Value(f"STATE_TABLE_{table.upper()}")

        async def receive(channel: grpc.aio.Channel, seconds: float) -> Any:
            reader = SnapshotReader()
            request = state_delta_pb2.GetSnapshotRequest(table=number)
            call = StateDeltaServiceStub(channel).GetSnapshot(
                request, timeout=seconds, metadata=self._connection.metadata
            )
            async for frame in call:
                reader.feed(frame)
            return reader.table()

        return await self._connection.following(receive, timeout=timeout.total_seconds())

    async def create_backup(
        self,
        path: Path,
        *,
        on_progress: backup.Progress = lambda _size_bytes: None,
        timeout: timedelta = TIMEOUT_DEFAULT,
    ) -> backup.Backup:
        """Write the whole state into a file, which is replaced once all of it is there and checked.

        Args:
            path: Where; its directory exists.
            on_progress: Called with the bytes that have come.
            timeout: Within which a failure leads to another attempt; what runs may take longer.
        """

        async def receive(channel: grpc.aio.Channel, _seconds: float) -> backup.Backup:
            call = MembershipServiceStub(channel).CreateBackup(
                membership_pb2.CreateBackupRequest(),
                timeout=BACKUP_SECONDS_MAX,
                metadata=self._connection.metadata,
            )
            try:
                return await backup.receive(
                    (response.data async for response in call), path, on_progress
                )
            finally:
                call.cancel()

        return await self._connection.following(receive, timeout=timeout.total_seconds())

    async def _unary(self, stub: Any, method: str, request: Any, timeout: timedelta) -> Any:
        answer = await self._connection.unary(
            lambda channel: getattr(stub(channel), method), request, timeout=timeout.total_seconds()
        )
        if self.certificate is not None:
            self.certificate.keep()
        now = asyncio.get_running_loop().time()
        if now >= self._learn_at and (self._learning is None or self._learning.done()):
            self._learn_at = now + LEARN_INTERVAL_SECONDS
            self._learning = asyncio.create_task(self._learn(), name="learn-masters")
        return answer

    async def _learn(self) -> None:
        """Learn of every master, so that the loss of the one that was asked is no loss.

        And of a rotation of the root, which waits for this client.
        """
        limit = timedelta(seconds=LEARN_SECONDS_MAX)
        try:
            status = await self.get_cluster_status(timeout=limit)
            if self.certificate is not None:
                self.certificate.keep(epoch=status.certificate_epoch)
            nodes = await self.list_nodes(timeout=limit)
        except ClusterError as error:
            if error.reason is not Reason.NOT_DELEGATED:  # That stays so.
                self._learn_at = 0.0  # With the next answer, then.
            return
        targets = [
            (address, NodeId(node.node_id))
            for node in nodes
            if node.role == membership_pb2.NODE_ROLE_MASTER
            for address in node.endpoints
        ]
        self._connection.add(targets)
        self._on_masters(targets)


def task_spec(
    task_type: str,
    payload: bytes | str | dict[str, Any] = b"",
    *,
    inputs: Iterable[tuple[str, str] | tuple[str, str, str]] = (),
    attempt_timeout: timedelta | None = None,
    priority: int = 0,
    namespace: str = DEFAULT_NAMESPACE,
) -> pb.TaskSpec:
    """Say what a task is to do; see `Client.submit_task`."""
    content_type = ""
    if isinstance(payload, dict):
        payload, content_type = json.dumps(payload).encode(), "application/json"
    elif isinstance(payload, str):
        payload, content_type = payload.encode(), "text/plain; charset=utf-8"
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ClusterError(
            Reason.PAYLOAD_TOO_LARGE,
            f"the payload has {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX} are carried; add "
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


def _has_ended(task: pb.Task) -> bool:
    return task.state not in (pb.TASK_STATE_PENDING, pb.TASK_STATE_RUNNING)


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

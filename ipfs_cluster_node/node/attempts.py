"""Runs one attempt on a worker: its inputs, its handler, its result."""

import asyncio
import errno
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import BinaryIO, Final

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.content.blockstore import FULL
from ipfs_cluster_node.adapters.content.fetch import BlockSource, fetch
from ipfs_cluster_node.adapters.content.files import create, materialize
from ipfs_cluster_node.adapters.worker.pool import (
    Attempt,
    AttemptFailed,
    AttemptSucceeded,
    HandlerPool,
    Lease,
)
from ipfs_cluster_node.client.content import upload
from ipfs_cluster_node.cluster.content.contents import ChannelTo, Contents, PeerBlocks
from ipfs_cluster_node.codec.enums import FILE_FORMAT
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY
from ipfs_cluster_node.codec.tasks import attempt_text, outcome_from_proto, outcome_to_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason, Trait
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import (
    MESSAGE_CHARS_MAX,
    RESULT_INLINE_BYTES_MAX,
    AttemptId,
    AttemptOutcome,
    TaskFailure,
    TaskResult,
)
from ipfs_cluster_node.core.multiformats import Cid, parse_cid
from ipfs_cluster_node.node.uplink import Uplink
from ipfs_cluster_node.tasks import TaskInputFile
from ipfs_cluster_node.v1 import content_pb2
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub
from ipfs_cluster_node.worker.v1 import worker_pb2

log = logging.getLogger(__name__)

STAT_SECONDS_MAX: Final = 10.0
UPLOAD_SECONDS_MAX: Final = 300.0


class AttemptRunner:
    """Runs attempts, each in its own scratch directory."""

    def __init__(
        self,
        *,
        uplink: Uplink,
        pool: HandlerPool,
        contents: Contents,
        channel_to: ChannelTo,
        has_room: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Take what an attempt needs; `has_room` says whether the own disk has room for tasks."""
        self._uplink = uplink
        self._clock = clock
        self._pool = pool
        self._contents = contents
        self._channel_to = channel_to
        self._has_room = has_room

    async def run(self, attempt: AttemptId, spec: pb.TaskSpec) -> AttemptOutcome:
        """Run an attempt to an outcome that can be sent. Cancelling kills its handler first."""
        try:
            async with self._pool.lease(spec.task_type) as lease:
                return sendable(await self._attempt(attempt, spec, lease))
        except ClusterError as error:
            again = not error.reason.has(Trait.FINAL)
            return failed(attempt, error.reason, error.message, retryable=again)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                return self._without_room(attempt, error)
            # Without an outcome the attempt would stay assigned for ever.
            log.exception("attempt failed in the worker", extra={"task_id": attempt.task_id})
            return failed(attempt, Reason.INTERNAL, f"the worker failed: {error}", retryable=True)

    def _without_room(self, attempt: AttemptId, error: OSError) -> AttemptOutcome:
        """The outcome of an attempt that lacked disk space; its scratch directory is gone by now.

        If the disk is full without the attempt too, another worker may have room, and the task is
        not to blame. If there is room again, the task needs more than this disk has: uncounted, it
        would go from worker to worker for ever.
        """
        log.warning("no room for an attempt", extra={"task_id": attempt.task_id, "why": str(error)})
        if not self._has_room():
            return handed_back(attempt, "its worker's disk is full")
        return failed(
            attempt,
            Reason.STORAGE_FULL,
            f"the worker's disk has no room for it: {error.strerror}",
            retryable=True,
        )

    async def _attempt(self, attempt: AttemptId, spec: pb.TaskSpec, lease: Lease) -> AttemptOutcome:
        timeout = spec.attempt_timeout.ToTimedelta()
        ends = self._clock.monotonic() + timeout.total_seconds()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                inputs = await self._inputs(attempt, spec, lease)
        except ClusterError as error:
            if error.reason is not Reason.STORAGE_FULL:
                raise
            # The store needs room on this disk; a node that only sends blocks needs none.
            raise OSError(errno.ENOSPC, error.message) from error
        except TimeoutError:
            return failed(
                attempt,
                Reason.ATTEMPT_TIMED_OUT,
                f"the inputs were not here within {timeout.total_seconds():g} s; give it more time",
                retryable=False,
            )
        result = await lease.run(
            Attempt(
                task_id=attempt.task_id,
                attempt=attempt.attempt,
                task_type=spec.task_type,
                payload=spec.payload,
                content_type=spec.content_type,
                timeout=timedelta(seconds=max(0.001, ends - self._clock.monotonic())),
                inputs=inputs,
            )
        )
        if isinstance(result, AttemptFailed):
            return failed(
                attempt,
                result.reason,
                result.message,
                retryable=result.retryable,
                output_tail=result.output_tail,
            )
        return await self._succeeded(attempt, result, lease.directory)

    async def _inputs(
        self, attempt: AttemptId, spec: pb.TaskSpec, lease: Lease
    ) -> dict[str, TaskInputFile]:
        inputs: dict[str, TaskInputFile] = {}
        for position, named in enumerate(spec.inputs):
            name, cid, file_format = (
                named.name,
                parse_cid(named.cid),
                FILE_FORMAT.by.decode(named.format),
            )
            await self._fetch(cid, attempt)
            file = f"input-{position}"
            store, directory = self._contents.store, lease.directory
            try:
                await materialize(cid, store, file, directory=directory)
            except ClusterError as error:
                if error.reason is not Reason.CONTENT_NOT_FOUND:
                    raise
                # A block here was damaged; others may be too.
                await self._fetch(cid, attempt, check=True)
                await materialize(cid, store, file, directory=directory)
            path = lease.scratch / file
            inputs[name] = TaskInputFile(path=path, cid=str(cid), format=file_format)
        return inputs

    async def _fetch(self, cid: Cid, attempt: AttemptId, *, check: bool = False) -> None:
        sources = await self._uplink.connection.following(
            lambda channel, seconds: self._sources(channel, cid, attempt, seconds),
            timeout=STAT_SECONDS_MAX,
        )
        await fetch(cid, store=self._contents.store, sources=sources, check=check)

    async def _sources(
        self, channel: grpc.aio.Channel, cid: Cid, attempt: AttemptId, seconds: float
    ) -> list[BlockSource]:
        """The masters, the file's holders first: no other node knows the attempt's permissions."""
        by_attempt = ((ATTEMPT_KEY, attempt_text(attempt)),)
        holders: list[NodeId] = []
        try:
            response = await ContentServiceStub(channel).StatContent(
                content_pb2.StatContentRequest(cid=str(cid)),
                timeout=min(seconds, 5.0),
                metadata=by_attempt,
            )
            holders = [NodeId(h.node_id) for h in response.content.holders if h.endpoints]
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
            if error.reason is not Reason.CONTENT_NOT_FOUND:
                raise error from rpc_error
        masters = dict.fromkeys(n for _, n in self._uplink.connection.targets if n is not None)
        sources: list[BlockSource] = []
        for node_id in sorted(masters, key=lambda node_id: node_id not in holders):
            peer = self._channel_to(node_id)
            if peer is not None:
                sources.append(
                    PeerBlocks(node_id, peer, clock=self._clock, root=cid, metadata=by_attempt)
                )
        return sources

    async def _succeeded(
        self, attempt: AttemptId, result: AttemptSucceeded, directory: int
    ) -> AttemptOutcome:
        data, file = result.data, result.file
        with ExitStack() as opened:
            if file is None and len(data) > RESULT_INLINE_BYTES_MAX:
                file = opened.enter_context(nameless_file(directory))
                await asyncio.to_thread(file.write, data)
                data = b""
            cid, size = "", len(data)
            if file is not None:
                # The attempt may end for the cluster only when its bytes are safe.
                added = await upload(
                    self._uplink.connection,
                    file,
                    name="",
                    timeout=UPLOAD_SECONDS_MAX,
                    metadata=((ATTEMPT_KEY, attempt_text(attempt)),),
                )
                cid, size = added.cid, added.size_bytes
        return AttemptOutcome(
            id=attempt,
            result=TaskResult(
                data=data, content_type=result.content_type, cid=cid, size_bytes=size
            ),
        )


def nameless_file(directory: int) -> BinaryIO:
    """Create a file in an open directory, and unlink its name."""
    name = secrets.token_hex(16)
    descriptor = create(name, directory, os.O_RDWR)
    os.unlink(name, dir_fd=directory)
    return os.fdopen(descriptor, "w+b")


def sendable(outcome: AttemptOutcome) -> AttemptOutcome:
    """Check that an outcome can be sent and will be accepted, else make it a failure.

    One that the leader refuses for good would be sent to it again and again.
    """
    try:
        message = outcome_to_proto(outcome)
        outcome_from_proto(worker_pb2.AttemptOutcome.FromString(message.SerializeToString()))
    except (ClusterError, ValueError, TypeError) as error:
        return failed(
            outcome.id,
            Reason.TASK_RESULT_INVALID,
            f"the outcome can't be sent: {error}",
            retryable=False,
        )
    return outcome


def handed_back(attempt: AttemptId, why: str = "its worker gave it back") -> AttemptOutcome:
    """The outcome of an attempt that its worker returns: it is not counted as a failure."""
    return AttemptOutcome(
        id=attempt,
        failure=TaskFailure(Reason.WORKER_LOST, why),
        retryable=True,
        handed_back=True,
    )


def failed(
    attempt: AttemptId,
    reason: Reason,
    message: str,
    *,
    retryable: bool,
    output_tail: str = "",
) -> AttemptOutcome:
    """Make the outcome of a failed attempt; its text can be sent whatever it was made from."""
    text = message.encode("utf-8", "replace").decode()[:MESSAGE_CHARS_MAX]
    failure = TaskFailure(reason, text, output_tail)
    return AttemptOutcome(id=attempt, failure=failure, retryable=retryable)

"""Files by CID: stored here, copied to another master, named in the log, read from holders."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Final

import grpc

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.fetch import BlockSource, fetch
from ipfs_cluster_node.adapters.content.files import add, is_complete, read, walk
from ipfs_cluster_node.adapters.content.index import FileIndex
from ipfs_cluster_node.client.connection import send_all
from ipfs_cluster_node.cluster.consensus import Consensus
from ipfs_cluster_node.cluster.content.block_repairs import Repairs
from ipfs_cluster_node.cluster.content.collector import Collector
from ipfs_cluster_node.cluster.content.passing_on import pass_on
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.commands import AddContent, KeepContent, RemoveContent
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.held_blocks import NAMED_SECONDS_MAX, Hold
from ipfs_cluster_node.core.ids import NO_TASK, Did, NodeId, TaskId
from ipfs_cluster_node.core.model import DEFAULT_NAMESPACE, Content, Liveness
from ipfs_cluster_node.core.multiformats import Cid, parse_cid, parse_cid_binary
from ipfs_cluster_node.core.storage import Candidate, holders_in_order
from ipfs_cluster_node.core.unixfs import Block
from ipfs_cluster_node.core.views import RemovedContent
from ipfs_cluster_node.internal.v1 import blocks_pb2
from ipfs_cluster_node.internal.v1.blocks_pb2_grpc import BlockServiceStub
from ipfs_cluster_node.v1 import content_pb2 as pb
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub

log = logging.getLogger(__name__)

HOLDERS_MIN: Final = 2
"""Masters that must hold bytes before they are acknowledged; all, if there are fewer."""
COPY_SECONDS_MAX: Final = 3600.0
"""For one file to one master; keepalive notices a stalled one long before."""
BLOCKS_SECONDS_MAX: Final = 60.0
"""For one request of at most 64 blocks."""
RETRY_AFTER: Final = timedelta(seconds=1)
ATTEMPT_HEARD_SECONDS_MAX: Final = 2.0
"""Until every follower has heard of an attempt."""
ATTEMPT_PAUSE_SECONDS: Final = 0.05

ChannelTo = Callable[[NodeId], grpc.aio.Channel | None]
"""The channel for bulk traffic to a node; None while no address of it is known."""


class PeerBlocks:
    """Blocks of another node, over ContentService."""

    def __init__(
        self,
        node_id: NodeId,
        channel: grpc.aio.Channel,
        *,
        clock: Clock,
        root: Cid | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Call this node. A worker gives the file that it reads, `root`, and names its attempt."""
        self.name = str(node_id)
        self._clock = clock
        self._channel = channel
        self._root = b"" if root is None else root.binary
        self._metadata = metadata

    async def blocks(self, cids: Sequence[Cid]) -> AsyncIterator[tuple[Cid, bytes]]:
        """Yield blocks in the order asked for.

        Raises:
            ClusterError: CONTENT_NOT_FOUND, UNREACHABLE, DEADLINE_EXCEEDED, STALE_ATTEMPT.
        """
        request = pb.GetBlocksRequest(cids=[cid.binary for cid in cids], root=self._root)
        patience = self._clock.monotonic() + ATTEMPT_HEARD_SECONDS_MAX
        while True:
            call = ContentServiceStub(self._channel).GetBlocks(
                request, timeout=BLOCKS_SECONDS_MAX, metadata=self._metadata
            )
            try:
                async for response in call:
                    yield parse_cid_binary(response.cid), response.data
                return
            except grpc.aio.AioRpcError as rpc_error:
                error = error_from_rpc(rpc_error)
                # A follower hears of an attempt slightly later than its worker.
                if error.reason is not Reason.STALE_ATTEMPT or self._clock.monotonic() > patience:
                    raise error from rpc_error
            except ValueError as error:
                raise ClusterError(
                    Reason.BLOCK_MISMATCH, "the node sent a block without a name"
                ) from error
            finally:
                call.cancel()
            await asyncio.sleep(ATTEMPT_PAUSE_SECONDS)


class Contents:
    """The files stored here, and the log's record of their holders."""

    def __init__(
        self,
        *,
        consensus: Consensus,
        store: BlockStore,
        channel_to: ChannelTo,
        clock: Clock,
        room_of: Callable[[NodeId], int | None] = lambda _node: None,
    ) -> None:
        """Serve a store; `room_of` a node is the room it last reported, None if it has not."""
        self._clock = clock
        self._room_of = room_of
        self._consensus = consensus
        self.store = store
        self._channel_to = channel_to
        self._index = FileIndex(store)
        self._fetching: dict[Cid, asyncio.Task[None]] = {}
        self._repairs = Repairs(store, self._sources, clock=clock)
        self.collector = Collector(
            consensus=consensus,
            store=store,
            repair=self._repairs.begin,
            clock=clock,
        )

    async def add_content(
        self,
        chunks: AsyncIterator[bytes],
        *,
        name: str,
        size_bytes: int | None,
        caller: Did,
        namespace: str = DEFAULT_NAMESPACE,
        goes_with: TaskId = NO_TASK,
    ) -> Content:
        """Store a file here and on another master, and commit that they hold it.

        Without room here it is passed on to two others. It may be the result of a task,
        `goes_with`, and is then deleted with it, and in its namespace.
        """
        self._consensus.check_leads()
        task = self._consensus.state().tasks.get(goes_with) if goes_with else None
        taken_at: list[float] = []
        """When each of the others ended its copy, where the file is passed on."""
        with self.store.hold() as hold:
            others = self._instead_of_here(size_bytes)
            if others:
                channels = [c for c in map(self._channel_to, others) if c is not None]
                added = await pass_on(
                    chunks,
                    channels,
                    seconds_max=COPY_SECONDS_MAX,
                    on_taken=lambda: taken_at.append(self._clock.boottime()),
                )
            else:
                added = await add(chunks, self.store, hold)
            if size_bytes is not None and added.size_bytes != size_bytes:
                raise ClusterError(
                    Reason.INVALID_ARGUMENT,
                    f"{added.size_bytes} bytes came, {size_bytes} were announced; send it again",
                )
            holders = others or await self._copy_to_masters(added.cid)
            body = AddContent(
                cid=str(added.cid),
                size_bytes=added.size_bytes,
                holders=holders,
                name=name,
                goes_with=goes_with,
                namespace=namespace if task is None else task.spec.namespace,
            )
            copied_at = min(taken_at, default=self._clock.boottime())
            await self._name(body, caller, hold, copied_at=copied_at)
        state = self._consensus.state()
        content = state.contents.get(body.cid)
        if content is None:
            raise ClusterError(
                Reason.CONTENT_NOT_FOUND, f"{body.cid} was removed as it was added; add it again"
            )
        return replace(content, holders=state.contents.holders_of(content))

    async def _name(self, body: AddContent, caller: Did, hold: Hold, *, copied_at: float) -> None:
        """Commit that a file has holders, soon after the first has it: it keeps it for a while.

        Raises:
            ClusterError: HOLDERS_MISSING, if it is too late for that; nothing is proposed then.
        """
        left = NAMED_SECONDS_MAX - (self._clock.boottime() - copied_at)
        if left <= 0:
            raise ClusterError(
                Reason.HOLDERS_MISSING,
                "one master took the file long after the other, which may not keep it any longer; "
                "send it again",
                retry_after=RETRY_AFTER,
            )
        try:
            async with asyncio.timeout(left):
                await self._consensus.propose(body, caller=caller)
        except BaseException as error:
            hold.lingers_from = self._clock.boottime()  # It may be committed yet.
            if isinstance(error, TimeoutError):
                raise ClusterError(
                    Reason.UNKNOWN_OUTCOME, "the log took too long to name the file; add it again"
                ) from error
            raise

    def _instead_of_here(self, size_bytes: int | None) -> tuple[NodeId, ...]:
        """The nodes that store a file for which there is no room here; empty if there is.

        Raises:
            ClusterError: STORAGE_FULL, before most of the file has come: too few others are known
                to have room.
        """
        wanted = max(1, size_bytes or 0)
        try:
            self.store.require(wanted)
        except ClusterError:
            members = self._consensus.state().members
            others = [
                node_id
                for node_id in self._others_in_order(secrets.token_hex(8))
                if (self._room_of(node_id) or 0) >= wanted
                and self._channel_to(node_id) is not None
                and getattr(members.node(node_id), "liveness", None) is Liveness.ALIVE
            ]
            if len(others) < HOLDERS_MIN:
                raise
            return tuple(others[:HOLDERS_MIN])
        return ()

    async def _copy_to_masters(self, root: Cid) -> tuple[NodeId, ...]:
        others = self._others_in_order(str(root))
        wanted = min(HOLDERS_MIN, 1 + len(others))
        holders = [self._consensus.node_id]
        failures: dict[NodeId, ClusterError] = {}
        for node_id in others:
            if len(holders) >= wanted:
                break
            try:
                await self._copy_to(node_id, root)
                holders.append(node_id)
            except ClusterError as error:
                log.warning("no copy there", extra={"node": node_id, "error": error.message})
                failures[node_id] = error
        if len(holders) < wanted:
            raise _holders_missing(wanted, len(holders), failures)
        return tuple(holders)

    def _others_in_order(self, key: str) -> list[NodeId]:
        """The other masters, in the order in which they are asked to hold a file."""
        members = self._consensus.state().members
        others = sorted(self._consensus.voters - {self._consensus.node_id})
        return holders_in_order(
            key,
            [
                Candidate(
                    node_id,
                    alive=getattr(members.node(node_id), "liveness", None) is Liveness.ALIVE,
                    free_bytes=self._room_of(node_id),
                )
                for node_id in others
            ],
        )

    async def _copy_to(self, node_id: NodeId, root: Cid) -> None:
        channel = self._channel_to(node_id)
        if channel is None:
            raise ClusterError(Reason.UNREACHABLE, "none of its addresses is known")

        async def requests() -> AsyncIterator[blocks_pb2.PutBlocksRequest]:
            async for cid in walk(root, self.store):
                data = await asyncio.to_thread(self.store.get, cid)
                if data is None:
                    raise ClusterError(
                        Reason.CONTENT_NOT_FOUND, f"block {cid} is lost here; send the file again"
                    )
                yield blocks_pb2.PutBlocksRequest(cid=cid.binary, data=data)

        call = BlockServiceStub(channel).PutBlocks(timeout=COPY_SECONDS_MAX)
        await send_all(call, requests())

    async def get_content(
        self, cid: str, *, offset: int, length: int | None
    ) -> AsyncIterator[bytes]:
        """Read a file, fetching what is missing here from its holders first.

        A block that proves damaged meanwhile is fetched from another holder, and repaired.
        """
        root = parse_cid(cid)
        try:
            await self.ensure_local(root)
        except ClusterError as error:
            if error.reason is not Reason.STORAGE_FULL:
                raise  # With a full disk, it is read block by block from its holders.
        async with aclosing(
            read(  # type: ignore[type-var]
                root,
                self.store,
                offset=offset,
                length=length,
                elsewhere=lambda block: self._repairs.block(root, block),
            )
        ) as pieces:
            async for data in pieces:
                yield data

    async def ensure_local(self, root: Cid) -> None:
        """Fetch every block of a file. Callers that want the same file share the fetch."""
        if await asyncio.to_thread(is_complete, root, self.store):
            return
        task = self._fetching.get(root)
        if task is None:
            task = asyncio.create_task(self._fetch(root), name=f"fetch-{root}")
            self._fetching[root] = task
            task.add_done_callback(lambda _task: self._fetching.pop(root, None))
        await asyncio.shield(task)

    async def _fetch(self, root: Cid) -> None:
        content = self._consensus.state().contents.get(str(root))
        held = content is not None and self._consensus.node_id in content.holders
        await fetch(
            root,
            store=self.store,
            sources=self._sources(root),
            on_missing=self.store.note_lost if held else None,
        )

    def _sources(self, root: Cid) -> list[BlockSource]:
        state = self._consensus.state()
        content = state.contents.get(str(root))
        named = list(state.contents.holders_of(content)) if content is not None else []
        # Content that the log does not name may still exist: the masters are asked too.
        asked = dict.fromkeys([*named, *(m.node_id for m in state.members.masters())])
        sources: list[BlockSource] = []
        for node_id in asked:
            channel = None if node_id == self._consensus.node_id else self._channel_to(node_id)
            if channel is not None:
                sources.append(PeerBlocks(node_id, channel, clock=self._clock))
        return sources

    async def remove_content(
        self,
        cid: str,
        *,
        caller: Did,
        request_id: str,
        namespace: str = "",
        among: tuple[str, ...] = (),
    ) -> RemovedContent:
        """Commit that a file is removed, and delete its blocks here as far as that can be now.

        It is removed from `namespace`, or without one from those `among` its namespaces.
        """
        self._consensus.check_leads()
        body = RemoveContent(cid=cid, namespace=namespace, among=among)
        with self.collector.awaited(cid) as freed:
            size_bytes, *holders = await self._consensus.propose(
                body, caller=caller, request_id=request_id
            )
            freed_bytes = await freed() if holders else 0
        members = self._consensus.state().members
        others = [NodeId(each) for each in holders if each != self._consensus.node_id]
        nodes = {node_id: members.node(node_id) for node_id in others}
        return RemovedContent(
            size_bytes=int(size_bytes),
            freed_bytes=freed_bytes,
            soon_node_ids=tuple(others),
            later_node_ids=tuple(
                node_id
                for node_id, node in nodes.items()
                if node is not None and node.liveness is not Liveness.ALIVE
            ),
        )

    async def keep_content(
        self,
        cid: str,
        *,
        caller: Did,
        request_id: str,
        namespace: str = "",
        among: tuple[str, ...] = (),
    ) -> None:
        """Commit that a task's result is kept: in `namespace`, or those `among` its namespaces."""
        self._consensus.check_leads()
        body = KeepContent(cid=cid, namespace=namespace, among=among)
        await self._consensus.propose(body, caller=caller, request_id=request_id)

    def stat_content(self, cid: str) -> Content:
        """What the log knows of a file."""
        content = self._consensus.read_state().contents.get(cid)
        if content is None:
            raise ClusterError(
                Reason.CONTENT_NOT_FOUND,
                f"the cluster names no file {cid}: it was removed, or never added; `content ls` "
                "lists the files",
            )
        return content

    async def get_blocks(
        self, cids: Sequence[bytes], *, root: bytes
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Read blocks stored here; with a root, only those of that file.

        For a file's reader, a damaged one is fetched from another master. Masters, which name no
        file, get only what is here: otherwise each would ask the others in turn.
        """
        wanted = [_cid_of(binary) for binary in cids]
        file = _cid_of(root) if root else None
        if file is not None and not await self._are_of(file, wanted):
            raise ClusterError(
                Reason.CONTENT_NOT_FOUND,
                f"not all of these are blocks of {file}, as far as this node has it",
            )
        lacking: list[Cid] = []
        for binary, cid in zip(cids, wanted, strict=True):
            data = await asyncio.to_thread(self.store.get, cid)
            if data is None and self.store.is_damaged(cid):
                if file is not None:
                    data = await self._repairs.block(file, cid)
                else:
                    self._repairs.begin(cid)
            if data is None:
                lacking.append(cid)  # The others may still be here.
            else:
                yield binary, data
        if lacking:
            raise ClusterError(
                Reason.CONTENT_NOT_FOUND,
                f"{lacking[0]} is not stored on this node, {len(lacking)} of {len(wanted)} are not;"
                " ask another",
            )

    async def _are_of(self, file: Cid, wanted: Sequence[Cid]) -> bool:
        if await asyncio.to_thread(self._index.holds, file, wanted):
            return True
        if self.store.damaged_count == 0:
            return False
        # The damaged block may be one that names others.
        try:
            await self.ensure_local(file)
        except ClusterError:
            return False
        return await asyncio.to_thread(self._index.holds, file, wanted)

    async def put_blocks(self, blocks: AsyncIterator[tuple[bytes, bytes]]) -> int:
        """Store blocks here; returns once they are durable."""
        count = 0
        async with self.store.batching() as batch:
            async for binary, data in blocks:
                cid = _cid_of(binary)
                if not cid.matches(data):
                    raise ClusterError(
                        Reason.BLOCK_MISMATCH, f"the bytes sent are not those of {cid}; send again"
                    )
                await asyncio.to_thread(batch.put, Block(cid, data))
                count += 1
            await asyncio.to_thread(batch.flush)
            # Its sender has the log name the file.
            batch.hold.lingers_from = self._clock.boottime()
        return count


def _holders_missing(
    wanted: int, had: int, failures: Mapping[NodeId, ClusterError]
) -> ClusterError:
    """The error when too few masters took the bytes: if all others are full, no retry helps."""
    said = "; ".join(f"{node_id}: {error.message}" for node_id, error in failures.items())
    message = f"only {had} of {wanted} masters could take the bytes ({said})"
    if all(error.reason is Reason.STORAGE_FULL for error in failures.values()):
        return ClusterError(Reason.STORAGE_FULL, f"{message}; free some space, and send it again")
    return ClusterError(
        Reason.HOLDERS_MISSING, f"{message}; start the others", retry_after=RETRY_AFTER
    )


def _cid_of(binary: bytes) -> Cid:
    try:
        return parse_cid_binary(binary)
    except ValueError as error:
        raise ClusterError(Reason.MALFORMED_CID, f"a CID is malformed: {error}") from error

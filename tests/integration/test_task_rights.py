"""A worker gets what its attempts may have, whatever its certificate."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.multiformats import parse_cid
from ipfs_cluster_node.core.views import ListedTask
from ipfs_cluster_node.v1 import content_pb2 as pb
from ipfs_cluster_node.v1 import state_delta_pb2
from ipfs_cluster_node.v1.content_pb2_grpc import ContentServiceStub
from ipfs_cluster_node.v1.state_delta_pb2_grpc import StateDeltaServiceStub
from tests.support.certificates import node_credentials, tls_of
from tests.support.nodes import until

SQL = "SELECT count(*) FROM input, range(1000000000) a, range(1000000000) b"
LEAF = 256 * 1024
WAIT = timedelta(seconds=30)
Metadata = tuple[tuple[str, str], ...]


class Thief:
    """Whoever has a worker's key, and calls a node with it."""

    def __init__(self, worker: LocalNode, at: LocalNode) -> None:
        self.worker = worker
        self.channel = open_channel(
            at.address, tls=tls_of(node_credentials(worker)), node_id=NodeId(at.node_id)
        )
        self.content = ContentServiceStub(self.channel)

    async def stat(self, cid: str, metadata: Metadata = ()) -> Any:
        return await self.content.StatContent(
            pb.StatContentRequest(cid=cid), metadata=metadata, timeout=10
        )

    async def read(self, cid: str, metadata: Metadata = ()) -> int:
        call = self.content.GetContent(pb.GetContentRequest(cid=cid), metadata=metadata, timeout=10)
        return sum([len(piece.data) async for piece in call])

    async def blocks(self, root: str, *cids: str, metadata: Metadata = ()) -> int:
        request = pb.GetBlocksRequest(
            root=parse_cid(root).binary if root else b"",
            cids=[parse_cid(cid).binary for cid in cids],
        )
        call = self.content.GetBlocks(request, metadata=metadata, timeout=10)
        return sum([len(block.data) async for block in call])

    async def add(self, metadata: Metadata = ()) -> Any:
        async def messages() -> AsyncIterator[pb.AddContentRequest]:
            yield pb.AddContentRequest(header=pb.AddContentHeader(request_id="thief", size_bytes=1))
            yield pb.AddContentRequest(data=b"x")

        call = self.content.AddContent(messages(), metadata=metadata, timeout=10)
        kept = KeptAnswer(call)
        try:
            return await call
        except grpc.aio.AioRpcError as raised:
            raise await kept.error(raised) from raised

    async def tables(self) -> None:
        request = state_delta_pb2.GetSnapshotRequest(table=state_delta_pb2.STATE_TABLE_TASKS)
        async for _ in StateDeltaServiceStub(self.channel).GetSnapshot(request, timeout=10):
            pass


async def refused(call: Any) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value).reason


@pytest_asyncio.fixture
async def running(client: Client, tmp_path: Path) -> AsyncIterator[ListedTask]:
    """A task with a file of three blocks, until the test is over."""
    path = tmp_path / "input.csv"
    path.write_bytes(b"a\n" + b"1\n" * LEAF)
    added = await client.add_content(path, timeout=WAIT)
    task_id = await client.submit_task(
        "data_processing", {"sql": SQL}, inputs=[("input", added.cid)]
    )

    async def runs() -> bool:
        return (await client.get_task(task_id)).status.state is TaskState.RUNNING

    await until(runs, seconds=20, what="the task runs")
    yield await client.get_task(task_id)
    try:
        await client.cancel_task(task_id)
    except ClusterError as error:
        assert error.reason is Reason.TASK_FINISHED


def leaves_of(root: str, cluster: LocalCluster) -> list[str]:
    """The blocks of one file that some master has, but its root."""
    for node in cluster.nodes:
        found = [path.name for path in (node.home.path / "content").glob("??/bafkrei*")]
        if node.role == "master" and found:
            return found
    raise AssertionError(f"no master has a block of {root}")


@pytest.mark.asyncio
async def test_a_worker_has_the_files_of_its_attempts_and_no_others(
    cluster: LocalCluster, client: Client, running: ListedTask, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"of somebody else")
    other = (await client.add_content(secret, timeout=WAIT)).cid
    [named] = running.spec.inputs
    leader = await cluster.leader(client)
    mine = next(node for node in cluster.nodes if node.node_id == running.status.node_id)
    idle = next(n for n in cluster.nodes if n.role == "worker" and n.node_id != mine.node_id)
    by_attempt = ((ATTEMPT_KEY, f"{running.task_id}.{running.status.attempt}"),)
    thief, colleague = Thief(mine, leader), Thief(idle, leader)
    # By its certificate alone it gets nothing.
    for cid in (named.cid, other):
        for call in (
            thief.stat(cid),
            thief.read(cid),
            thief.blocks(cid, cid),
            thief.blocks("", cid),
        ):
            assert await refused(call) is Reason.NOT_DELEGATED
    assert await refused(thief.add()) is Reason.NOT_DELEGATED
    assert await refused(thief.tables()) is Reason.CALLER_NOT_ALLOWED
    # By its attempt it gets the attempt's input, and the blocks of that.
    assert (await thief.stat(named.cid, by_attempt)).content.cid == named.cid
    assert await thief.read(named.cid, by_attempt) == 2 + 2 * LEAF
    assert await thief.blocks(named.cid, named.cid, metadata=by_attempt) > 0
    assert (await thief.add(by_attempt)).size_bytes == 1
    # But no other file, nor another file's block under its own's name.
    for call in (
        thief.stat(other, by_attempt),
        thief.read(other, by_attempt),
        thief.blocks(other, other, metadata=by_attempt),
        thief.blocks("", other, metadata=by_attempt),
    ):
        assert await refused(call) is Reason.NOT_DELEGATED
    foreign = thief.blocks(named.cid, other, metadata=by_attempt)
    assert await refused(foreign) is Reason.CONTENT_NOT_FOUND
    own = [leaf for leaf in leaves_of(named.cid, cluster) if leaf != other]
    sizes = []
    for leaf in own:
        try:
            sizes.append(await thief.blocks(named.cid, leaf, metadata=by_attempt))
        except grpc.aio.AioRpcError as error:
            assert error_from_rpc(error).reason is Reason.CONTENT_NOT_FOUND  # Of another test's.
    assert sum(sizes) == 2 + 2 * LEAF
    # Nor does another worker by it, nor this one by an attempt that is over or to come.
    assert await refused(colleague.read(named.cid, by_attempt)) is Reason.STALE_ATTEMPT
    wrong: Metadata
    for number in (running.status.attempt - 1, running.status.attempt + 1):
        wrong = ((ATTEMPT_KEY, f"{running.task_id}.{number}"),)
        assert await refused(thief.read(named.cid, wrong)) is Reason.STALE_ATTEMPT
    for wrong in ((ATTEMPT_KEY, "nonsense"),), ((ATTEMPT_KEY, "a.1"), (ATTEMPT_KEY, "a.2")):
        assert await refused(thief.read(named.cid, wrong)) is Reason.INVALID_ARGUMENT
    # Once it is cancelled nothing is left.
    await client.cancel_task(running.task_id)
    assert await refused(thief.read(named.cid, by_attempt)) is Reason.STALE_ATTEMPT
    for each in (thief, colleague):
        await each.channel.close()


@pytest.mark.asyncio
async def test_a_worker_gives_its_files_to_masters_only(
    cluster: LocalCluster, client: Client, running: ListedTask
) -> None:
    [named] = running.spec.inputs
    holder = next(node for node in cluster.nodes if node.node_id == running.status.node_id)
    other = next(n for n in cluster.nodes if n.role == "worker" and n.node_id != holder.node_id)
    thief = Thief(other, holder)
    for call in (thief.blocks(named.cid, named.cid), thief.read(named.cid)):
        assert await refused(call) is Reason.CALLER_NOT_ALLOWED
    master = Thief(await cluster.leader(client), holder)

    async def has_it() -> bool:
        return await master.blocks(named.cid, named.cid) > 0

    await until(has_it, seconds=10, what="the attempt's worker has its input")
    for each in (thief, master):
        await each.channel.close()

"""Masters whose disk is full of files: others hold them, and the log goes on."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from tests.support.clusters import cluster_of
from tests.support.disks import fill_up, free_bytes, small_disk
from tests.support.nodes import check_of, health_of, until

SMALL_BYTES = 64 * 2**20
RESERVE_BYTES = SMALL_BYTES // 20
FILE_BYTES = 300_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The disk of the second of three masters, each of which has a small one."""
    with ExitStack() as stack:
        disks = [
            stack.enter_context(small_disk(tmp_path / "cluster" / f"master-{n}", f"{SMALL_BYTES}"))
            for n in (1, 2, 3)
        ]
        yield disks[1]


@pytest_asyncio.fixture
async def cluster(small: Path, tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with cluster_of(3, 0, root=tmp_path / "cluster") as cluster:
        yield cluster


async def add(client: Client, path: Path, n: int) -> tuple[str, ...]:
    path.write_bytes(n.to_bytes(4, "big") * (FILE_BYTES // 4))
    return (await client.add_content(path, timeout=timedelta(seconds=10))).holders


async def let_lead(client: Client, cluster: LocalCluster, node: LocalNode) -> None:
    async def leads() -> bool:
        if not (await health_of(cluster, node)).raft.is_leader:
            await client.transfer_leadership(node.node_id)
        return (await health_of(cluster, node)).raft.is_leader

    await until(leads, seconds=15, what="it leads")


@pytest.mark.asyncio
async def test_a_master_without_room_is_passed_over_and_its_log_goes_on(
    cluster: LocalCluster, small: Path, tmp_path: Path
) -> None:
    first, full, third = cluster.nodes
    async with cluster.client() as client:
        await let_lead(client, cluster, first)
        seen = {await add(client, tmp_path / "file", n) for n in range(12)}
        assert {holders[1] for holders in seen} == {full.node_id, third.node_id}
        filler = fill_up(small, leave_bytes=RESERVE_BYTES - 2**20)
        # At once, while the leader believes yet that there is room; and once it has heard.
        for n in range(20, 32):
            assert await add(client, tmp_path / "file", n) == (first.node_id, third.node_id)
        disk = await check_of(cluster, full, "disk")
        assert disk.degraded
        assert "no files are stored here" in disk.detail
        assert (await check_of(cluster, full, "log")).ok
        assert free_bytes(small) > RESERVE_BYTES - 2 * 2**20
        filler.unlink()

        async def holds_again() -> bool:
            return full.node_id in await add(client, tmp_path / "file", next(numbers))

        numbers = iter(range(100, 1000))
        await until(holds_again, seconds=15, what="it is chosen again")


@pytest.mark.asyncio
async def test_a_leader_without_room_passes_files_on_to_two_others(
    cluster: LocalCluster, small: Path, tmp_path: Path
) -> None:
    first, full, third = cluster.nodes
    async with cluster.client() as client:
        await let_lead(client, cluster, full)
        await add(client, tmp_path / "file", 0)
        fill_up(small, leave_bytes=RESERVE_BYTES - 2**20)
        free = free_bytes(small)
        large = tmp_path / "large"
        large.write_bytes(random.Random(1).randbytes(5 * 2**20 + 13))

        async def taken() -> bool:  # Once the leader has heard what room the others have.
            return bool(await client.add_content(large, timeout=timedelta(seconds=10)))

        await until(taken, seconds=15, what="it is taken")
        added = await client.add_content(large)
        assert set(added.holders) == {first.node_id, third.node_id}
        assert free - free_bytes(small) < 2**20  # The log's, and no file's.
        for node in cluster.nodes:
            async with cluster.client(node) as reader:
                pieces = [piece async for piece in reader.get_content(added.cid)]
                assert b"".join(pieces) == large.read_bytes()
    # Each of the two has all of it.
    for node in (first, third):
        size = sum(path.stat().st_size for path in node.home.content.glob("??/b*"))
        assert size > 5 * 2**20


@pytest.mark.asyncio
async def test_a_full_disk_is_told_where_it_leaves_too_few_masters(
    cluster: LocalCluster, small: Path, tmp_path: Path
) -> None:
    first, full, third = cluster.nodes
    async with cluster.client() as client:
        await let_lead(client, cluster, first)
        await cluster.kill(third)
        fill_up(small, leave_bytes=RESERVE_BYTES - 2**20)
        with pytest.raises(ClusterError) as caught:
            await add(client, tmp_path / "file", 1)
        assert caught.value.reason is Reason.HOLDERS_MISSING
        assert full.node_id in caught.value.message
        assert "kept for its log" in caught.value.message

"""Blocks that are damaged at rest: every read is right, and the copies are whole again."""

import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.multiformats import RAW, cid_of, parse_cid
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of, until

FILES = 8
FILE_BYTES = 5 * 2**18 + 77
"""Five whole leaves, a short one, and a node above them."""
READS = 40


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def put_a_directory_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_a_fifo_there(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_a_file_larger_than_memory_there(path: Path) -> None:
    os.truncate(path, 1 << 40)


WAYS: tuple[Callable[[Path], None], ...] = (
    flip,
    cut,
    empty,
    lengthen,
    Path.unlink,
    put_a_directory_there,
    put_a_fifo_there,
    put_a_file_larger_than_memory_there,
)


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with cluster_of(3, 1, root=tmp_path / "cluster") as cluster:
        yield cluster


async def add_files(client: Client, directory: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for n in range(FILES):
        path = directory / f"file-{n}"
        data = random.Random(n).randbytes(FILE_BYTES)
        path.write_bytes(data)
        files[(await client.add_content(path)).cid] = data
    return files


def blocks_at(node: LocalNode) -> list[Path]:
    return sorted(path for path in node.home.content.glob("??/b*") if path.suffix == "")


async def read(cluster: LocalCluster, node: LocalNode, cid: str) -> bytes:
    async with cluster.client(node) as client:
        return b"".join([piece async for piece in client.get_content(cid)])


@pytest.mark.asyncio
async def test_each_of_forty_reads_is_right_though_every_holder_has_damaged_blocks(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async with cluster.client() as client:
        files = await add_files(client, tmp_path)
    masters = cluster.nodes[:3]
    holders: dict[str, list[LocalNode]] = {}
    for node in masters:
        for path in blocks_at(node):
            holders.setdefault(path.name, []).append(node)
    # Each block is damaged at one of its two holders, in one of the ways.
    rng, damaged = random.Random(1), dict[str, LocalNode]()
    for n, (name, two) in enumerate(sorted(holders.items())):
        assert len(two) == 2
        node = rng.choice(two)
        damaged[node.node_id] = node
        WAYS[n % len(WAYS)](node.home.content / name[-3:-1] / name)
    assert len(damaged) > 1
    right = 0
    for n in range(READS):
        cid = list(files)[n % FILES]
        right += await read(cluster, masters[n % 3], cid) == files[cid]
    assert right == READS

    async def repaired() -> bool:
        for node in damaged.values():
            for cid, data in files.items():
                assert await read(cluster, node, cid) == data
            check = await check_of(cluster, node, "content")
            assert not check.degraded, check.detail
            assert "were fetched again" in check.detail
        return True

    await until(repaired, seconds=15, what="every copy is whole again")
    for node in damaged.values():
        for path in blocks_at(node):
            assert parse_cid(path.name).matches(path.read_bytes())


@pytest.mark.asyncio
async def test_a_worker_has_right_inputs_though_every_holder_has_damaged_blocks(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("n\n" + "".join(f"{n}\n" for n in range(200_000)))
    async with cluster.client() as client:
        added = await client.add_content(path)
        holders = [node for node in cluster.nodes if node.node_id in added.holders]
        for n, block in enumerate(blocks_at(holders[0])):
            WAYS[n % len(WAYS)](holders[n % 2].home.content / block.parent.name / block.name)
        task_id = await client.submit_task(
            "data_processing",
            {"sql": "SELECT sum(n)::BIGINT AS s FROM input"},
            inputs=[("input", added.cid)],
        )
        ended = await client.wait_tasks([task_id], timeout=timedelta(seconds=30))
    assert ended[task_id].status.state is TaskState.SUCCEEDED, ended


@pytest.mark.asyncio
async def test_what_no_master_has_whole_is_refused_and_told_and_never_served(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    async with cluster.client() as client:
        files = await add_files(client, tmp_path)
        cid, data = next(iter(files.items()))
        holders = {h.node_id for h in (await client.stat_content(cid)).holders}
    leaf = str(cid_of(RAW, data[2**18 : 2 * 2**18]))
    two = [node for node in cluster.nodes if node.node_id in holders]
    for node in two:
        flip(node.home.content / leaf[-3:-1] / leaf)
    for node in cluster.nodes[:3]:
        with pytest.raises(ClusterError) as caught:
            await read(cluster, node, cid)
        assert caught.value.reason is Reason.CONTENT_NOT_FOUND
    for node in two:
        check = await check_of(cluster, node, "content")
        assert check.degraded
        assert check.detail.startswith("1 blocks")
    # The file is added again: that is the repair.
    path = tmp_path / "again"
    path.write_bytes(data)
    async with cluster.client() as client:
        await client.add_content(path)
    assert hashlib.sha256(await read(cluster, two[0], cid)).digest() == (
        hashlib.sha256(data).digest()
    )

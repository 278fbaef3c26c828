"""Sockets that connect and say nothing take no descriptor from the log and from files."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.net.tls import CONNECTIONS_SHARE, ENROLMENT_CONNECTIONS_SHARE
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of

DESCRIPTORS = 512
SOCKETS = 2000
OVER_SECONDS_MAX = 5.0


class WithFewDescriptors(LocalCluster):
    def make_node(self, name: str) -> LocalNode:
        node = super().make_node(name)
        node.prefix = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
        return node


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with cluster_of(1, 0, root=tmp_path / "cluster", make=WithFewDescriptors) as cluster:
        yield cluster


@contextmanager
def idle_sockets(*ports: int) -> Iterator[list[socket.socket]]:
    """Connect again and again, to each port in turn; say nothing."""
    opened: list[socket.socket] = []
    try:
        for n in range(SOCKETS):
            each = socket.socket()
            opened.append(each)
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", ports[n % len(ports)]))
        yield opened
    finally:
        for each in opened:
            each.close()


def descriptors_of(node: LocalNode) -> int:
    assert node.process is not None
    return sum(1 for _ in Path(f"/proc/{node.process.pid}/fd").iterdir())


async def write(client: Client, path: Path, n: int) -> None:
    path.write_bytes(random.Random(n).randbytes(300_000))
    added = await client.add_content(path)
    read = b"".join([piece async for piece in client.get_content(added.cid)])
    assert read == path.read_bytes()


@pytest.mark.asyncio
async def test_files_and_the_log_are_written_while_two_thousand_idle_sockets_wait(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    [node] = cluster.nodes
    before = descriptors_of(node)
    async with cluster.client() as client:
        await write(client, tmp_path / "file", 0)
        with idle_sockets(node.port, node.enrolment_port):
            most = 0
            for n in range(1, 20):
                await write(client, tmp_path / "file", n)
                most = max(most, descriptors_of(node))
                await asyncio.sleep(0.1)
            assert most > before + 50, "the sockets came"
            assert most < DESCRIPTORS * (CONNECTIONS_SHARE + ENROLMENT_CONNECTIONS_SHARE) + before
    assert (await check_of(cluster, node, "log")).ok

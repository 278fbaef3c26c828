"""One real cluster of processes for the tests of a module."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    root = Path(tempfile.mkdtemp(prefix="cluster-"))
    local = LocalCluster(root)
    with asyncio.Runner() as runner:
        try:
            runner.run(local.start(masters=3, workers=2))
            yield local
        finally:
            runner.run(local.stop())
            shutil.rmtree(root, ignore_errors=True)


@pytest_asyncio.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with cluster.client() as opened:
        yield opened

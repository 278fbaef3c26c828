"""One real cluster of processes for the tests of a module."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster, command
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.profiles import PROFILES_VARIABLE, save_profile
from tests.support.clusters import cluster_of, for_module
from tests.support.environment import environment_with
from tests.support.lab import PASSPHRASE, Lab
from tests.support.people import Person, join, strip


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with for_module(cluster_of(3, 2)) as local:
        yield local


@pytest_asyncio.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with cluster.client() as opened:
        yield opened


@pytest.fixture
def cli(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    profiles = tmp_path / "profiles.toml"
    monkeypatch.setenv(PROFILES_VARIABLE, str(profiles))
    save_profile("default", cluster.profile)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=environment_with(profiles),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest_asyncio.fixture
async def cluster_did(client: Client) -> str:
    return (await client.get_caller()).cluster_did


@pytest.fixture
def operator(cluster: LocalCluster) -> Identity:
    return Identity.load(cluster.profile.certificate.parent / "identity.key")


@pytest_asyncio.fixture
async def nobody(cluster: LocalCluster, tmp_path: Path) -> AsyncIterator[Person]:
    """A member without any permission."""
    person = await join(cluster, tmp_path, "reader")
    await strip(cluster, person)
    yield person


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    async with cluster_of(0, 0, make=partial(Lab, recovery_passphrase=PASSPHRASE)) as cluster:
        assert isinstance(cluster, Lab)
        yield cluster

"""Masters put back to old copies where nobody can lead: what health advises brings the newest back."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.raft.witness import NOTE_SECONDS
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from ipfs_cluster_node.client.client import Client
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of, health_of, settings_of, until

SAID_SECONDS_MAX = 60.0


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with cluster_of(0, 0, root=tmp_path / "cluster") as local:
        yield local


def recover_alone(node: LocalNode, *arguments: str) -> "subprocess.CompletedProcess[str]":
    home = ("--home", str(node.home.path))
    return subprocess.run(
        command("recover", "alone", "--yes", "--json", *home, *arguments),
        input="",
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def write(client: Client, value: int) -> None:
    await client.propose_config({"user.k": str(value)}, timeout=timedelta(seconds=20))


def put_back(node: LocalNode, copy: Path, what: str) -> None:
    shutil.rmtree(node.home.path / what)
    shutil.copytree(copy / what, node.home.path / what)


async def until_told(cluster: LocalCluster, node: LocalNode) -> str:
    async def is_told() -> bool:
        check = await check_of(cluster, node, "log")
        return not check.ok and "old copy" in check.detail

    await until(is_told, seconds=SAID_SECONDS_MAX, what=f"{node.name} says that it is an old copy")
    return (await check_of(cluster, node, "log")).detail


async def goes_on_alone(
    cluster: LocalCluster, node: LocalNode, value: int, *arguments: str
) -> None:
    if node.runs:
        await cluster.kill(node)
    done = recover_alone(node, *arguments)
    assert done.returncode == 0, done.stderr
    removed = {each.node_id for each in cluster.nodes} - {node.node_id}
    assert set(json.loads(done.stdout)["removed_node_ids"]) == removed
    await cluster.start_node(node)
    async with cluster.client(node) as client:
        await write(client, value + 1)
    assert (await settings_of(cluster, node))["user.k"] == str(value + 1)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_of_two_masters_the_one_that_knows_better_goes_on_alone(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    await cluster.start(masters=2, workers=0)
    async with cluster.client() as client:
        left = await cluster.leader(client)
        back = next(node for node in cluster.nodes if node is not left)
        await write(client, 1)
        await cluster.kill(back)
        shutil.copytree(back.home.path, tmp_path / "copy")
        await cluster.start_node(back)
        await write(client, 2)
        await cluster.kill(back)
        put_back(back, tmp_path / "copy", ".")

        async def leads_no_longer() -> bool:
            return not (await health_of(cluster, left)).raft.is_leader

        # A leader may bring an old copy up to date before it claims anything: then it is none.
        await until(leads_no_longer, seconds=20, what=f"{left.name} leads no longer")
        await cluster.start_node(back)
        said = await until_told(cluster, back)
        assert "as with two masters" in said
        assert "recover" in said
        # The other one is not told to be lost itself: it says that nobody leads, and the way out.
        leader = await check_of(cluster, left, "leader")
        assert not leader.ok
        assert "half or more" in leader.detail
        assert "recover alone" in leader.detail
    await goes_on_alone(cluster, left, 2)
    assert (await settings_of(cluster, left))["user.k"] == "3"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["raft", "."])
async def test_where_all_masters_are_old_copies_the_newest_goes_on_alone(
    cluster: LocalCluster, tmp_path: Path, what: str
) -> None:
    """With `raft` alone the notes are ahead of every log; with whole homes they are of its time."""
    await cluster.start(masters=3, workers=0)
    async with cluster.client() as client:
        for number, node in enumerate(cluster.nodes):
            await write(client, number)
            await asyncio.sleep(5 * NOTE_SECONDS)  # It has noted what the one before has.
            await cluster.kill(node)
            shutil.copytree(node.home.path, tmp_path / f"copy-{number}")
            await cluster.start_node(node)
        newest = cluster.nodes[-1]
        await write(client, 9)
        await asyncio.sleep(5 * NOTE_SECONDS)  # All have noted that they have it.
    for number, node in enumerate(cluster.nodes):
        await cluster.kill(node)
        put_back(node, tmp_path / f"copy-{number}", what)
    for node in cluster.nodes:
        await cluster.start_node(node)
    told = cluster.nodes if what == "raft" else cluster.nodes[:1]
    for node in told:
        assert "ipfs-cluster-node recover --help" in await until_told(cluster, node)
    if what == "raft":
        await cluster.kill(newest)
        refused = recover_alone(newest)
        assert refused.returncode == 1
        assert "--old-copy" in refused.stderr
    await goes_on_alone(cluster, newest, 2, *(["--old-copy"] if what == "raft" else []))

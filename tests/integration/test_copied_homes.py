"""A copied home directory beside the running one: the copy is refused, and says why."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.net.tls import DEAD_CONNECTION_SECONDS_MAX
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from ipfs_cluster_node.cli.node_commands import READY_MARK
from ipfs_cluster_node.core.errors import ClusterError
from tests.support.clusters import cluster_of
from tests.support.nodes import settings_of, until


def make_copy(cluster: LocalCluster, node: LocalNode) -> LocalNode:
    """On other ports, as on another machine."""
    copy = cluster.make_node(f"copy-of-{node.name}")
    copy.node_id = node.node_id
    shutil.copytree(node.home.path, copy.home.path)
    config = copy.home.config.read_text()
    for port, instead in ((node.port, copy.port), (node.enrolment_port, copy.enrolment_port)):
        config = config.replace(f":{port}", f":{instead}")
    copy.home.config.write_text(config)
    return copy


async def serve(copy: LocalNode) -> None:
    copy.process = await asyncio.create_subprocess_exec(
        *command("serve", "--home", str(copy.home.path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(copy: LocalNode) -> str:
    """How the copy says why it ended."""
    assert copy.process is not None
    async with asyncio.timeout(60):
        ready, said = await copy.process.communicate()
    assert copy.process.returncode == 1, said.decode()
    return ready.decode() + said.decode()


@asynccontextmanager
async def cluster_and_copies(
    masters: int, workers: int, root: Path
) -> AsyncIterator[tuple[LocalCluster, list[LocalNode]]]:
    """A cluster, and copies of its nodes that end before it; what was stopped goes on."""
    copies: list[LocalNode] = []
    async with cluster_of(masters, workers, root=root) as cluster:
        first = [process for node in cluster.nodes if (process := node.process)]
        try:
            yield cluster, copies
        finally:
            for process in first:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
            for copy in copies:
                if copy.runs and copy.process is not None:
                    copy.process.kill()
                    await copy.process.communicate()


async def acknowledged_by(cluster: LocalCluster, copy: LocalNode) -> list[str]:
    """Write to the copy for as long as it runs."""
    acknowledged: list[str] = []
    async with cluster.client(copy) as client:
        for number in range(10_000):
            with suppress(ClusterError):
                value = f"copy-{number}"
                await client.propose_config({"user.k": value}, timeout=timedelta(seconds=1))
                acknowledged.append(value)
            if copy.process is None or copy.process.returncode is not None:
                break
    return acknowledged


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_copies_of_a_worker_and_of_masters_end_and_the_cluster_goes_on(
    tmp_path: Path,
) -> None:
    async with cluster_and_copies(3, 1, tmp_path / "cluster") as (cluster, copies):
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            follower = next(n for n in cluster.nodes if n.role == "master" and n is not leader)
            term = (await client.get_cluster_status()).term
            copies += [make_copy(cluster, n) for n in (cluster.nodes[-1], leader, follower)]
            for copy in copies:
                await serve(copy)
            for number in range(30):
                task_id = await client.submit_task("echo", b"%d" % number)
                await client.wait_tasks([task_id], timeout=timedelta(seconds=10))
                await client.propose_config({"user.k": str(number)})
            for copy in copies:
                said = await ended(copy)
                assert "MEMBER_RUNS_TWICE" in said or "runs already" in said
            status = await client.get_cluster_status()
            assert (status.leader_node_id, status.term) == (leader.node_id, term)
        for node in cluster.nodes[:3]:
            assert (await settings_of(cluster, node))["user.k"] == "29"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_a_node_started_again_takes_its_place_though_no_end_of_its_first_process_was_heard(
    tmp_path: Path,
) -> None:
    """As after a power cut: its connections stay open, and nobody answers on them."""
    async with cluster_and_copies(3, 1, tmp_path / "cluster") as (cluster, again):
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            follower = next(n for n in cluster.nodes if n.role == "master" and n is not leader)
            for node in (follower, cluster.nodes[-1]):
                assert node.process is not None
                os.kill(node.process.pid, signal.SIGSTOP)
                again.append(make_copy(cluster, node))
                await serve(again[-1])

            async def is_back() -> bool:
                advertised = {node.node_id: node for node in await client.list_nodes()}
                return all(
                    not any(str(old.port) in each for each in advertised[old.node_id].endpoints)
                    for old in (follower, cluster.nodes[-1])
                )

            await until(is_back, seconds=2 * DEAD_CONNECTION_SECONDS_MAX, what="both registered")
            task_id = await client.submit_task("echo", b"1")
            await client.wait_tasks([task_id], timeout=timedelta(seconds=10))
        assert [copy.runs for copy in again] == [True, True]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_a_copy_of_the_only_master_acknowledges_nothing_and_ends(tmp_path: Path) -> None:
    """It elected itself, and what it acknowledged for half a minute existed nowhere else."""
    async with cluster_and_copies(1, 0, tmp_path / "cluster") as (cluster, copies):
        [master] = cluster.nodes
        copies.append(copy := make_copy(cluster, master))
        async with cluster.client(master) as client:
            for number in range(2):  # Again, by what the first one may have written down.
                await serve(copy)
                writing = asyncio.ensure_future(acknowledged_by(cluster, copy))
                said = await ended(copy)
                assert await writing == []
                assert f"{master.node_id} runs already at {master.address}" in said
                assert "stop one of the two" in said
                assert f'"{READY_MARK}"' not in said
                await client.propose_config({"user.k": f"first-{number}"})
        assert (await settings_of(cluster, master))["user.k"] == "first-1"
        assert master.runs
        # Where it was moved to, and runs no longer where it was, it leads.
        await cluster.kill(master)
        await serve(copy)
        async with cluster.client(copy) as client:
            await client.propose_config({"user.k": "moved"}, timeout=timedelta(seconds=20))
        # The first one does not know where that is: the copy finds it, and ends.
        await cluster.start_node(master)
        assert f"runs already at {master.address}" in await ended(copy)
        async with cluster.client(master) as client:
            await client.propose_config({"user.k": "first"}, timeout=timedelta(seconds=20))
        assert master.runs


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_a_copy_of_the_only_master_ends_once_the_stopped_first_one_goes_on(
    tmp_path: Path,
) -> None:
    """Nothing answered where it asked: it led, and was never refused later."""
    async with cluster_and_copies(1, 0, tmp_path / "cluster") as (cluster, copies):
        [master] = cluster.nodes
        assert master.process is not None
        copies.append(copy := make_copy(cluster, master))
        os.kill(master.process.pid, signal.SIGSTOP)
        await serve(copy)
        async with cluster.client(copy) as client:
            await client.propose_config({"user.k": "copy"}, timeout=timedelta(seconds=20))
        os.kill(master.process.pid, signal.SIGCONT)
        assert f"runs already at {master.address}" in await ended(copy)
        async with cluster.client(master) as client:
            await client.propose_config({"user.k": "first"}, timeout=timedelta(seconds=20))
        assert master.runs

"""A copied home directory beside the one that runs: the copy is refused, and says why."""

import asyncio
import os
import shutil
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from ipfs_cluster_node.adapters.net.tls import DEAD_CONNECTION_SECONDS_MAX
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from tests.support.nodes import settings_of, until


async def start_copy(cluster: LocalCluster, node: LocalNode) -> asyncio.subprocess.Process:
    copy = cluster.make_node(f"copy-of-{node.name}")
    shutil.copytree(node.home.path, copy.home.path)
    config = copy.home.config.read_text()
    for port, instead in ((node.port, copy.port), (node.enrolment_port, copy.enrolment_port)):
        config = config.replace(f":{port}", f":{instead}")
    copy.home.config.write_text(config)
    return await asyncio.create_subprocess_exec(
        *command("serve", "--home", str(copy.home.path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_copies_of_a_worker_and_of_masters_end_and_the_cluster_goes_on(
    tmp_path: Path,
) -> None:
    cluster = LocalCluster(tmp_path / "cluster")
    await cluster.start(masters=3, workers=1)
    copies: list[asyncio.subprocess.Process] = []
    try:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            follower = next(n for n in cluster.nodes if n.role == "master" and n is not leader)
            term = (await client.get_cluster_status()).term
            copies = [await start_copy(cluster, n) for n in (cluster.nodes[-1], leader, follower)]
            for number in range(30):
                task_id = await client.submit_task("echo", b"%d" % number)
                await client.wait_tasks([task_id], timeout=timedelta(seconds=10))
                await client.propose_config({"user.k": str(number)})
            for copy in copies:
                async with asyncio.timeout(60):
                    _, said = await copy.communicate()
                assert copy.returncode == 1, said.decode()
                assert b"MEMBER_RUNS_TWICE" in said or b"runs already" in said
            status = await client.get_cluster_status()
            assert (status.leader_node_id, status.term) == (leader.node_id, term)
        for node in cluster.nodes[:3]:
            assert (await settings_of(cluster, node))["user.k"] == "29"
    finally:
        for copy in copies:
            if copy.returncode is None:
                copy.kill()
        await cluster.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_a_node_started_again_takes_its_place_though_no_end_of_its_first_process_was_heard(
    tmp_path: Path,
) -> None:
    """As after a power cut: its connections stay open, and nobody answers on them."""
    cluster = LocalCluster(tmp_path / "cluster")
    await cluster.start(masters=3, workers=1)
    again: list[asyncio.subprocess.Process] = []
    first: list[asyncio.subprocess.Process] = []
    try:
        async with cluster.client() as client:
            leader = await cluster.leader(client)
            follower = next(n for n in cluster.nodes if n.role == "master" and n is not leader)
            for node in (follower, cluster.nodes[-1]):
                assert node.process is not None
                os.kill(node.process.pid, signal.SIGSTOP)
                first.append(node.process)
                again.append(await start_copy(cluster, node))

            async def is_back() -> bool:
                advertised = {node.node_id: node for node in await client.list_nodes()}
                return all(
                    not any(str(old.port) in each for each in advertised[old.node_id].endpoints)
                    for old in (follower, cluster.nodes[-1])
                )

            await until(is_back, seconds=2 * DEAD_CONNECTION_SECONDS_MAX, what="both registered")
            task_id = await client.submit_task("echo", b"1")
            await client.wait_tasks([task_id], timeout=timedelta(seconds=10))
        assert [process.returncode for process in again] == [None, None]
    finally:
        for process in again:
            if process.returncode is None:
                process.kill()
        for process in first:
            os.kill(process.pid, signal.SIGCONT)
        await cluster.stop()

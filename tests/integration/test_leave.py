"""`leave`, on real processes: its answer is true, and a removed node ends by itself."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode, command
from ipfs_cluster_node.config.profiles import save_profile
from ipfs_cluster_node.core.errors import Exit
from ipfs_cluster_node.core.model import Liveness
from tests.support.clusters import cluster_of
from tests.support.nodes import until

END_SECONDS_MAX = 40.0


async def leave(node: LocalNode, *more: str) -> tuple[int, Any]:
    """Its exit status, and what it printed."""
    arguments = ("leave", "--home", str(node.home.path), "--yes", "--json", *more)
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out or err)


async def ended(node: LocalNode) -> int:
    assert node.process is not None
    async with asyncio.timeout(END_SECONDS_MAX):
        return await node.process.wait()


async def names(cluster: LocalCluster) -> set[str]:
    async with cluster.client() as client:
        return {node.name for node in await client.list_nodes()}


@pytest.mark.asyncio
async def test_worker_and_leader_leave_and_the_last_masters_stay() -> None:
    async with cluster_of(2, 1) as cluster, cluster.client() as client:
        *_, worker = cluster.nodes
        status, said = await leave(worker)
        assert (status, said.get("left")) == (Exit.DONE, True), said
        assert await ended(worker) == Exit.REMOVED
        assert await names(cluster) == {"master-1", "master-2"}
        status, said = await leave(worker)  # Once more does nothing.
        assert (status, said.get("left")) == (Exit.DONE, True), said
        with pytest.raises(Exception, match="left its cluster"):
            await cluster.start_node(worker)
        assert await ended(worker) == Exit.REMOVED

        leader = await cluster.leader(client)
        other = next(node for node in cluster.nodes[:2] if node is not leader)
        status, said = await leave(leader)
        assert (status, said.get("left")) == (Exit.DONE, True), said
        assert await ended(leader) == Exit.REMOVED
        async with cluster.client(other) as asking:
            assert [node.name for node in await asking.list_nodes()] == [other.name]

        status, said = await leave(other)
        assert (status, said["error"]["reason"]) == (Exit.FAILED, "QUORUM_AT_RISK"), said
        assert other.runs
        async with cluster.client(other) as asking:
            await asking.propose_config({"user.a": "1"})


@pytest.mark.asyncio
async def test_a_node_that_was_killed_leaves_and_a_removed_one_ends() -> None:
    async with cluster_of(3, 1) as cluster, cluster.client() as client:
        *masters, worker = cluster.nodes
        await cluster.kill(worker)
        status, said = await leave(worker)
        assert (status, said.get("left")) == (Exit.DONE, True), said
        worker.home.left.unlink()  # As if it was killed before it noted that.
        status, said = await leave(worker)
        assert (status, said.get("left")) == (Exit.DONE, True), said

        leader = await cluster.leader(client)
        gone, third = (node for node in masters if node is not leader)
        await cluster.kill(third)
        status, said = await leave(gone)
        assert (status, said["error"]["reason"]) == (Exit.FAILED, "QUORUM_AT_RISK"), said
        assert gone.runs
        await cluster.start_node(third)

        async def is_removed() -> bool:
            await client.remove_node(gone.node_id)
            return True

        await until(is_removed, seconds=30, what="the third master is back")
        assert await ended(gone) == Exit.REMOVED


@pytest.mark.asyncio
async def test_a_machine_joins_in_place_of_one_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPFS_CLUSTER_NODE_PROFILES", str(tmp_path / "profiles.toml"))
    async with cluster_of(1, 1) as cluster, cluster.client() as client:
        save_profile("default", cluster.profile)
        master, worker = cluster.nodes
        lost = worker.node_id

        async def join(node: LocalNode) -> tuple[int, str]:
            token = await client.create_join_token("worker")
            process = await asyncio.create_subprocess_exec(
                *command("join", token.token, "--replace", "--yes", "--name", worker.name),
                *("--enrolment", f"{master.host}:{master.enrolment_port}"),
                *("--home", str(node.home.path), "--bind", node.address),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, err = await process.communicate()
            assert process.returncode is not None
            return process.returncode, err.decode()

        status, said = await join(cluster.make_node("worker-2"))
        assert (status, "is alive" in said) == (Exit.USAGE, True), said
        await client.propose_config({"node_lease": "2s"})
        await cluster.kill(worker)

        async def is_dead() -> bool:
            return any(n.liveness is Liveness.DEAD for n in await client.list_nodes())

        await until(is_dead, seconds=30, what="the worker's lease ends")
        status, said = await join(worker)
        assert status == Exit.DONE, said
        assert f"{lost}) is removed" in said
        [aside] = worker.home.path.glob("replaced-*")
        assert (aside / "identity.key").exists()
        await cluster.start_node(worker)
        listed = {node.name: node.node_id for node in await client.list_nodes()}
        assert listed["worker-1"] == worker.node_id != lost

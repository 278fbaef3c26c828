"""Masters are lost; one of those that are left goes on alone."""

import asyncio
import json
import shutil
from datetime import timedelta
from typing import Any

import pytest

from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node.joining import join_cluster
from tests.support.certificates import node_credentials, tls_of
from tests.support.lab import ENDED, Lab, alive, echo, error_of, given, listed, sealed_to
from tests.support.nodes import check_in, settings_of, until


@pytest.mark.asyncio
async def test_one_master_of_three_goes_on_alone(lab: Lab) -> None:
    await lab.start(masters=3, workers=1)
    first, second, third, worker = lab.nodes
    survivor, lost = second, (first, third)
    async with lab.client() as client:
        await sealed_to(survivor)
        await client.propose_config({"user.kept": "yes", "task_retention": "8d"})
        task_id = await echo(client, "before")
        result = (await client.get_task(task_id)).status.result
        person, delegation = await given(client, lab)
        await client.transfer_leadership(first.node_id)
        pending = await client.submit_task("echo", "under way", attempt_timeout=ENDED)
    home = str(survivor.home.path)
    await lab.kill(survivor)
    early = error_of(lab.run("recover", "alone", "--yes", "--json", "--home", home))
    assert early["reason"] == "INVALID_ARGUMENT"
    assert f"{first.node_id} leads: the cluster is not lost" in early["message"]
    await lab.start_node(survivor)
    for node in lost:
        await lab.kill(node)
    old = lab.root / "old-disk"
    shutil.copytree(third.home.path, old)
    for node in lost:
        shutil.rmtree(node.home.path)
    async with lab.client(survivor) as client:
        with pytest.raises(ClusterError) as caught:
            await client.propose_config({"user.lost": "x"}, timeout=timedelta(seconds=4))
        assert caught.value.reason is Reason.NO_LEADER

    assert error_of(lab.run("recover", "alone", "--yes", "--json", "--home", home))["reason"] == (
        "HOME_IN_USE"
    )
    await lab.kill(survivor)
    files = sorted(p.name for p in survivor.home.raft.iterdir())
    refused = lab.run("recover", "alone", "--home", home, stdin="n\n")
    assert refused.returncode == 1
    assert "master-1" in refused.stderr
    assert third.node_id in refused.stderr
    assert sorted(p.name for p in survivor.home.raft.iterdir()) == files
    assert lab.run("recover", "alone", "--json", "--home", home).returncode == 2
    done = lab.run("recover", "alone", "--yes", "--json", "--home", home)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["removed_node_ids"]) == {n.node_id for n in lost}

    await lab.start_node(survivor)
    # They know its address already, and are told nothing.
    async with lab.client(*lost, survivor) as client, person.client() as reader:
        await alive(client, worker)
        values = await settings_of(lab, survivor)
        assert values["user.kept"] == "yes"
        assert values["task_retention"] == "8d"
        assert (await client.get_task(task_id)).status.result == result
        assert (await client.wait_tasks([pending], timeout=ENDED))[
            pending
        ].status.result is not None
        await echo(client, "after")
        kept = {each.cid for each in await client.list_delegations(audience=person.did)}
        assert delegation in kept
        await echo(reader, "by delegation")
        masters = [n for n in await client.list_nodes() if n.voter]
        assert [n.node_id for n in masters] == [survivor.node_id]
        await sealed_to(survivor)

        # One that was lost comes back, with all it had.
        before = (await client.get_cluster_status()).term
        shutil.copytree(old, third.home.path)
        await lab.start_node(third)
        await asyncio.sleep(5)
        check = check_in(await _health(third), "lease")
        assert not check.ok
        assert "was removed" in check.detail  # At the door: whatever it asks.
        async with lab.client(third) as asking:
            with pytest.raises(ClusterError) as caught:
                await asking.propose_config({"user.two": "x"}, timeout=timedelta(seconds=2))
        assert caught.value.reason is Reason.NODE_REMOVED
        assert (await client.get_cluster_status()).term == before
        await echo(client, "undisturbed")

        lab.nodes.remove(first)
        fourth = lab.make_node("master-4")
        await join_anew(lab, client, fourth, by=survivor)
        assert (await settings_of(lab, fourth))["user.kept"] == "yes"


async def join_anew(lab: Lab, client: Client, node: LocalNode, *, by: LocalNode) -> None:
    """Have a master join, and vote, and get the cluster's keys."""
    token = (await client.create_join_token("master")).token
    await join_cluster(
        node.home,
        lab._settings(node),
        token=token,
        enrolment=f"127.0.0.1:{by.enrolment_port}",
    )
    await lab.start_node(node)
    if node not in lab.nodes:
        lab.nodes.append(node)

    async def votes() -> bool:
        return (await listed(client, node)).voter

    await until(votes, seconds=20, what="a new master votes")
    await sealed_to(node)


@pytest.mark.asyncio
async def test_of_two_masters_of_five_one_goes_on_and_the_other_joins_anew(lab: Lab) -> None:
    await lab.start(masters=5, workers=1)
    *masters, worker = lab.nodes
    async with lab.client() as client:
        for node in masters:
            await sealed_to(node)
        leader = await lab.leader(client)
        survivor, other, *lost = (n for n in masters if n is not leader)
        lost.append(leader)
        await client.propose_config({"user.kept": "yes"})
    for node in (*lost, survivor):
        await lab.kill(node)
    for node in lost:
        shutil.rmtree(node.home.path)

    async def nobody_leads() -> bool:
        return not check_in(await _health(other), "leader").ok

    await until(nobody_leads, seconds=20, what="the other master names no leader any longer")
    home = str(survivor.home.path)
    done = lab.run("recover", "alone", "--yes", "--json", "--home", home)
    assert done.returncode == 0, done.stderr
    removed = {node.node_id for node in (*lost, other)}
    assert set(json.loads(done.stdout)["removed_node_ids"]) == removed

    await lab.start_node(survivor)  # The other master still runs, and has not heard of it.
    async with lab.client(other, survivor) as client:
        await alive(client, worker)
        assert (await settings_of(lab, survivor))["user.kept"] == "yes"
        term = (await client.get_cluster_status()).term

        async def is_told() -> bool:
            check = check_in(await _health(other), "lease")
            return not check.ok and "was removed" in check.detail

        await until(is_told, seconds=20, what="the other master is told that it was removed")
        await echo(client, "undisturbed")
        assert (await client.get_cluster_status()).term == term
        await lab.kill(other)
        lab.nodes.remove(other)
        shutil.rmtree(other.home.path)
        again = lab.make_node("master-2b")
        await join_anew(lab, client, again, by=survivor)
        assert {n.node_id for n in await client.list_nodes() if n.voter} == {
            survivor.node_id,
            again.node_id,
        }
        await echo(client, "after")


async def _health(node: LocalNode) -> Any:
    """Ask a node that the cluster has removed, by its own certificate."""
    from ipfs_cluster_node.v1 import health_pb2
    from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub

    channel = open_channel(
        node.address, tls=tls_of(node_credentials(node)), node_id=NodeId(node.node_id)
    )
    try:
        return await HealthServiceStub(channel).GetHealth(health_pb2.GetHealthRequest(), timeout=5)
    finally:
        await channel.close()

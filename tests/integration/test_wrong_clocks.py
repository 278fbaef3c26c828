"""Wrong clocks on real processes: no node is locked out, and all recover by themselves."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.keys.certificates import validity_of
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.credentials import write_credentials
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.model import Liveness
from ipfs_cluster_node.core.views import HealthCheck
from ipfs_cluster_node.node.joining import join_cluster
from tests.support.certificates import certificate_of, node_credentials, put_node_credentials
from tests.support.clusters import cluster_of
from tests.support.faketime import give_clock, set_clock
from tests.support.nodes import check_in, check_of, health_of, until
from tests.support.people import join
from tests.support.virtual_time import utc_now

DAY: Final = 86_400
pytestmark = pytest.mark.tools


class WithClocks(LocalCluster):
    def make_node(self, name: str) -> LocalNode:
        node = super().make_node(name)
        give_clock(node)
        return node


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    """One whose nodes have clocks that can be set."""
    async with cluster_of(0, 0, make=WithClocks) as local:
        yield local


async def all_compared(cluster: LocalCluster) -> None:
    masters = sum(node.role == "master" for node in cluster.nodes)

    async def compared() -> bool:
        checks = [await check_of(cluster, node, "clock") for node in cluster.nodes]
        enough = [str(masters - 1) if n.role == "master" else "1" for n in cluster.nodes]
        return all(
            f"of {count} other" in check.detail for count, check in zip(enough, checks, strict=True)
        )

    await until(compared, seconds=20, what="every node has compared its clock")


async def all_alive(client: Client) -> bool:
    nodes = await client.list_nodes()
    return all(node.liveness is Liveness.ALIVE for node in nodes)


@pytest.mark.parametrize("ahead", [DAY, -DAY])
@pytest.mark.asyncio
async def test_a_leader_whose_clock_jumps_a_day_signs_nothing_and_comes_back(
    cluster: LocalCluster, ahead: int, tmp_path: Path
) -> None:
    """It signed itself a certificate from tomorrow, and was locked out once its clock was right."""
    await cluster.start(masters=3, workers=1)
    await all_compared(cluster)
    async with cluster.client() as client:
        leader = await cluster.leader(client)
        shown = node_credentials(leader).certificate_pem
        watching = cluster.client()  # Its connection is there before the jump.
        async with watching:
            assert "within" in (await _clock_by(watching, leader)).detail
            set_clock(leader, ahead_seconds=ahead)

            async def said() -> bool:
                check = await _clock_by(watching, leader)
                return check.degraded and f"{DAY} s" in check.detail

            await until(said, seconds=10, what="its health says by how much its clock is off")

            async def another_leads() -> bool:
                return (await cluster.leader(client)).name != leader.name

            await until(another_leads, seconds=30, what="another master leads")
        # Who asks the one with the wrong clock first is served all the same.
        await client.list_nodes()
        first = [leader, *(n for n in cluster.nodes if n.role == "master" and n is not leader)]
        async with cluster.client(*first) as asking:
            token = await asking.create_join_token("client")
        joined = await join_cluster(
            Home(tmp_path / "joined"),
            NodeSection(name="joined", role="client"),
            token=token.token,
            enrolment=f"127.0.0.1:{first[1].enrolment_port}",
        )
        began, ends = validity_of(joined.profile.certificate.read_bytes())
        assert began <= utc_now() < ends, "a certificate of today"
        assert node_credentials(leader).certificate_pem == shown, "it signed itself nothing"
        set_clock(leader, ahead_seconds=0)

        async def well() -> bool:
            check = await check_of(cluster, leader, "clock")
            return not check.degraded and (await check_of(cluster, leader, "certificate")).ok

        await until(well, seconds=30, what="it is well with its clock set right, without a restart")
        await until(lambda: all_alive(client), seconds=30, what="every node is alive")


async def _clock_by(client: Client, node: LocalNode) -> HealthCheck:
    return check_in(await client.get_health(node.address, node.node_id), "clock")


def from_tomorrow(cluster: LocalCluster, node: LocalNode) -> None:
    """Give a node what a leader signed whose clock was a day ahead."""
    bad = certificate_of(
        cluster.nodes[0].home,
        Identity.load(node.home.identity),
        began=utc_now() + timedelta(days=1),
        life=timedelta(days=1),
        is_node=True,
        hosts=("127.0.0.1",),
    )
    put_node_credentials(node, bad)


async def renewed(cluster: LocalCluster, nodes: list[LocalNode], client: Client) -> None:
    async def good() -> bool:
        for node in nodes:
            began, ends = validity_of(node_credentials(node).certificate_pem)
            if not began <= utc_now() < ends or ends - began < timedelta(hours=20):
                return False
            if not (await check_of(cluster, node, "certificate")).ok:
                return False
        return await all_alive(client)

    await until(good, seconds=60, what="all have certificates of today, of a day")


@pytest.mark.parametrize("masters", [1, 3])
@pytest.mark.asyncio
async def test_nodes_with_certificates_from_tomorrow_come_back_by_themselves(
    cluster: LocalCluster, masters: int
) -> None:
    """One after another, and where all have them: a leader may have signed for everybody."""
    await cluster.start(masters=masters, workers=1)
    async with cluster.client() as client:
        await all_compared(cluster) if masters > 1 else None
        await asyncio.sleep(1.5)  # The sealed keys are written down by each master.
        for group in ([cluster.nodes[0]], [cluster.nodes[-1]], cluster.nodes):
            await asyncio.gather(*(cluster.kill(node) for node in group))
            for node in group:
                from_tomorrow(cluster, node)
            await asyncio.gather(*(cluster.start_node(node) for node in group))
            await renewed(cluster, group, client)


@pytest.mark.asyncio
async def test_a_damaged_log_is_replaced_though_the_certificate_is_from_tomorrow(
    cluster: LocalCluster,
) -> None:
    """The node that requested a new log was refused, and nothing renewed its certificate."""
    await cluster.start(masters=3, workers=0)
    await asyncio.sleep(1.5)
    node = cluster.nodes[-1]
    await cluster.kill(node)
    from_tomorrow(cluster, node)
    for segment in node.home.raft.glob("journal-*"):
        segment.unlink()
    await cluster.start_node(node)

    async def votes() -> bool:
        health = await health_of(cluster, node)
        return len(health.raft.voters) == 3 and all(check.ok for check in health.checks)

    await until(votes, seconds=40, what="it has a new log and a new certificate")


@pytest.mark.asyncio
async def test_a_client_whose_certificate_is_from_tomorrow_comes_back_by_itself(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    await cluster.start(masters=1, workers=0)
    person = await join(cluster, tmp_path, "reader")
    await asyncio.sleep(1.5)
    bad = certificate_of(
        cluster.nodes[0].home,
        person.identity,
        began=utc_now() + timedelta(days=1),
        life=timedelta(days=1),
        is_node=False,
    )
    profile = person.profile
    write_credentials(bad, profile.ca, profile.certificate, profile.key)
    async with person.client() as client:
        await client.list_nodes()
    began, ends = validity_of(person.tls.certificate_pem)
    assert began <= utc_now() < ends

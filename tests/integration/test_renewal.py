"""Renewal of certificates: who renews, when, and what the new one contains."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from ipfs_cluster_node.adapters.keys.certificates import (
    make_tls_key,
    read_certificate,
    renewal_message,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.credentials import write_credentials
from ipfs_cluster_node.core.ids import Did, NodeId
from ipfs_cluster_node.v1 import certificate_pb2
from ipfs_cluster_node.v1.certificate_pb2_grpc import CertificateServiceStub
from tests.support.certificates import (
    asking_for_more,
    certificate_of,
    check_names,
    node_credentials,
    put_node_credentials,
    spki_of,
    tls_of,
)
from tests.support.nodes import until
from tests.support.people import Person, join
from tests.support.virtual_time import utc_now

LIFE: Final = timedelta(seconds=20)
LATE: Final = timedelta(seconds=1.5)
"""A node looks every half second, and the leader has to answer."""


async def renewed_after(cluster: LocalCluster, node: LocalNode) -> float:
    """Start a node with a certificate of a few seconds; returns after which share it renewed."""
    await cluster.kill(node)
    short = certificate_of(
        cluster.nodes[0].home,
        Identity.load(node.home.identity),
        began=utc_now(),
        life=LIFE,
        is_node=True,
        hosts=("127.0.0.1",),
    )
    put_node_credentials(node, short)
    await cluster.start_node(node)

    async def renewed() -> bool:
        return node_credentials(node).certificate_pem != short.certificate_pem

    await until(renewed, seconds=LIFE.total_seconds(), what=f"{node.name} renews by itself")
    after = node_credentials(node)
    assert spki_of(after.certificate_pem) != spki_of(short.certificate_pem)
    assert after.key_pem != short.key_pem
    assert after.epoch == 0
    began, ends = validity_of(short.certificate_pem)  # Of whole seconds.
    return (node.home.certificate.stat().st_mtime - began.timestamp()) / (ends - began).seconds


@pytest.mark.asyncio
@pytest.mark.slow
async def test_nodes_renew_by_themselves_between_half_and_four_fifths_of_the_life(
    cluster: LocalCluster, client: Client
) -> None:
    """Without anybody having asked for it: the epoch stays as it is."""
    nodes = [cluster.make_node(name) for name in ("worker-8", "worker-9", "master-9")]
    try:
        for node in nodes:
            await cluster.add_node(client, node)
        assert (await client.get_cluster_status()).certificate_epoch == 0
        shares = await asyncio.gather(*(renewed_after(cluster, node) for node in nodes))
    finally:
        for node in nodes:
            if node.runs:  # In this test's loop.
                await cluster.kill(node)
                await client.remove_node(node.node_id)  # A voter that is gone counts against all.
            cluster.nodes.remove(node)
    assert (await client.get_cluster_status()).certificate_epoch == 0
    print(f"renewed after {', '.join(f'{share:.0%}' for share in shares)} of the life")
    for share in shares:
        assert 0.5 <= share <= 0.8 + LATE / LIFE
    assert len(set(shares)) == len(shares)


@pytest.mark.parametrize("used", [0.45, 0.55])
@pytest.mark.asyncio
async def test_a_client_past_half_of_the_life_renews_when_it_is_used_and_not_before(
    cluster: LocalCluster, tmp_path: Path, used: float
) -> None:
    person = await join(cluster, tmp_path, "reader")
    life, renews = timedelta(hours=1), used > 0.5
    half = certificate_of(
        cluster.nodes[0].home,
        person.identity,
        began=utc_now() - used * life,
        life=life,
        is_node=False,
    )
    profile = person.profile
    write_credentials(half, profile.ca, profile.certificate, profile.key)
    async with person.client():
        pass  # To open it is not to use it.
    assert person.tls.certificate_pem == half.certificate_pem
    async with person.client() as client:
        await client.list_nodes()
    assert (person.tls.certificate_pem != half.certificate_pem) is renews
    assert (spki_of(person.tls.certificate_pem) != spki_of(half.certificate_pem)) is renews


@pytest.mark.asyncio
async def test_every_renewal_has_a_tls_key_of_its_own(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    person = await join(cluster, tmp_path, "reader")
    keys = {spki_of(person.tls.certificate_pem)}
    async with person.client() as renewing:
        assert renewing.certificate is not None
        for _ in range(3):
            await renewing.certificate.renew()
            keys.add(spki_of(person.tls.certificate_pem))
            await renewing.list_nodes()
    assert len(keys) == 4
    known = await client.list_certificates()
    assert len({each.spki_sha256 for each in known}) == len(known) > 4


@pytest.mark.asyncio
async def test_the_names_that_a_renewal_asks_for_are_not_looked_at(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    leader = await cluster.leader(client)
    victim = Identity.load(leader.home.identity)
    worker = cluster.nodes[-1]
    person: Person = await join(cluster, tmp_path, "reader")
    asking: list[tuple[Identity, ClientTls]] = [
        (Identity.load(worker.home.identity), tls_of(node_credentials(worker))),
        (person.identity, person.tls),
    ]
    for identity, tls in asking:
        forged = asking_for_more(make_tls_key(identity), Did(victim.did))
        proof = identity.sign(renewal_message(tls.certificate_pem, forged.spki_der))
        node_id = NodeId(leader.node_id)
        async with open_channel(leader.address, tls=tls, node_id=node_id) as channel:
            answer = await CertificateServiceStub(channel).RenewCertificate(
                certificate_pb2.RenewCertificateRequest(
                    certificate_request=forged.request_der, proof=proof
                ),
                timeout=10,
            )
        check_names(answer.certificate_pem, identity.did)
        assert read_certificate(answer.certificate_pem.encode()).is_node is (
            identity is asking[0][0]
        )

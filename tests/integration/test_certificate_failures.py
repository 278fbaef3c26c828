"""Certificates during failures: all expired, the leader dead, masters lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import pytest
import pytest_asyncio

from ipfs_cluster_node.adapters.keys.certificates import (
    make_tls_key,
    read_certificate,
    renewal_message,
    validity_of,
)
from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.adapters.keys.sealing import SealKey, open_keys
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.config.files import write_private
from ipfs_cluster_node.config.settings import load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.disaster.passphrase import prepare_recovery
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.v1 import certificate_pb2, membership_pb2
from ipfs_cluster_node.v1.membership_pb2_grpc import MembershipServiceStub
from tests.support.certificates import (
    certificate_ending,
    cluster_keys,
    kept_authority,
    node_credentials,
    put_node_credentials,
    tls_of,
)
from tests.support.clusters import cluster_of
from tests.support.nodes import check_of, until
from tests.support.virtual_time import utc_now

PASSPHRASE = "a passphrase of the tests"


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    """One of its own for each test, in the test's loop: its nodes are stopped and killed."""
    async with cluster_of(
        3, 1, make=partial(LocalCluster, recovery_passphrase=PASSPHRASE)
    ) as local:
        yield local


async def sealed_to_all(cluster: LocalCluster) -> None:
    async def sealed() -> bool:
        for node in cluster.nodes:
            if node.role == "master" and node.runs:
                cluster_keys(node.home)
        return True

    await until(sealed, seconds=10, what="the keys are sealed to every master")


@pytest.mark.asyncio
async def test_nodes_whose_certificates_have_all_expired_come_back(
    cluster: LocalCluster, client: Client
) -> None:
    """Once each refused the others, so that no master could lead and sign."""
    await sealed_to_all(cluster)
    await cluster.stop()
    masters = [node for node in cluster.nodes if node.role == "master"]
    for node in cluster.nodes:
        identity = Identity.load(node.home.identity)
        ended = certificate_ending(
            masters[0].home,
            identity,
            ends_in=-timedelta(days=3),
            is_node=True,
            hosts=("127.0.0.1",),
        )
        put_node_credentials(node, ended)
    await asyncio.gather(*(cluster.start_node(node) for node in cluster.nodes))

    async def all_renewed() -> bool:
        for node in cluster.nodes:
            began, ends = validity_of(node_credentials(node).certificate_pem)
            if ends - began < timedelta(hours=20) or ends < utc_now():
                return False
            if not (await check_of(cluster, node, "certificate")).ok:
                return False
        return True

    await until(all_renewed, seconds=60, what="every node has a certificate of a day again")
    known = {each.serial for each in await client.list_certificates()}
    for node in cluster.nodes:
        pem = node_credentials(node).certificate_pem
        assert f"{read_certificate(pem).serial:x}" in known


@pytest.mark.asyncio
async def test_what_was_handed_out_while_the_leader_died_is_in_the_log(
    cluster: LocalCluster, client: Client
) -> None:
    """A certificate that came back is known, whoever leads by now; no renewal is lost for good."""
    leader = await cluster.leader(client)
    worker = next(node for node in cluster.nodes if node.role == "worker")
    identity = Identity.load(worker.home.identity)
    serials: list[int] = []

    async def renew_on() -> None:
        targets = [
            (node.address, NodeId(node.node_id)) for node in cluster.nodes if node.role == "master"
        ]
        connection = Connection(targets, tls_of(node_credentials(worker)))
        for _ in range(20):
            key = make_tls_key(identity)
            shown = node_credentials(worker).certificate_pem
            proof = identity.sign(renewal_message(shown, key.spki_der))
            answer = await connection.unary(
                certificate_pb2.RenewCertificateRequest(
                    certificate_request=key.request_der, proof=proof
                ),
                timeout=20,
            )
            serials.append(read_certificate(answer.certificate_pem.encode()).serial)
            await asyncio.sleep(0.02)
        await connection.close()

    renewing = asyncio.create_task(renew_on())
    while len(serials) < 5:
        await asyncio.sleep(0.01)
    await cluster.kill(leader)
    await renewing
    assert len(set(serials)) == 20
    known = {int(each.serial, 16) for each in await client.list_certificates(did=identity.did)}
    assert known >= set(serials)
    await cluster.start_node(leader)

    async def all_there() -> bool:
        status = await MembershipServiceStub(
            client._connection.channel((leader.address, NodeId(leader.node_id)))
        ).GetClusterStatus(membership_pb2.GetClusterStatusRequest(), timeout=2)
        return bool(status.leader_node_id)

    await until(all_there, seconds=20, what="the killed master is back")


@pytest.mark.asyncio
async def test_one_master_that_is_left_lets_others_in_and_removed_ones_open_nothing(
    cluster: LocalCluster, client: Client
) -> None:
    await sealed_to_all(cluster)
    first, second, third, worker = cluster.nodes
    cluster_id = load_settings(first.home.config, environment={}).cluster.id
    before = kept_authority(third.home)
    stolen = SealKey.load(first.home.seal_key)
    wrapped = before.wrap_of(Identity.load(first.home.identity).did)
    assert wrapped is not None
    data_key = stolen.open(wrapped, cluster_id=cluster_id, key_id=before.key_id)
    keys = open_keys(before, data_key, cluster_id=cluster_id)
    assert keys.authority.did == (await client.get_caller()).cluster_did
    for node in (first, second):
        target = NodeId(third.node_id)
        await client.transfer_leadership(str(target))
        await client.remove_node(node.node_id)
        await cluster.kill(node)

    async def sealed_again() -> bool:
        authority = kept_authority(third.home)
        return len(authority.wraps) == 1 and authority.key_id != before.key_id

    await until(
        sealed_again, seconds=15, what="the keys are sealed again, for the last master alone"
    )
    after = kept_authority(third.home)
    assert cluster_keys(third.home).authority.did == keys.authority.did
    # Neither by the removed master's own key, nor by the data key that it knew.
    for sealed in (*(wrap for _, wrap in after.wraps), after.recovery_wrap):
        with pytest.raises(ClusterError) as caught:
            stolen.open(sealed, cluster_id=cluster_id, key_id=after.key_id)
        assert caught.value.reason is Reason.AUTHORITY_SEALED
    with pytest.raises(ClusterError) as caught:
        open_keys(after, data_key, cluster_id=cluster_id)
    assert caught.value.reason is Reason.AUTHORITY_SEALED
    fourth = cluster.make_node("master-4")
    token = (await client.create_join_token("master")).token
    made = await join_cluster(
        fourth.home,
        cluster._settings(fourth),
        token=token,
        enrolment=f"127.0.0.1:{third.enrolment_port}",
    )
    assert made.role == "master"
    assert worker.runs
    await cluster.start_node(fourth)
    cluster.nodes.append(fourth)
    await sealed_to_all(cluster)


@pytest.mark.asyncio
async def test_the_passphrase_opens_the_keys_for_a_master_that_lost_its_own(
    cluster: LocalCluster, client: Client
) -> None:
    await sealed_to_all(cluster)
    first, second, third, _ = cluster.nodes
    for node in (second, third):
        await client.transfer_leadership(first.node_id)
        await client.remove_node(node.node_id)
        await cluster.kill(node)

    async def alone() -> bool:
        return len(kept_authority(first.home).wraps) == 1

    await until(alone, seconds=15, what="the keys are sealed to the last master alone")
    await cluster.kill(first)
    write_private(first.home.seal_key, SealKey.create().pem())
    with pytest.raises(ClusterError) as caught:
        prepare_recovery(first.home, PASSPHRASE + "?")
    assert caught.value.reason is Reason.AUTHORITY_SEALED
    assert not first.home.recovery_key.exists()
    await cluster.start_node(first)

    async def joins() -> bool:
        token = (await client.create_join_token("worker")).token
        node = cluster.make_node(f"worker-{len(list(cluster.root.iterdir()))}")
        await join_cluster(
            node.home,
            cluster._settings(node),
            token=token,
            enrolment=f"127.0.0.1:{first.enrolment_port}",
        )
        return True

    with pytest.raises(ClusterError) as caught:
        await joins()
    assert caught.value.reason is Reason.AUTHORITY_SEALED
    assert "recover" in caught.value.message
    await cluster.kill(first)
    prepare_recovery(first.home, PASSPHRASE)
    assert first.home.recovery_key.stat().st_mode & 0o777 == 0o600
    await cluster.start_node(first)
    await until(joins, seconds=20, what="it signs again")

    async def used_up() -> bool:
        return not first.home.recovery_key.exists()

    await until(used_up, seconds=10, what="what the passphrase gave is no more on disk")
    assert cluster_keys(first.home).authority.did == (await client.get_caller()).cluster_did

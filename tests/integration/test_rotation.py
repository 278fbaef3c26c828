"""Certificates and the root are rotated under load, and not one call fails."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2 as standard_health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from ipfs_cluster_node.adapters.keys.certificates import pin_of, read_certificate
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.client import certificates as certificates_module
from ipfs_cluster_node.client import client as client_module
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.v1 import certificate_pb2, health_pb2, task_dispatch_pb2
from ipfs_cluster_node.v1.health_pb2_grpc import HealthServiceStub
from tests.support.certificates import cluster_keys, node_credentials
from tests.support.clusters import cluster_of
from tests.support.nodes import until
from tests.support.people import refused

ROTATIONS = 6
CALLS_PER_SECOND_MIN = 200
CALLERS = 8
SOON = timedelta(seconds=10)


@pytest_asyncio.fixture
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[LocalCluster]:
    async with cluster_of(getattr(request, "param", 3), 1) as local:
        yield local


@dataclass
class Load:
    """Calls without any retry of the client's, except those that follow a leader."""

    cluster: LocalCluster
    client: Client
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    over: bool = False

    async def unary(self, number: int) -> None:
        """Ask one node after the other how it is, once each: no repeat hides a failure."""
        nodes = self.cluster.nodes
        while not self.over:
            number += 1
            node = nodes[number % len(nodes)]
            target = (node.address, NodeId(node.node_id))
            try:
                await HealthServiceStub(self.client._connection.channel(target)).GetHealth(
                    health_pb2.GetHealthRequest(), timeout=10
                )
                self.counts["unary"] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{node.name}: {error_from_rpc(error)}")
            except asyncio.CancelledError as error:
                self.failures.append(f"{node.name}: {error!r}")
                raise
            await asyncio.sleep(0.005)

    async def writes(self) -> None:
        while not self.over:
            try:
                await self.client.propose_config({"user.rotation": str(time.monotonic())})
                self.counts["write"] += 1
            except ClusterError as error:
                self.failures.append(f"write: {error}")
            await asyncio.sleep(0.02)

    async def streams(self) -> None:
        """Tasks watched until they end: by the worker's session and a stream of the client's."""
        while not self.over:
            try:
                task_id = await self.client.submit_task("echo", b"x")
                async for _ in self.client.watch_tasks([task_id], timeout=timedelta(seconds=20)):
                    pass
                self.counts["stream"] += 1
            except ClusterError as error:
                self.failures.append(f"stream: {error}")

    async def watch(self, node: LocalNode) -> None:
        """One stream from the first to the last: through every change of certificates and roots."""
        target = (node.address, NodeId(node.node_id))
        stub: Any = HealthStub(self.client._connection.channel(target))
        call = stub.Watch(standard_health_pb2.HealthCheckRequest())
        try:
            async for _ in call:
                self.counts[f"watch {node.name}"] += 1
            self.failures.append(f"watch of {node.name}: ended")
        except grpc.aio.AioRpcError as error:
            self.failures.append(f"watch of {node.name}: {error_from_rpc(error)}")
        except asyncio.CancelledError:
            if not self.over:
                self.failures.append(f"watch of {node.name}: cancelled")
            raise


async def serials(cluster: LocalCluster) -> set[int]:
    return {read_certificate(node_credentials(n).certificate_pem).serial for n in cluster.nodes}


@pytest.mark.asyncio
async def test_rotations_under_load_fail_no_call(cluster: LocalCluster) -> None:
    async with cluster.client() as client, cluster.client() as operator:
        await client.list_nodes()
        load = Load(cluster, client)
        assert client.certificate is not None
        assert operator.certificate is not None
        running = [asyncio.create_task(load.unary(n)) for n in range(CALLERS)]
        running += [asyncio.create_task(load.streams()), asyncio.create_task(load.writes())]
        watching = [asyncio.create_task(load.watch(node)) for node in cluster.nodes]
        began = time.monotonic()
        for _ in range(ROTATIONS):
            before = await serials(cluster)
            await operator.rotate_certificates(new_root=False)
            await client.certificate.renew()
            await operator.certificate.renew()

            async def renewed(before: set[int] = before) -> bool:
                rotation = await operator.get_rotation()
                return not before & await serials(cluster) and not rotation.waiting_dids

            await until(renewed, seconds=30, what="every node has another certificate")
        old_pin = pin_of(node_credentials(cluster.nodes[0]).ca_pem)
        old_keys = cluster_keys(cluster.nodes[0].home)
        await operator.rotate_certificates(new_root=True)
        phases: list[str | None] = ["spreading"]

        async def rotated() -> bool:
            rotation = await operator.get_rotation()
            if rotation.phase != phases[-1]:
                phases.append(rotation.phase)
            # Nobody runs a client all the time: this is what waits for it.
            waiting = set(rotation.waiting_dids)
            for each in (client, operator):
                assert each.certificate is not None
                if (await operator.get_caller()).did in waiting:
                    await each.certificate.renew()
            return rotation.phase == "steady"

        await until(rotated, seconds=60, what="the new root has taken the old one's place")

        async def only_new() -> bool:
            for node in cluster.nodes:
                bundle = node_credentials(node).ca_pem
                if bundle.count(b"BEGIN") != 1 or pin_of(bundle) == old_pin:
                    return False
            return True

        await until(only_new, seconds=30, what="no node trusts the old root")
        await asyncio.sleep(0.5)
        assert not any(watch.done() for watch in watching), load.failures
        load.over = True
        for watch in watching:
            watch.cancel()
        await asyncio.gather(*running)
        seconds = time.monotonic() - began
    calls = load.counts.total()
    print(
        f"{ROTATIONS} rotations and a new root in {seconds:.1f} s: {dict(load.counts)}, "
        f"{calls / seconds:.0f} calls/s, {len(load.failures)} failed"
    )
    assert phases == ["spreading", "reissuing", "steady"]
    assert load.failures == []
    assert load.counts["stream"] > 0
    assert all(load.counts[f"watch {node.name}"] for node in cluster.nodes)
    assert calls / seconds > CALLS_PER_SECOND_MIN
    # The old root's key is no longer stored, and its certificates are refused.
    keys = cluster_keys(cluster.nodes[0].home)
    assert {ca.key_der for ca in keys.cas}.isdisjoint(ca.key_der for ca in old_keys.cas)


@pytest.mark.asyncio
@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_a_client_in_use_renews_by_itself_when_the_root_is_rotated(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the rotation waits for it until half of its certificate's life is over."""
    monkeypatch.setattr(client_module, "LEARN_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(certificates_module, "RETRY_SECONDS", 0.0)
    old_pin = pin_of(cluster.profile.ca.read_bytes())
    async with cluster.client() as client:
        await client.rotate_certificates(new_root=True)

        async def rotated() -> bool:
            return (await client.get_rotation()).phase == "steady"

        async def trusts_only_new() -> bool:
            await client.list_nodes()
            bundle = cluster.profile.ca.read_bytes()
            return bundle.count(b"BEGIN") == 1 and pin_of(bundle) != old_pin

        await until(rotated, seconds=30, what="the new root has taken the old one's place")
        await until(trusts_only_new, seconds=10, what="the client has dropped the old root")


@pytest.mark.asyncio
@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_a_repeat_of_proceed_skips_no_second_phase(cluster: LocalCluster) -> None:
    """Otherwise one lost answer would lock out everybody who has not renewed."""
    async with cluster.client() as client:
        await client.rotate_certificates(new_root=True)
        proceed = certificate_pb2.RotateCertificatesRequest(
            request_id="proceed-1", new_root=True, proceed=True
        )
        for _ in range(3):
            answer = await client._connection.unary(
                proceed,
                timeout=10,
            )
            rotation = await client.get_rotation()
            assert (rotation.phase, rotation.epoch) == ("reissuing", answer.epoch)


@pytest.mark.asyncio
@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_rotations_that_meet_wait_for_one_another(cluster: LocalCluster) -> None:
    """One that met the sealing of the keys to a master was refused once: "try again"."""
    async with cluster.client() as client:
        before = (await client.get_rotation()).epoch
        many = [client.rotate_certificates(new_root=False) for _ in range(20)]
        assert sorted(await asyncio.gather(*many)) == list(range(before + 1, before + 21))


@pytest.mark.asyncio
@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_a_rotation_under_a_used_request_id_is_not_taken_for_its_repeat(
    cluster: LocalCluster,
) -> None:
    """Once it was answered with success, and nothing was rotated."""

    def rotate(*, new_root: bool = False, request_id: str) -> Any:
        request = certificate_pb2.RotateCertificatesRequest(
            request_id=request_id, new_root=new_root
        )
        return client._unary(request, SOON)

    async with cluster.client() as client:
        begun = (await rotate(request_id="a")).epoch
        assert (await rotate(request_id="a")).epoch == begun
        submission = task_dispatch_pb2.SubmitTaskRequest(
            request_id="b", spec=task_dispatch_pb2.TaskSpec(task_type="echo")
        )
        await client._unary(submission, SOON)
        for reused in (rotate(request_id="a", new_root=True), rotate(request_id="b")):
            assert (await refused(reused)).reason is Reason.REQUEST_ID_REUSED
        rotation = await client.get_rotation()
        assert (rotation.epoch, rotation.phase) == (begun, "steady")


@pytest.mark.asyncio
@pytest.mark.parametrize("cluster", [2], indirect=True)
async def test_a_client_renews_while_it_takes_up_what_another_process_renewed(
    cluster: LocalCluster,
) -> None:
    """Its proof named the one certificate once, and its connection showed the other."""
    async with cluster.client() as client:
        leader = await cluster.leader(client)
        follower = next(n for n in cluster.nodes if n.role == "master" and n is not leader)
    async with cluster.client() as one, cluster.client(follower) as other:
        assert one.certificate is not None
        assert other.certificate is not None
        await one.certificate.renew()
        other.certificate.keep()  # It sees the other's file, and takes it up in the background.
        await other.certificate.renew()  # By the follower it is sent to the leader.
        assert (await other.get_cluster_status()).leader_node_id

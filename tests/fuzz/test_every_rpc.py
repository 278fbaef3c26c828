"""Calls of every method, as reflection describes it, with messages that Hypothesis makes.

As a client, a worker and a master, at a master and at a worker; and as anybody at the enrolment
port. Only statuses that docs/errors.md names come back; UNKNOWN and INTERNAL would be defects.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import hypothesis
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from ipfs_cluster_node.access.rules import RULES_BY_METHOD
from ipfs_cluster_node.adapters.net.answers import KeptAnswer
from ipfs_cluster_node.adapters.net.tls import ClientTls, open_channel
from ipfs_cluster_node.cli.local_cluster import LocalCluster, LocalNode
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import NodeId, tls_name
from ipfs_cluster_node.v1 import enrolment_pb2
from tests.fuzz.messages import TEXTS, messages
from tests.support.nodes import until

CALLS = int(os.environ.get("FUZZ_CALLS", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
AT_ONCE = 20
STREAM_MESSAGES = 4
CALL_SECONDS = 1.0
OF_TASKS = {Reason.HANDLER_FAILED}
"""Reasons that tasks have; no call is answered with them."""
ALLOWED = {reason.status for reason in Reason if reason not in (Reason.INTERNAL, *OF_TASKS)}
OF_CLIENT = (0, 1)
ENROLMENT = 6
"""Channels: of the client, and the one to the enrolment port; as `open_channels` has them."""
ENROLMENT_PATHS = {path for path in RULES_BY_METHOD if "EnrolmentService" in path}
OF_STRANGERS = {"RemoveNode", "RevokeCertificate"}
"""Never with the ids of the cluster that is tested: a good call would end it."""
OF_CLIENTS = {"LeaveCluster"}
"""Not by nodes: the one that calls is removed."""
OF_NODES = {"RotateCertificates"}
"""Not by the client, whose own certificate would then have an old root."""


@dataclass(frozen=True)
class Method:
    """A method, as reflection describes it."""

    path: str
    request: Any
    streams_in: bool
    streams_out: bool

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[1]

    @property
    def shape(self) -> str:
        return "_".join("stream" if s else "unary" for s in (self.streams_in, self.streams_out))


@dataclass(frozen=True)
class Call:
    """One call to make."""

    method: Method
    channel: int
    requests: tuple[bytes, ...]


def described_methods(node: LocalNode, tls: ClientTls) -> list[Method]:
    """Every method of a node, asked of the node itself; none of our own descriptors is used."""
    with grpc.secure_channel(
        node.address,
        grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.certificate_pem),
        options=[("grpc.ssl_target_name_override", tls_name(NodeId(node.node_id)))],
    ) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool: Any = descriptor_pool.DescriptorPool(database)
        # Those of masters alone are not listed, and described all the same.
        listed = set(database.get_services())
        named = {path.split("/")[1] for path in set(RULES_BY_METHOD) - ENROLMENT_PATHS}
        assert named - listed == {name for name in named if ".internal." in name}
        services = [pool.FindServiceByName(name) for name in sorted(named | listed)]
        return [
            Method(
                f"/{service.full_name}/{each.name}",
                message_factory.GetMessageClass(each.input_type),
                each.client_streaming,
                each.server_streaming,
            )
            for service in services
            for each in service.methods
        ]


def enrolment_methods() -> list[Method]:
    """Those of the other port, which offers no reflection."""
    service = enrolment_pb2.DESCRIPTOR.services_by_name["EnrolmentService"]
    methods = [
        Method(
            f"/{service.full_name}/{each.name}",
            message_factory.GetMessageClass(each.input_type),
            each.client_streaming,
            each.server_streaming,
        )
        for each in service.methods
    ]
    assert {method.path for method in methods} == ENROLMENT_PATHS
    return methods


@st.composite
def calls(
    draw: st.DrawFn, methods: Sequence[Method], known: Sequence[str], channels: Sequence[int]
) -> Call:
    """Any method, by any caller, with any messages; but none that ends the cluster."""
    method = draw(st.sampled_from(methods))
    allowed = channels
    if method.path in ENROLMENT_PATHS:
        allowed = [ENROLMENT]
    elif method.name in OF_NODES:
        allowed = [channel for channel in channels if channel not in OF_CLIENT]
    elif method.name in OF_CLIENTS:
        allowed = [channel for channel in channels if channel in OF_CLIENT]
    count = draw(st.integers(1, STREAM_MESSAGES)) if method.streams_in else 1
    words = TEXTS if method.name in OF_STRANGERS else known
    requests = [draw(messages(method.request, words)) for _ in range(count)]
    return Call(
        method,
        draw(st.sampled_from(allowed)),
        tuple(request.SerializeToString() for request in requests),
    )


async def make(call: Call, channel: grpc.aio.Channel) -> str:
    """Make a call; returns its status and reason."""
    method = call.method
    stub: Any = getattr(channel, method.shape)(method.path)
    given: Any = _each(call.requests) if method.streams_in else call.requests[0]
    answer = stub(given, timeout=CALL_SECONDS)
    kept = KeptAnswer(answer)
    try:
        if method.streams_out:
            count = 0
            async for _ in answer:
                count += 1
                if count == STREAM_MESSAGES:
                    answer.cancel()
                    break
        else:
            await answer
    except grpc.aio.AioRpcError as raised:
        error = await kept.error(raised)
        return f"{error.code().name} {error_from_rpc(error).reason} {error.details() or ''}"
    except asyncio.CancelledError:
        return "CANCELLED by us"
    return "OK"


async def _each(requests: Sequence[bytes]) -> Any:
    for request in requests:
        yield request


@pytest.mark.timeout(600)
def test_calls_of_every_method_get_documented_answers(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "cluster")
    statuses: Counter[tuple[str, str]] = Counter()
    with asyncio.Runner() as runner:
        try:
            runner.run(cluster.start(masters=1, workers=1))
            master, worker = cluster.nodes
            profile = cluster.profile
            client_tls = ClientTls(
                *(path.read_bytes() for path in (profile.ca, profile.certificate, profile.key))
            )
            worker_tls, master_tls = (
                ClientTls(*(p.read_bytes() for p in (home.ca, home.certificate, home.tls_key)))
                for home in (worker.home, master.home)
            )
            methods = described_methods(master, client_tls)
            # Some releases of the standard health service have `List`, others not.
            described = {method.path for method in methods} | {"/grpc.health.v1.Health/List"}
            assert described == set(RULES_BY_METHOD) - ENROLMENT_PATHS

            methods += enrolment_methods()

            async def open_channels() -> list[grpc.aio.Channel]:
                channels = [
                    open_channel(n.address, tls=tls, node_id=NodeId(n.node_id), own_connection=True)
                    for tls in (client_tls, worker_tls, master_tls)
                    for n in (master, worker)
                ]
                address = f"127.0.0.1:{cluster.enrolment_port}"
                return [*channels, open_channel(address, tls=None, ca_pem=client_tls.ca_pem)]

            async def submit() -> str:
                async with cluster.client() as client:
                    return await client.submit_task("echo", "known")

            channels = runner.run(open_channels())
            known = (*TEXTS, runner.run(submit()), master.node_id, worker.node_id)

            async def make_all(batch: Sequence[Call]) -> list[str]:
                return await asyncio.gather(*(make(each, channels[each.channel]) for each in batch))

            @hypothesis.seed(SEED)
            @hypothesis.settings(
                max_examples=CALLS // AT_ONCE,
                deadline=None,
                database=None,
                # Each call changes the cluster: nothing to shrink.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(
                st.lists(
                    calls(methods, known, range(ENROLMENT)), min_size=AT_ONCE, max_size=AT_ONCE
                )
            )
            def attempt(batch: list[Call]) -> None:
                for each, found in zip(batch, runner.run(make_all(batch)), strict=True):
                    status = found.split()[0]
                    statuses[each.method.path, status] += 1
                    # A worker has no services of the log.
                    assert status in ALLOWED | {"OK", "UNIMPLEMENTED"}, (SEED, each, found)

            attempt()
            runner.run(close_all(channels))
            assert statuses.total() >= CALLS
            answered = {path for path, _status in statuses}
            assert answered == {method.path for method in methods}
            runner.run(check_it_works(cluster, worker))
        finally:
            runner.run(cluster.stop())


async def close_all(channels: Sequence[grpc.aio.Channel]) -> None:
    for channel in channels:
        await channel.close()


async def check_it_works(cluster: LocalCluster, worker: LocalNode) -> None:
    # Its name documents it.
    await cluster.kill(worker)
    await cluster.start_node(worker)
    async with cluster.client() as client:

        async def knows_it() -> bool:
            return any("echo" in node.task_types for node in await client.list_nodes())

        await until(knows_it, seconds=20, what="the worker has come up")
        last = await client.submit_task("echo", "still here")
        ended = await client.wait_tasks([last], timeout=timedelta(seconds=30))
        assert ended[last].status.result is not None

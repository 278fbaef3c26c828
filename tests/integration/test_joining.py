"""A join checks for problems before it uses up its token, and can be repeated."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.net.tls import open_channel
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node import joining
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.node.setup import Made
from ipfs_cluster_node.services.enrolment import ENROLMENT_BURST
from ipfs_cluster_node.v1 import enrolment_pb2
from ipfs_cluster_node.v1.enrolment_pb2_grpc import EnrolmentServiceStub
from tests.support.clusters import cluster_of, for_module


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with for_module(cluster_of(1, 0)) as local:
        yield local


async def join(cluster: LocalCluster, home: Path, token: str, **given: Any) -> Made:
    settings = {"name": "n", "role": "worker", "bind": "127.0.0.1:0"}
    settings |= {k: given.pop(k) for k in ("name", "bind", "advertise") if k in given}
    return await join_cluster(
        Home(home),
        NodeSection(**settings),  # type: ignore[arg-type]
        token=token,
        enrolment=f"127.0.0.1:{cluster.enrolment_port}",
        **given,
    )


async def refusal(cluster: LocalCluster, home: Path, token: str, **given: Any) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        await join(cluster, home, token, **given)
    return caught.value


def ahead(**by: int) -> Clock:
    milliseconds = timedelta(**by) // timedelta(milliseconds=1)
    return replace(SYSTEM_CLOCK, wall_ms=lambda: SYSTEM_CLOCK.wall_ms() + milliseconds)


async def node_ids(client: Client) -> set[str]:
    return {node.node_id for node in await client.list_nodes()}


@pytest.mark.asyncio
@pytest.mark.parametrize("role", ["worker", "master"])
async def test_a_join_waits_for_a_port_in_use_before_it_uses_up_its_token(
    cluster: LocalCluster, client: Client, tmp_path: Path, role: str
) -> None:
    token = (await client.create_join_token(role)).token
    before = await node_ids(client)
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running = asyncio.create_task(
            join(cluster, tmp_path / "n", token, bind=address, on_busy=told.append)
        )
        # The enrolment port may ask it to wait as well, on a busy machine.
        busy = f"something listens on {address} already, see --bind"
        while busy not in told and not running.done():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert await node_ids(client) == before
        assert not running.done()
    made = await running
    assert told.count(busy) == 1
    assert await node_ids(client) == {*before, made.node_id}
    await client.remove_node(made.node_id)


@pytest.mark.asyncio
async def test_a_join_waits_for_a_port_no_longer_than_its_token_is_good(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    token = (await client.create_join_token("worker", ttl=timedelta(seconds=2))).token
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = await refusal(cluster, tmp_path / "n", token, bind=address)
    assert error.reason is Reason.PORT_IN_USE
    assert "unused" in error.message
    assert not (tmp_path / "n").exists()


@pytest.mark.asyncio
async def test_what_can_be_known_before_uses_up_no_token(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    token = (await client.create_join_token("worker")).token
    home = tmp_path / "n"
    error = await refusal(cluster, home, token, bind="0.0.0.0:0")
    assert error.reason is Reason.CONFIG_INVALID
    assert "--advertise" in error.message
    error = await refusal(cluster, home, token, bind="192.0.2.1:9", advertise=("192.0.2.1:9",))
    assert error.reason is Reason.CONFIG_INVALID
    assert "can't listen on 192.0.2.1:9" in error.message
    error = await refusal(cluster, home, token, clock=ahead(minutes=10))
    assert error.reason is Reason.CONFIG_INVALID
    assert "600 s ahead of the cluster's" in error.message
    error = await refusal(cluster, home, token, clock=ahead(days=2))
    assert error.reason is Reason.CERTIFICATE_INVALID
    assert "the clock here says" in error.message
    assert not home.exists()
    # A place where nothing can be written.
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        await join(cluster, tmp_path / "file" / "n", token)
    made = await join(cluster, home, token)
    assert made.node_id in await node_ids(client)


@pytest.mark.asyncio
async def test_a_client_joins_whatever_listens_here(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    token = (await client.create_join_token("client")).token
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        made = await join(cluster, tmp_path / "c", token, bind=address)
    assert made.role == "client"
    home = Home(tmp_path / "c")
    assert home.is_taken
    assert not home.begun.exists()
    with pytest.raises(ClusterError, match="it holds a client's identity"):
        home.check()


@pytest.mark.asyncio
@pytest.mark.parametrize("stopped_in", ["write_keys", "save_masters", "write_settings"])
async def test_a_join_that_was_stopped_once_it_was_let_in_goes_on_with_the_same_identity(
    cluster: LocalCluster,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_in: str,
) -> None:
    token = (await client.create_join_token("master")).token
    before, home = await node_ids(client), Home(tmp_path / "n")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(joining, stopped_in, stop)
        with pytest.raises(KeyboardInterrupt):
            await join(cluster, home.path, token)
    [let_in] = await node_ids(client) - before
    with pytest.raises(ClusterError, match="did not finish; run it again"):
        home.check()
    error = await refusal(cluster, home.path, token, name="other")
    assert error.reason is Reason.INVALID_ARGUMENT
    assert "a join as n at 127.0.0.1:0 was begun" in error.message
    made = await join(cluster, home.path, token)
    assert made.node_id == let_in
    assert await node_ids(client) == {*before, let_in}
    home.check()
    assert load_settings(home.config, environment={}).node.role == "master"
    assert not home.begun.exists()
    assert (await refusal(cluster, tmp_path / "m", token)).reason is Reason.TOKEN_USED
    await client.remove_node(let_in)


@pytest.mark.asyncio
async def test_a_join_waits_while_the_masters_port_is_asked_by_too_many(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    token = (await client.create_join_token("worker")).token
    ca_pem = cluster.profile.ca.read_bytes()
    told: list[str] = []
    async with open_channel(
        f"127.0.0.1:{cluster.enrolment_port}", tls=None, ca_pem=ca_pem
    ) as channel:
        for _ in range(ENROLMENT_BURST + 2):
            with suppress(grpc.aio.AioRpcError):
                await EnrolmentServiceStub(channel).Enrol(enrolment_pb2.EnrolRequest(), timeout=5)
    made = await join(cluster, tmp_path / "n", token, on_busy=told.append)
    assert told == [f"127.0.0.1:{cluster.enrolment_port} is busy"]
    assert made.node_id in await node_ids(client)

"""The only master asks at its own addresses whether a copy of it, or what it is a copy of, runs."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.net.channels import Target
from ipfs_cluster_node.adapters.net.tls import ServerTls, bind_port, make_server
from ipfs_cluster_node.cli.local_cluster import LocalCluster
from ipfs_cluster_node.cluster.peers import save_masters
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.boots import UNKNOWN
from ipfs_cluster_node.core.endpoints import Endpoint
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.node import duplicates
from ipfs_cluster_node.node.duplicates import ANSWER_SECONDS_MAX, ASK_AGAIN_SECONDS, DuplicateCheck
from ipfs_cluster_node.node.files import load_files
from ipfs_cluster_node.node.node import Node
from ipfs_cluster_node.node.setup import init_cluster
from ipfs_cluster_node.v1 import health_pb2_grpc
from ipfs_cluster_node.v1.health_pb2 import GetHealthResponse
from tests.support.tls import Member, certified, enrol, make_ca
from tests.support.virtual_time import loop_clock, monotonic, virtual_time

HERE = NodeId("here")
OWN, OTHER = 5, 6
OLD, NEW = "old:1", "new:1"
NOBODY = ClusterError(Reason.UNREACHABLE, "connection refused")


class Addresses:
    """The answers, by address; an address that is missing drops what it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, GetHealthResponse | ClusterError] = {}
        self.asked: list[str] = []
        self.votes_alone = True
        self.began = monotonic()
        monkeypatch.setattr(duplicates, "ask_health", self._ask)
        tls: Any = None
        self.duplicates = DuplicateCheck(
            node_id=HERE,
            boot=OWN,
            addresses=lambda: [OLD, NEW],
            votes_alone=lambda: self.votes_alone,
            tls=lambda: tls,
        )

    def process(self, address: str, boot: int) -> None:
        self.answers[address] = GetHealthResponse(boot=boot)

    async def _ask(
        self, target: Target, _tls: object, *, timeout: float
    ) -> GetHealthResponse | ClusterError:
        address, node_id = target
        assert node_id == HERE  # With TLS no other node can answer.
        self.asked.append(address)
        if address not in self.answers:
            await asyncio.sleep(timeout)
            return ClusterError(Reason.DEADLINE_EXCEEDED, "no answer")
        return self.answers[address]

    async def reason(self) -> Reason | None:
        try:
            await self.duplicates.check()
        except ClusterError as error:
            assert f"{HERE} runs already at {OLD}" in error.message
            return error.reason
        return None


@virtual_time
async def test_the_only_master_leads_where_nobody_else_answers_at_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Addresses(monkeypatch)
    world.answers[OLD] = NOBODY
    world.process(NEW, OWN)
    assert await world.reason() is None
    assert monotonic() == world.began
    assert sorted(world.asked) == [NEW, OLD]


@virtual_time
@pytest.mark.parametrize("boot", [OTHER, UNKNOWN])
async def test_it_does_not_lead_where_another_process_of_its_identity_answers(
    monkeypatch: pytest.MonkeyPatch, boot: int
) -> None:
    world = Addresses(monkeypatch)
    world.process(OLD, boot)
    world.process(NEW, OWN)
    assert await world.reason() is Reason.MEMBER_RUNS_TWICE


@virtual_time
async def test_an_address_that_says_nothing_holds_a_start_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Addresses(monkeypatch)
    assert await world.reason() is None
    assert monotonic() - world.began == ANSWER_SECONDS_MAX


@virtual_time
async def test_a_refusal_at_an_address_says_nothing_of_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Addresses(monkeypatch)
    world.answers[OLD] = ClusterError(Reason.OVERLOADED, "too many calls")
    world.answers[NEW] = ClusterError(Reason.INVALID_ARGUMENT, "no address")
    assert await world.reason() is None


@virtual_time
async def test_one_of_several_masters_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Addresses(monkeypatch)
    world.votes_alone = False
    world.process(OLD, OTHER)
    assert await world.reason() is None
    assert world.asked == []


@virtual_time
@pytest.mark.parametrize("off", [False, True])
async def test_a_copy_ends_once_the_process_that_was_stopped_or_off_answers_again(
    monkeypatch: pytest.MonkeyPatch, *, off: bool
) -> None:
    world = Addresses(monkeypatch)
    if off:
        world.answers[OLD] = NOBODY
    world.process(NEW, OWN)
    assert await world.reason() is None
    running = asyncio.ensure_future(world.duplicates.run())
    await asyncio.sleep(100)
    world.process(OLD, OTHER)
    with pytest.raises(ClusterError, match=f"runs already at {OLD}"):
        async with asyncio.timeout(ANSWER_SECONDS_MAX + ASK_AGAIN_SECONDS + 0.1):
            await running
    assert world.asked.count(NEW) == 1  # It is itself there.


class Answering(health_pb2_grpc.HealthServiceServicer):
    async def GetHealth(self, request: Any, context: Any) -> GetHealthResponse:
        return GetHealthResponse(boot=OTHER)


@asynccontextmanager
async def answering(tls: ServerTls) -> AsyncIterator[str]:
    """A server that says what another process would; its address."""
    server = make_server()
    health_pb2_grpc.add_HealthServiceServicer_to_server(Answering(), server)
    port = bind_port(server, Endpoint("127.0.0.1", 0), tls.credentials, flag="--bind")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.asyncio
async def test_only_who_proves_the_same_identity_in_tls_counts() -> None:
    """Another member, or whoever has made an authority of the same name, stops no master."""
    ca = make_ca()
    own, member = enrol(ca), enrol(ca)
    forged = certified(make_ca(), own.identity)
    for shown, counts in ((own.tls, True), (member.tls, False), (forged.tls, False)):
        async with answering(ServerTls(shown, mutual=True)) as address:
            asking = duplicate_check_of(own, [address, "no address"])
            if counts:
                with pytest.raises(ClusterError, match=f"runs already at {address}"):
                    await asking.check()
            else:
                await asking.check()


@pytest.mark.asyncio
async def test_what_speaks_no_tls_holds_a_start_for_a_bounded_time() -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
            ports = [each.getsockname()[1] for each in (silent, server.sockets[0])]
            asking = duplicate_check_of(enrol(make_ca()), [f"127.0.0.1:{port}" for port in ports])
            async with asyncio.timeout(2 * ANSWER_SECONDS_MAX):
                await asking.check()


@pytest.mark.timeout(30)
@pytest.mark.asyncio
async def test_a_master_asks_before_it_serves(tmp_path: Path) -> None:
    place = LocalCluster(tmp_path).make_node("master")
    home, bind = place.home, place.address
    enrolment_bind = f"127.0.0.1:{place.enrolment_port}"
    where = NodeSection(name="m1", role="master", bind=bind, enrolment_bind=enrolment_bind)
    init_cluster(home, where, cluster_name="c")
    async with answering(ServerTls(load_files(home).tls, mutual=True)) as address:
        save_masters(home.masters, {load_files(home).identity.node_id: (bind, address)})
        node = Node(home, load_settings(home.config), clock=loop_clock())
        with pytest.raises(ClusterError, match=f"{node.node_id} runs already at {address}"):
            await node.run(lambda _bound: pytest.fail("it serves"))
    assert not node._member.consensus.has_state  # It never led.


def duplicate_check_of(own: Member, addresses: list[str]) -> DuplicateCheck:
    return DuplicateCheck(
        node_id=own.identity.node_id,
        boot=OWN,
        addresses=lambda: addresses,
        votes_alone=lambda: True,
        tls=lambda: own.tls,
    )

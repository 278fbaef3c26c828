"""Whole nodes under a simulated clock, each with a wall clock of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection, load_settings
from ipfs_cluster_node.core.clocks import Verdict
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.model import Role
from ipfs_cluster_node.node import joining
from ipfs_cluster_node.node.joining import join_cluster
from ipfs_cluster_node.node.node import Node
from ipfs_cluster_node.node.setup import init_cluster
from tests.support.memory_net import MemoryNet
from tests.support.virtual_time import virtual_loop, virtual_time

DAY = 86_400.0
LEASE_SECONDS_MAX = 10.0


@asynccontextmanager
async def running(home: Home, clock: Clock) -> AsyncIterator[Node]:
    node = Node(home, load_settings(home.config), clock=clock)
    ready = asyncio.Event()
    task = asyncio.create_task(node.run(lambda _bound: ready.set()))
    try:
        first = asyncio.create_task(ready.wait())
        await asyncio.wait((task, first), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield node
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def join(master: Node, home: Home, clock: Clock, patch: pytest.MonkeyPatch) -> None:
    members = master._member.members
    minted = await members.create_join_token(
        role=Role.LEECHER,
        ttl=None,
        uses_max=1,
        addresses=(),
        grant="",
        needs_approval=False,
        caller=Did(""),
        request_id="",
    )

    async def bundle(*_: Any, **__: Any) -> bytes:
        return master._common.certificate.tls.ca_pem

    patch.setattr(joining, "fetch_trust_bundle", bundle)
    settings = NodeSection(
        name="second",
        role="leecher",
        bind="127.0.0.1:9196",
        enrolment_bind="127.0.0.1:9197",
    )
    await join_cluster(
        home,
        settings,
        token=minted.text,
        enrolment="127.0.0.1:9097",
        check_ports=False,
        clock=clock,
    )


@virtual_time
async def test_two_nodes_judge_by_their_own_clocks_and_agree_on_the_clusters_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MemoryNet(monkeypatch)
    loop, ahead = virtual_loop(), [0.0]
    right, own = loop.clock(lambda: 0.0), loop.clock(lambda: ahead[0])
    first, second = Home(tmp_path / "first"), Home(tmp_path / "second")
    settings = NodeSection(
        name="first", role="master", bind="127.0.0.1:9096", enrolment_bind="127.0.0.1:9097"
    )
    init_cluster(
        first,
        settings,
        cluster_name="c",
        recovery_passphrase="a passphrase of the tests",
        clock=right,
    )
    async with AsyncExitStack() as nodes, AsyncExitStack() as leader:
        master = await leader.enter_async_context(running(first, right))
        await asyncio.sleep(20)  # It leads, and its clock was steady for long enough to sign.
        await join(master, second, own, monkeypatch)
        node = await nodes.enter_async_context(running(second, own))
        await asyncio.sleep(5)
        uplink = node._member.uplink
        assert uplink.lease_holds
        ahead[0] = DAY
        await asyncio.sleep(5)
        # The other's time is told with each heartbeat.
        check = next(c for c in node.health.get_health().checks if c.name == "clock")
        assert check.degraded
        assert f"{DAY:.0f} s ahead" in check.detail
        assert own.wall_ms() - right.wall_ms() == DAY * 1000
        assert abs(node._member.clock.now_ms() - right.wall_ms()) <= 10
        # By its own wall clock alone its certificate would have ended.
        assert node._common.certificate.is_good
        assert own.wall() > node._common.certificate._not_after - timedelta(minutes=10)
        assert master._member.clock.judge().verdict is Verdict.TRUSTED
        assert master.health.get_health().time.ToMilliseconds() == right.wall_ms()
        assert uplink.lease_holds
        # A lease ends by clocks that nobody sets: by this wall clock it would last for another day.
        ahead[0] = -DAY
        await leader.aclose()
        await asyncio.sleep(LEASE_SECONDS_MAX)
        assert uplink.lease_seconds_left < 0
    assert loop.time() < 120

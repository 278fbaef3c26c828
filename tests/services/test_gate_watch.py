"""Rechecking running streams delays nothing else, and is little work."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass, Permissions
from ipfs_cluster_node.access.context import Ending as Until
from ipfs_cluster_node.access.permissions import DelegatedPermissions, Unrestricted
from ipfs_cluster_node.access.rules import Rule
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.chain import Claim, ProvenClaim
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.services import gate as gate_module
from ipfs_cluster_node.services.gate import WATCHED_A_TURN, Gate, _Running
from tests.support.calls import Anything
from tests.support.claims import validation_context
from tests.support.ucan import CLUSTER, actor
from tests.support.virtual_time import loop_clock

ALICE = actor(1).did
CLIENT = Caller(ALICE, CallerClass.CLIENT)
RULE = Rule(callers=frozenset({CallerClass.CLIENT}))
READ = Command("/task/read")
CONTEXT: Any = None


def access_until(until_s: int | None) -> Access:
    claim = Claim(issuer=ALICE, subject=CLUSTER.did, command=READ, args={})
    return Access(claim, validation_context(), {}, (), until_s, ProvenClaim(claim=claim, chain=()))


@pytest.mark.asyncio
async def test_streams_are_checked_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once once kept the log waiting for most of a second, twice a second."""
    monkeypatch.setattr(gate_module, "WATCH_SECONDS", 0.01)
    renewed, between, over = 0, [0], asyncio.Event()

    class Counted(Unrestricted):
        async def renew(self) -> None:
            nonlocal renewed
            renewed += 1
            between[-1] += 1
            if renewed == 500:
                over.set()

    gate = Gate(lambda _context: CLIENT, Anything(), clock=loop_clock())
    task: asyncio.Task[Any] = asyncio.create_task(asyncio.sleep(60))
    gate._running.update(
        _Running(task, CONTEXT, RULE, Counted(CLIENT), Until()) for _ in range(500)
    )
    watch = asyncio.create_task(gate.watch())
    while not over.is_set():
        await asyncio.sleep(0)
        between.append(0)
    for each in (watch, task):
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each
    assert max(between) <= WATCHED_A_TURN


@pytest.mark.asyncio
async def test_a_stream_that_ends_while_others_are_checked_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate_module, "WATCH_SECONDS", 0.01)
    gate = Gate(lambda _context: CLIENT, Anything(), clock=loop_clock())
    checked: list[Permissions] = []

    class Ending(Unrestricted):
        async def renew(self) -> None:
            checked.append(self)
            # Streams that have ended by the next turn are skipped.
            gate._running.clear()

    task: asyncio.Task[Any] = asyncio.create_task(asyncio.sleep(60))
    for _ in range(3 * WATCHED_A_TURN):
        gate._running.add(_Running(task, CONTEXT, RULE, Ending(CLIENT), Until()))
    watch = asyncio.create_task(gate.watch())
    await asyncio.sleep(0.1)
    for each in (watch, task):
        each.cancel()
        with suppress(asyncio.CancelledError):
            await each
    assert len(checked) == 1


@pytest.mark.asyncio
async def test_a_reach_is_judged_anew_only_when_something_changed() -> None:
    found: list[Command] = []
    now_s, version, holds = [1000], [1], [True]

    def find(command: Command) -> Access:
        found.append(command)
        if not holds[0]:
            raise UcanError(Refusal.REVOKED, "revoked")
        return access_until(now_s[0] + 60)

    permissions = DelegatedPermissions(
        CLIENT, READ, {READ: find(READ)}, find, lambda: now_s[0], cache_key=lambda: version[0]
    )
    found.clear()
    for _ in range(10):
        await permissions.renew()
    assert len(found) == 1
    now_s[0] += 60  # The end of what was used.
    await permissions.renew()
    await permissions.renew()
    assert len(found) == 2
    version[0] += 1
    holds[0] = False
    with pytest.raises(ClusterError):
        await permissions.renew()
    with pytest.raises(ClusterError):
        await permissions.renew()

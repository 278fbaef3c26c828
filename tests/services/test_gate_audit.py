"""No call changes anything without a record."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass
from ipfs_cluster_node.access.rules import Rule
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.audit import AuditLog, AuditQuery, AuditRecord, Outcome
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.services import gate as gate_module
from ipfs_cluster_node.services.gate import Gate
from tests.support.calls import Anything
from tests.support.tls import enrol, make_ca, serving
from tests.support.virtual_time import loop_clock

CLIENT = Caller(enrol(make_ca()).identity.did, CallerClass.CLIENT)
CHANGES = Rule(callers=frozenset({CallerClass.CLIENT}), changes=True)


class Kept(AuditLog):
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def record(self, record: AuditRecord) -> None:
        self.records.append(record)

    async def read(self, query: AuditQuery) -> list[AuditRecord]:
        raise NotImplementedError


@pytest.mark.asyncio
@pytest.mark.parametrize("ended_by", ["cancel", "deadline"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
async def test_a_call_that_ends_before_its_answer_is_noted(kind: str, ended_by: str) -> None:
    """Once a caller that cancelled could change things without a record."""
    audit, begun, committed = Kept(), asyncio.Event(), asyncio.Event()

    async def change(_request: Any, _context: Any) -> bytes:
        begun.set()

        async def commit() -> None:
            async with asyncio.timeout(5):
                while not audit.records:
                    await asyncio.sleep(0.01)
            committed.set()

        await asyncio.shield(asyncio.create_task(commit()))
        return b""

    async def requests() -> AsyncIterator[bytes]:
        yield b"x"

    gate = Gate(
        lambda _context: CLIENT, Anything(), {"/t/Change": CHANGES}, audit, clock=loop_clock()
    )
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    gate.add_registered_method_handlers("t", {"Change": make(change, request_deserializer=bytes)})
    async with serving(gate) as channel:
        ask: Any = getattr(channel, kind)("/t/Change")
        given = b"x" if kind == "unary_unary" else requests()
        call = ask(given, timeout=1 if ended_by == "deadline" else 10)
        await begun.wait()
        if ended_by == "cancel":
            call.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call
        await asyncio.wait_for(committed.wait(), 5)
    [record] = audit.records
    assert (record.caller, record.outcome) == (CLIENT.did, Outcome.FAILED)
    assert record.reason.startswith("UNKNOWN_OUTCOME")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [(True, Outcome.FAILED, "UNKNOWN_OUTCOME"), (False, Outcome.DENIED, "CALLER_UNKNOWN")],
)
async def test_an_upload_that_the_node_ends_is_noted_once(
    monkeypatch: pytest.MonkeyPatch, *, changes: bool, outcome: Outcome, reason: str
) -> None:
    """At once, if the gate is told to check now; otherwise in a minute."""
    monkeypatch.setattr(gate_module, "WATCH_SECONDS", 60)
    audit, removed = Kept(), asyncio.Event()

    def identify(_context: Any) -> Caller:
        if removed.is_set():
            raise ClusterError(Reason.CALLER_UNKNOWN, "removed meanwhile")
        return CLIENT

    async def take(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        removed.set()
        gate.recheck_now()
        return b"".join([request async for request in requests])

    async def requests() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(10)

    rule = replace(CHANGES, changes=changes)
    gate = Gate(identify, Anything(), {"/t/Take": rule}, audit, clock=loop_clock())
    handler: Any = grpc.stream_unary_rpc_method_handler(take, request_deserializer=bytes)
    gate.add_registered_method_handlers("t", {"Take": handler})
    watch = asyncio.create_task(gate.watch())
    try:
        async with serving(gate) as channel:
            given: Any = requests()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stream_unary("/t/Take")(given, timeout=10)
            assert error_from_rpc(caught.value).reason is Reason.CALLER_UNKNOWN
    finally:
        watch.cancel()
    [record] = audit.records
    assert (record.caller, record.outcome) == (CLIENT.did, outcome)
    assert record.reason.startswith(reason)
    assert "removed meanwhile" in record.reason

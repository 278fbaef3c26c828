"""Deadlines of calls, and their records."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest

from ipfs_cluster_node.access.context import (
    Caller,
    CallerClass,
    Permissions,
    current_caller,
    current_ending,
    current_permissions,
    current_reading,
)
from ipfs_cluster_node.access.permissions import Unrestricted
from ipfs_cluster_node.access.rules import Rule
from ipfs_cluster_node.access.turns import Turns, current_turn
from ipfs_cluster_node.codec.metadata import CONSISTENCY_KEY
from ipfs_cluster_node.core.audit import AuditQuery, AuditRecord
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.services import gate
from ipfs_cluster_node.services.gate import Gate
from tests.support.calls import AbortedError, Anything, Context
from tests.support.tls import enrol, make_ca
from tests.support.virtual_time import loop_clock, monotonic

SERVICE = "ipfs_cluster_node.v1.ContentService"
CLIENT = Caller(enrol(make_ca()).identity.did, CallerClass.CLIENT)


class Details:
    method = f"/{SERVICE}/AddContent"


async def slow(_request: Any, _context: Any) -> str:
    await asyncio.sleep(0.2)
    return "done"


async def some() -> AsyncIterator[bytes]:
    yield b"first"


async def call(make: Any, seconds: float | None) -> str:
    guarded = Gate(lambda _context: CLIENT, Anything(), clock=loop_clock())
    guarded.add_registered_method_handlers(SERVICE, {"AddContent": make(slow)})
    handler = guarded.service(Details())  # type: ignore[arg-type]
    if handler.unary_unary:
        answer: str = await handler.unary_unary(b"first", Context(seconds))
        return answer
    return await uploaded(guarded, some(), seconds)


async def uploaded(guarded: Gate, sent: AsyncIterator[bytes], seconds: float | None = None) -> str:
    context = Context(seconds)
    await guarded.service(Details()).stream_stream(sent, context)  # type: ignore[arg-type]
    [answer] = context.written
    return str(answer)


@pytest.mark.asyncio
async def test_an_upload_has_its_callers_time_and_other_calls_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uploads were once limited to ten minutes, and to thirty seconds without a deadline."""
    monkeypatch.setattr(gate, "UNARY_TIME_SECONDS_MAX", 0.05)
    monkeypatch.setattr(gate, "UNARY_TIME_SECONDS_DEFAULT", 0.05)
    for seconds in (None, 60.0):
        with pytest.raises(AbortedError, match="DEADLINE_EXCEEDED"):
            await call(grpc.unary_unary_rpc_method_handler, seconds)
        assert await call(grpc.stream_unary_rpc_method_handler, seconds) == "done"


async def never() -> AsyncIterator[bytes]:
    await asyncio.sleep(60)
    yield b"too late"


@pytest.mark.asyncio
async def test_an_upload_that_never_begins_ends_soon_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "FIRST_REQUEST_SECONDS_MAX", 0.05)
    rule = Rule(callers=frozenset({CallerClass.CLIENT}), command=Command("/content/add"))
    guarded = Gate(lambda _: CLIENT, Anything(), {Details.method: rule}, clock=loop_clock())
    guarded.add_registered_method_handlers(
        SERVICE, {"AddContent": grpc.stream_unary_rpc_method_handler(slow)}
    )
    with pytest.raises(AbortedError, match="DEADLINE_EXCEEDED"):
        await asyncio.wait_for(uploaded(guarded, never()), 10)
    assert await uploaded(guarded, some()) == "done"
    assert not guarded._running


@pytest.mark.asyncio
async def test_nothing_is_awaited_of_an_upload_whose_caller_may_send_none() -> None:
    rule = Rule(callers=frozenset({CallerClass.MASTER}), command=Command("/content/add"))
    guarded = Gate(lambda _: CLIENT, Anything(), {Details.method: rule}, clock=loop_clock())
    guarded.add_registered_method_handlers(
        SERVICE, {"AddContent": grpc.stream_unary_rpc_method_handler(slow)}
    )
    with pytest.raises(AbortedError, match="PERMISSION_DENIED"):
        await asyncio.wait_for(uploaded(guarded, never()), 5)


@pytest.mark.asyncio
async def test_the_work_of_a_call_takes_turns_with_others_at_the_same_node() -> None:
    turns, seen = Turns(monotonic), []

    async def looks(_request: Any, _context: Any) -> str:
        seen.append(current_turn())
        return "done"

    guarded = Gate(lambda _: CLIENT, Anything(), turns=turns, clock=loop_clock())
    guarded.add_registered_method_handlers(
        SERVICE, {"AddContent": grpc.unary_unary_rpc_method_handler(looks)}
    )
    handler = guarded.service(Details())  # type: ignore[arg-type]
    await handler.unary_unary(b"", Context(60.0))
    [turn] = seen
    assert (turn._turns, turn._caller) == (turns, CLIENT.did)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", list(CallerClass))
async def test_a_call_in_a_crowd_waits_for_its_turn_unless_a_node_makes_it(
    kind: CallerClass,
) -> None:
    """Calls that all begin at once must not delay consensus and heartbeats."""
    waited = []

    class Crowded(Turns):
        def crowded(self) -> bool:
            return True

        async def next(self, caller: str) -> float:
            waited.append(caller)
            return await super().next(caller)

    caller = Caller(CLIENT.did, kind)
    rule = Rule(callers=frozenset(CallerClass))
    guarded = Gate(
        lambda _: caller,
        Anything(),
        {Details.method: rule},
        turns=Crowded(monotonic),
        clock=loop_clock(),
    )
    guarded.add_registered_method_handlers(
        SERVICE, {"AddContent": grpc.unary_unary_rpc_method_handler(slow)}
    )
    handler = guarded.service(Details())  # type: ignore[arg-type]
    assert await handler.unary_unary(b"", Context(60.0)) == "done"
    assert waited == ([] if kind in (CallerClass.MASTER, CallerClass.NODE) else [caller.did])


def test_a_method_without_a_rule_is_not_served() -> None:
    guarded = Gate(lambda _context: CLIENT, Anything(), clock=loop_clock())
    with pytest.raises(ValueError, match="has no rule"):
        guarded.add_registered_method_handlers(
            SERVICE, {"NewMethod": grpc.unary_unary_rpc_method_handler(slow)}
        )


class Noted:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def record(self, record: AuditRecord) -> None:
        self.outcomes.append(record.outcome.value)

    async def read(self, query: AuditQuery) -> Sequence[AuditRecord]:
        return []


class Streaming(Context):
    def __init__(self, noted: Noted, *, reads: bool = True) -> None:
        super().__init__(None)
        self.noted, self.reads = noted, reads
        self.written: list[tuple[str, list[str]]] = []
        """What came, and what was noted until then."""

    async def write(self, response: str) -> None:
        self.written.append((response, list(self.noted.outcomes)))
        if not self.reads:
            await asyncio.sleep(60)

    def peer(self) -> str:
        return "somebody"

    def set_trailing_metadata(self, _metadata: object) -> None:
        pass


def streaming(
    behaviour: Callable[..., AsyncIterator[str]], rule: Rule, noted: Noted
) -> tuple[Gate, Callable[..., Awaitable[None]]]:
    guarded = Gate(
        lambda _context: CLIENT, Anything(), {Details.method: rule}, noted, clock=loop_clock()
    )
    handler: Any = grpc.unary_stream_rpc_method_handler(behaviour)
    guarded.add_registered_method_handlers(SERVICE, {"AddContent": handler})
    served = guarded.service(Details())  # type: ignore[arg-type]
    return guarded, served.unary_stream


@pytest.mark.asyncio
async def test_a_stream_that_is_not_read_ends_when_its_time_is_over() -> None:
    """Otherwise a caller that stops reading would keep what the call holds."""

    async def endless(_request: Any, _context: Any) -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(60)

    rule = Rule(callers=frozenset({CallerClass.CLIENT}), seconds_max=0.1)
    for reads in (True, False):
        noted = Noted()
        guarded, stream = streaming(endless, rule, noted)
        watching = asyncio.create_task(guarded.watch())
        call = stream(b"request", Streaming(noted, reads=reads))
        with pytest.raises(AbortedError, match="DEADLINE_EXCEEDED"):
            await asyncio.wait_for(asyncio.ensure_future(call), 10)
        watching.cancel()


@pytest.mark.asyncio
async def test_a_call_itself_may_say_when_it_ends_and_take_that_back() -> None:
    """As a watch does while it sends a snapshot: it can't look at the time while nobody reads."""
    ended: list[str] = []
    for takes_back in (False, True):

        async def sends(_request: Any, _context: Any, *, back: bool = takes_back) -> Any:
            ending = current_ending()
            before, ending.at = ending.at, asyncio.get_running_loop().time() + 0.1
            if back:
                ending.at = before
            yield "first"
            await asyncio.sleep(1 if back else 60)
            ended.append("by itself")

        noted = Noted()
        guarded, stream = streaming(sends, Rule(callers=frozenset({CallerClass.CLIENT})), noted)
        watching = asyncio.create_task(guarded.watch())
        call = asyncio.ensure_future(stream(b"request", Streaming(noted, reads=True)))
        if takes_back:
            await asyncio.wait_for(call, 10)
        else:
            with pytest.raises(AbortedError, match="DEADLINE_EXCEEDED"):
                await asyncio.wait_for(call, 10)
        watching.cancel()
    assert ended == ["by itself"]


@pytest.mark.asyncio
@pytest.mark.parametrize("changes", [True, False])
async def test_a_stream_that_is_audited_is_noted_with_its_first_answer(changes: bool) -> None:  # noqa: FBT001
    """A caller that cancels has read what came until then."""

    async def three(request: bytes, _context: Any) -> AsyncIterator[str]:
        if request == b"elsewhere":
            raise ClusterError(Reason.NOT_LEADER, "ask another")
        for each in ("one", "two", "three"):
            yield each
        if request == b"broken":
            raise ClusterError(Reason.DEADLINE_EXCEEDED, "too slow")

    noted = Noted()
    rule = Rule(callers=frozenset({CallerClass.CLIENT}), changes=changes)
    _, stream = streaming(three, rule, noted)
    whole = Streaming(noted)
    await stream(b"whole", whole)
    allowed = ["allowed"] * changes
    # Before it is sent.
    assert whole.written == [("one", allowed), ("two", allowed), ("three", allowed)]
    with pytest.raises(AbortedError):
        await stream(b"elsewhere", Streaming(noted))
    assert noted.outcomes == allowed
    with pytest.raises(AbortedError):
        await stream(b"broken", Streaming(noted))
    assert noted.outcomes == ["allowed", "allowed", "failed"] * changes


@pytest.mark.asyncio
async def test_a_method_has_what_was_decided_of_its_own_call() -> None:
    decided: list[Permissions] = []
    seen: list[tuple[Permissions, Caller, bool]] = []

    class Decides:
        async def decide(self, caller: Caller, *_: object) -> Permissions:
            decided.append(Unrestricted(caller, (str(len(decided)),)))
            return decided[-1]

    class Stale(Context):
        def invocation_metadata(self) -> Any:
            return ((CONSISTENCY_KEY, "stale"),)

    async def looks(_request: Any, _context: Any) -> str:
        seen.append((current_permissions(), current_caller(), current_reading().stale))
        return "done"

    guarded = Gate(lambda _: CLIENT, Decides(), clock=loop_clock())
    guarded.add_registered_method_handlers(
        SERVICE, {"AddContent": grpc.unary_unary_rpc_method_handler(looks)}
    )
    handler = guarded.service(Details())  # type: ignore[arg-type]
    for context in (Context(), Stale(), Context()):
        assert await handler.unary_unary(b"", context) == "done"
    assert seen == [
        (permissions, CLIENT, stale)
        for permissions, stale in zip(decided, (False, True, False), strict=True)
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("removed", [True, False])
async def test_a_stream_ends_at_once_when_its_caller_is_no_member_or_of_another_class(
    monkeypatch: pytest.MonkeyPatch,
    removed: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(gate, "WATCH_SECONDS", 60.0)
    changed = asyncio.Event()

    def identify(_context: Any) -> Caller:
        if not changed.is_set():
            return CLIENT
        if removed:
            raise ClusterError(Reason.CALLER_UNKNOWN, "no member")
        return Caller(CLIENT.did, CallerClass.NODE)

    async def endless(_request: Any, _context: Any) -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(60)

    rule = Rule(callers=frozenset({CallerClass.CLIENT}))
    guarded = Gate(identify, Anything(), {Details.method: rule}, clock=loop_clock())
    handler: Any = grpc.unary_stream_rpc_method_handler(endless)
    guarded.add_registered_method_handlers(SERVICE, {"AddContent": handler})
    served = guarded.service(Details())  # type: ignore[arg-type]
    context = Streaming(Noted())
    watching = asyncio.create_task(guarded.watch())
    call = asyncio.ensure_future(served.unary_stream(b"request", context))
    while not context.written:
        await asyncio.sleep(0.01)
    changed.set()
    guarded.recheck_now()
    with pytest.raises(AbortedError, match="UNAUTHENTICATED" if removed else "PERMISSION_DENIED"):
        await asyncio.wait_for(call, 10)
    watching.cancel()

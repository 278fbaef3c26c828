"""Which master is tried next, and streams that break during a write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from ipfs_cluster_node.client.connection import Connection, _last_refusal, send_all
from ipfs_cluster_node.core.errors import ClusterError, Leader, Reason
from tests.support.tls import enrol, make_ca

Operation = Callable[[grpc.aio.Channel, float], Awaitable[str]]


def connection() -> Connection:
    return Connection([("127.0.0.1:1", None), ("127.0.0.1:2", None)], enrol(make_ca()).tls)


def fails_first(fault: Callable[[], None]) -> Operation:
    tried: list[bool] = []

    async def operation(_channel: grpc.aio.Channel, _seconds: float) -> str:
        if not tried:
            tried.append(True)
            fault()
        return "done"

    return operation


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), asyncio.InvalidStateError(), grpc.aio.UsageError()]
)
async def test_what_grpc_raises_when_a_call_ends_is_a_broken_connection(
    error: BaseException,
) -> None:
    def fault() -> None:
        raise error

    opened = connection()
    assert await opened.following(fails_first(fault), timeout=5) == "done"
    await opened.close()


@pytest.mark.asyncio
async def test_who_cancels_is_obeyed() -> None:
    async def waits(_channel: grpc.aio.Channel, _seconds: float) -> None:
        await asyncio.Event().wait()

    opened = connection()
    task = asyncio.create_task(opened.following(waits, timeout=5))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await opened.close()


@pytest.mark.asyncio
async def test_a_master_that_was_forgotten_meanwhile_is_no_fault() -> None:
    opened = connection()

    def fault() -> None:
        opened.learn([("127.0.0.1:3", None)])
        raise ClusterError(Reason.UNREACHABLE, "gone")

    assert await opened.following(fails_first(fault), timeout=5) == "done"
    await opened.close()


@pytest.mark.asyncio
async def test_a_node_that_believes_in_a_dead_leader_traps_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once it and the dead one sent callers to each other although there was a leader."""
    dead, believes, leads = (f"127.0.0.1:{port}" for port in (1, 2, 3))
    opened = Connection([(a, None) for a in (dead, believes, leads)], enrol(make_ca()).tls)
    monkeypatch.setattr(opened, "channel", lambda target: target[0])
    asked: list[str] = []

    async def operation(address: object, _seconds: float) -> str:
        asked.append(str(address))
        if address == dead:
            raise ClusterError(Reason.UNREACHABLE, "refused")
        if address == believes:
            named = Leader("12D3KooDead", (dead,))
            raise ClusterError(Reason.NOT_LEADER, "ask the dead one", leader=named)
        return "done"

    assert await opened.following(operation, timeout=5) == "done"
    assert asked == [dead, believes, leads]


class Call:
    """A client-streaming call that is over after some writes."""

    def __init__(self, writes_max: int, end: BaseException | str) -> None:
        self.left, self.end, self.cancelled = writes_max, end, False

    async def write(self, _request: object) -> None:
        if not self.left:
            raise asyncio.InvalidStateError
        self.left -= 1

    async def done_writing(self) -> None:
        pass

    def add_done_callback(self, _callback: object) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self):  # type: ignore[no-untyped-def]
        async def answer() -> str:
            if isinstance(self.end, BaseException):
                raise self.end
            return self.end

        return answer().__await__()


async def requests(fails: Exception | None = None) -> AsyncIterator[int]:
    yield 1
    yield 2
    if fails is not None:
        raise fails


@pytest.mark.asyncio
async def test_a_call_that_is_over_early_says_why() -> None:
    assert await send_all(Call(9, "ok"), requests()) == "ok"
    with pytest.raises(ClusterError) as caught:
        await send_all(Call(1, asyncio.CancelledError()), requests())
    assert caught.value.reason is Reason.UNREACHABLE


@pytest.mark.asyncio
async def test_a_source_that_fails_is_seen_and_nothing_taken_for_the_whole() -> None:
    call = Call(9, "ok")
    with pytest.raises(OSError, match="the disk"):
        await send_all(call, requests(OSError("the disk")))
    assert call.cancelled


@pytest.mark.asyncio
async def test_what_a_node_said_is_told_and_not_that_another_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once this was random: "no master answers", although one had said that nobody leads."""
    alive, gone = "127.0.0.1:1", "127.0.0.1:2"
    opened = Connection([(alive, None), (gone, None)], enrol(make_ca()).tls)
    monkeypatch.setattr(opened, "channel", lambda target: target[0])

    async def ask(address: object, _seconds: float) -> None:
        if address == gone:
            raise ClusterError(Reason.UNREACHABLE, "connection refused")
        raise ClusterError(Reason.NO_LEADER, "no master leads now")

    for number in range(20):
        with pytest.raises(ClusterError) as caught:
            await opened.following(ask, timeout=0.02 * (number % 10) + 0.1)
        assert caught.value.reason is Reason.NO_LEADER


@pytest.mark.parametrize(
    ("error", "seconds", "told"),
    [
        (Reason.NO_LEADER, 0.1, Reason.NO_LEADER),
        (Reason.UNREACHABLE, 0.1, Reason.OVERLOADED),  # Of another node.
        (Reason.DEADLINE_EXCEEDED, 0.01, Reason.OVERLOADED),  # It had no time.
        (Reason.DEADLINE_EXCEEDED, 2.0, None),
        (Reason.NOT_LEADER, 0.1, None),
    ],
)
def test_who_said_last_why_it_cant(error: Reason, seconds: float, told: Reason | None) -> None:
    one, other = ("127.0.0.1:1", None), ("127.0.0.1:2", None)
    before = (one, ClusterError(Reason.OVERLOADED, "busy"))
    said = _last_refusal(before, other, ClusterError(error, "x"), seconds=seconds)
    assert (None if said is None else said[1].reason) == told
    gone = ClusterError(Reason.UNREACHABLE, "gone")
    assert _last_refusal(before, one, gone, seconds=0.1) is None

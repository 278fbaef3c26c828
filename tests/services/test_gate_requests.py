"""The cost of a request before its caller is authorized."""

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import grpc
import pytest

from ipfs_cluster_node.access.context import Caller, CallerClass, Permissions
from ipfs_cluster_node.access.permissions import Unrestricted
from ipfs_cluster_node.access.rules import Rule
from ipfs_cluster_node.adapters.net.tls import MESSAGE_BYTES_MAX
from ipfs_cluster_node.codec.errors import error_from_rpc
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.services.gate import Gate
from ipfs_cluster_node.services.requests import ELEMENTS_MAX, Requests
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from ipfs_cluster_node.worker.v1 import worker_pb2
from tests.support.tls import enrol, make_ca, serving
from tests.support.virtual_time import loop_clock

CALLS = 5
CLIENT = Caller(enrol(make_ca()).identity.did, CallerClass.CLIENT)
RULE = Rule(callers=frozenset({CallerClass.CLIENT}), command=Command("/task/submit"))
KINDS = ("unary_unary", "unary_stream", "stream_unary")


class Decides:
    def __init__(self, *, allows: bool) -> None:
        self.allows = allows

    async def decide(self, caller: Caller, *_: object) -> Permissions:
        if not self.allows:
            raise ClusterError(Reason.NOT_DELEGATED, "nothing was delegated to you")
        return Unrestricted(caller)


class Held:
    """A request that is counted while it is alive."""

    alive: ClassVar[WeakSet["Held"]] = WeakSet()

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.alive.add(self)


async def refusing(_request: Any, _context: Any) -> bytes:
    raise ClusterError(Reason.TASK_TYPE_UNKNOWN, "nobody runs such tasks")


async def refusing_stream(_request: Any, _context: Any) -> AsyncIterator[bytes]:
    if _context is None:
        yield b""
    raise ClusterError(Reason.TASK_TYPE_UNKNOWN, "nobody runs such tasks")


def gate_of(kind: str, rule: Rule, decides: Decides, read: Any, behaviour: Any = None) -> Gate:
    gate = Gate(lambda _context: CLIENT, decides, {"/t/Do": rule}, clock=loop_clock())
    behaviour = behaviour or (refusing_stream if kind == "unary_stream" else refusing)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    gate.add_registered_method_handlers("t", {"Do": make(behaviour, request_deserializer=read)})
    return gate


async def refusal(channel: grpc.aio.Channel, kind: str, data: bytes = b"x") -> ClusterError:
    """What a call ends with, by a caller whose uploads never end."""

    async def requests() -> AsyncIterator[bytes]:
        yield data
        await asyncio.sleep(60)

    ask: Any = getattr(channel, kind)("/t/Do")
    call = ask(requests() if kind == "stream_unary" else data, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if kind == "unary_stream" else call)
    assert caught.value.trailing_metadata()
    return error_from_rpc(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("allows", [True, False])
async def test_nothing_of_a_refused_call_is_left_for_the_cyclic_collector(
    kind: str, *, allows: bool
) -> None:
    """Each refused request was kept with what aborted it: 240 MiB a call, until gc came by."""
    gate = gate_of(kind, RULE, Decides(allows=allows), Held)
    reason = Reason.TASK_TYPE_UNKNOWN if allows else Reason.NOT_DELEGATED
    async with serving(gate) as channel:
        gc.collect()
        gc.disable()
        try:
            for _ in range(CALLS):
                assert (await refusal(channel, kind)).reason is reason
            async with asyncio.timeout(5):
                while Held.alive:
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [*KINDS, "stream_stream"])
async def test_nothing_is_read_for_a_caller_of_another_class(kind: str) -> None:
    read: list[bytes] = []
    command = None if kind == "stream_stream" else RULE.command
    rule = Rule(callers=frozenset({CallerClass.MASTER}), command=command)
    gate = gate_of(kind, rule, Decides(allows=True), read.append)
    async with serving(gate) as channel:
        if kind == "stream_stream":
            ask: Any = channel.stream_stream("/t/Do")
            call = ask(timeout=10)
            with pytest.raises(grpc.aio.AioRpcError, match="may not call"):
                await call.read()
        else:
            assert (await refusal(channel, kind)).reason is Reason.CALLER_NOT_ALLOWED
    assert not read


def memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_small_message_of_millions_of_elements_is_refused_unread(kind: str) -> None:
    """Four megabytes became 240, and blocked the loop for a quarter of a second."""
    data = b"\x12\x00" * (MESSAGE_BYTES_MAX // 2 - 100)
    gate = gate_of(kind, RULE, Decides(allows=False), pb.SubmitTasksRequest.FromString)
    async with serving(gate) as channel:
        await refusal(channel, kind)  # What a first call takes.
        before = memory_bytes()
        for _ in range(2):
            refused = await refusal(channel, kind, data)
            assert refused.reason is Reason.PAYLOAD_TOO_LARGE
            assert str(ELEMENTS_MAX) in str(refused)
        assert memory_bytes() - before < 100 * 2**20


@pytest.mark.asyncio
async def test_every_message_of_a_stream_is_counted_and_parsed_in_its_turn() -> None:
    seen: list[str] = []

    async def take(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            seen.append(request.WhichOneof("message"))
            yield b""

    for bad, reason in (
        (b"\x1a" + b"\x80\x80\x10" + b"\x0a\x00" * 2**17, Reason.PAYLOAD_TOO_LARGE),
        (b"\xff", Reason.INVALID_ARGUMENT),
    ):
        seen.clear()
        rule = Rule(callers=frozenset({CallerClass.CLIENT}))
        read = worker_pb2.WorkerSessionRequest.FromString
        gate = gate_of("stream_stream", rule, Decides(allows=True), read, take)
        good = worker_pb2.WorkerSessionRequest(hello=worker_pb2.WorkerHello()).SerializeToString()
        async with serving(gate) as channel:
            ask: Any = channel.stream_stream("/t/Do")
            call = ask(timeout=10)
            for data in (good, bad):
                await call.write(data)
            assert await call.read() == b""
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        assert error_from_rpc(caught.value).reason is reason
        assert seen == ["hello"]


@pytest.mark.asyncio
async def test_a_stream_begins_with_the_message_by_which_it_was_judged() -> None:
    async def rest() -> AsyncIterator[bytes]:
        for data in (b"b", b"c"):
            yield data

    assert [each async for each in Requests(bytes.upper, rest(), b"A")] == [b"A", b"B", b"C"]
    assert [each async for each in Requests(bytes.upper, rest())] == [b"B", b"C"]


@pytest.mark.asyncio
async def test_the_servicer_gets_the_value_that_was_judged() -> None:
    """A request is decoded once; one that stays a message is not touched."""
    seen: list[Any] = []

    class Sees(Decides):
        async def decide(self, caller: Caller, *asked: object) -> Permissions:
            seen.append(asked[1])
            return await super().decide(caller, *asked)

    async def served(request: Any, _context: Any) -> bytes:
        seen.append(request)
        return b""

    def decode(message: pb.SubmitTaskRequest) -> list[str]:
        return [message.request_id]

    data = pb.SubmitTaskRequest(request_id="r").SerializeToString()
    for rule in (RULE, replace(RULE, decode=decode)):
        gate = gate_of(
            "unary_unary", rule, Sees(allows=True), pb.SubmitTaskRequest.FromString, served
        )
        async with serving(gate) as channel:
            ask: Any = channel.unary_unary("/t/Do")
            await ask(data, timeout=10)
    assert [type(each) for each in seen] == [pb.SubmitTaskRequest] * 2 + [list] * 2
    assert seen[0] is seen[1]
    assert seen[2] is seen[3]
    assert seen[2] == ["r"]


@pytest.mark.asyncio
async def test_a_refused_upload_gets_an_error_and_no_message() -> None:
    """Java's stub for uploads takes an empty message before the error for the answer."""
    gate = gate_of("stream_unary", RULE, Decides(allows=False), Held)
    async with serving(gate) as channel:

        async def requests() -> AsyncIterator[bytes]:
            yield b"x"

        given: Any = requests()
        call: Any = channel.stream_stream("/t/Do")(given, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert error_from_rpc(caught.value).reason is Reason.NOT_DELEGATED

"""Whole nodes in one process, without sockets: a call goes straight to the gate of the one called.

gRPC works in threads that no loop's clock holds up, so that under virtual time every deadline would
be over before an answer came. Here calls are awaited like any other coroutine. It carries
unary calls and bidirectional streams: joining, heartbeats, health, and the log of several masters.
"""

import asyncio
from types import SimpleNamespace
from typing import Any, Final

import grpc
import pytest

from ipfs_cluster_node.access.identify import TLS_VERSION
from ipfs_cluster_node.adapters.net import channels
from ipfs_cluster_node.adapters.raft.writer import Writer
from ipfs_cluster_node.node import channels as node_channels
from ipfs_cluster_node.node import health_calls, joining, node
from ipfs_cluster_node.node.parts import master
from tests.support.virtual_time import virtual_loop

HOP_SECONDS: Final = 0.001
"""One way."""


class Server:
    """In place of a gRPC server."""

    def __init__(self, **_options: Any) -> None:
        self.handlers: list[Any] = []
        self.runs = False
        self.streams: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self.handlers += handlers

    async def start(self) -> None:
        self.runs = True

    async def stop(self, _grace: float) -> None:
        self.runs = False
        for stream in self.streams:
            stream.cancel()


class Context:
    """A call as the gate sees it."""

    def __init__(self, certificate_pem: bytes | None, metadata: Any, seconds: float | None) -> None:
        self._certificate, self._metadata, self._seconds = certificate_pem, metadata, seconds
        self.code, self.details = grpc.StatusCode.OK, ""
        self.trailing: tuple[tuple[str, Any], ...] = ()
        self.write: Any = None

    def auth_context(self) -> dict[str, list[bytes]]:
        if self._certificate is None:
            return {}
        return {"x509_pem_cert": [self._certificate], "ssl_tls_version": [TLS_VERSION.encode()]}

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._seconds

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = metadata


def _failed(code: grpc.StatusCode, details: str, trailing: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details
    )


class Channel:
    """To one address, with the caller's certificate."""

    def __init__(self, net: "MemoryNet", address: str, certificate_pem: bytes | None) -> None:
        self._net, self._address, self._certificate = net, address, certificate_pem

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> Any:
        async def call(
            request: Any, timeout: float | None = None, metadata: Any = (), **_: Any
        ) -> Any:
            context = Context(self._certificate, tuple(metadata or ()), timeout)
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.sleep(HOP_SECONDS)
                    handler = self._net.handler(self._address, path)
                    answer = await handler.unary_unary(request_serializer(request), context)
                    await asyncio.sleep(HOP_SECONDS)
            except TimeoutError:
                raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED, "too late") from None
            if context.code is not grpc.StatusCode.OK:
                raise _failed(context.code, context.details, context.trailing)
            return response_deserializer(handler.response_serializer(answer))

        return call

    def stream_stream(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> Any:
        def call(*_: Any, **__: Any) -> "Stream":
            return Stream(
                self._net,
                (self._address, path),
                Context(self._certificate, (), None),
                request_serializer,
                response_deserializer,
            )

        return call

    def _not_carried(self, *_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            raise AssertionError("streams of one direction are not carried")

        return call

    unary_stream = stream_unary = _not_carried

    async def channel_ready(self) -> None:
        """At once."""

    async def close(self, _grace: float | None = None) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""


class Stream:
    """A call in which both sides send; it breaks when the server stops."""

    def __init__(
        self,
        net: "MemoryNet",
        place: tuple[str, str],
        context: Context,
        request_serializer: Any,
        response_deserializer: Any,
    ) -> None:
        self._net, (self._address, self._path), self._context = net, place, context
        self._encode, self._decode = request_serializer, response_deserializer
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._served = asyncio.create_task(self._serve(), name="memory-stream")

    async def write(self, request: Any) -> None:
        self._requests.put_nowait(self._encode(request))

    async def read(self) -> Any:
        answer = await self._answers.get()
        await asyncio.sleep(HOP_SECONDS)
        if isinstance(answer, grpc.aio.AioRpcError):
            raise answer
        return answer if answer is grpc.aio.EOF else self._decode(answer)

    def cancel(self) -> None:
        self._served.cancel()

    async def _serve(self) -> None:
        end: Any = _failed(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        try:
            await asyncio.sleep(HOP_SECONDS)
            handler = self._net.handler(self._address, self._path)
            streams = self._net.server(self._address).streams
            streams.add(self._served)
            self._served.add_done_callback(streams.discard)

            async def write(response: Any) -> None:
                self._answers.put_nowait(handler.response_serializer(response))

            self._context.write = write
            await handler.stream_stream(self._sent(), self._context)
            failed = self._context.code is not grpc.StatusCode.OK
            end = grpc.aio.EOF
            if failed:
                end = _failed(self._context.code, self._context.details, self._context.trailing)
        except grpc.aio.AioRpcError as error:
            end = error
        finally:
            self._answers.put_nowait(end)

    async def _sent(self) -> Any:
        while True:
            request = await self._requests.get()
            await asyncio.sleep(HOP_SECONDS)
            yield request


def _held(method: Any) -> Any:
    """The same, with the loop's clock held: the writer has a thread of its own."""

    async def held(*args: Any) -> Any:
        with virtual_loop().real_work():
            return await method(*args)

    return held


class MemoryNet:
    """The servers, by address."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._ports: dict[str, Server] = {}
        for module in (channels, node_channels, health_calls, joining):
            patch.setattr(module, "open_channel", self.open)
        for name in ("run", "stop"):
            patch.setattr(Writer, name, _held(getattr(Writer, name)))
        for serving in (node, master):
            patch.setattr(serving, "make_server", Server)
            patch.setattr(serving, "bind_port", self._bind)

    def handler(self, address: str, path: str) -> Any:
        server = self._ports.get(address)
        if server is None or not server.runs:
            raise _failed(grpc.StatusCode.UNAVAILABLE, "nobody listens there")
        found = (each.service(SimpleNamespace(method=path)) for each in server.handlers)
        return next(handler for handler in found if handler is not None)

    def server(self, address: str) -> Server:
        return self._ports[address]

    def _bind(self, server: Server, endpoint: Any, _credentials: Any, *, flag: str) -> None:
        self._ports[str(endpoint)] = server

    def open(self, address: str, *, tls: Any, **_options: Any) -> Channel:
        return Channel(self, address, None if tls is None else tls.certificate_pem)

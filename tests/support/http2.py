"""HTTP/2 by hand, for what no library sends. Source: RFC 9113; RFC 7541, 6.2.2."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

from ipfs_cluster_node.cli.local_cluster import LocalNode
from ipfs_cluster_node.config.profiles import Profile

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
CANCEL, REFUSED_STREAM = 8, 7
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_MESSAGE: Final = bytes(5)
"""Of gRPC."""


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def literal(name: bytes, value: bytes) -> bytes:
    """One header, not indexed, without Huffman coding."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def headers_of(method: str) -> bytes:
    """The headers of a call, in a block."""
    headers = [
        (b":method", b"POST"), (b":scheme", b"https"), (b":path", method.encode()),
        (b":authority", b"localhost"), (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]  # fmt: skip
    return b"".join(literal(name, value) for name, value in headers)


def call(method: str, stream: int) -> bytes:
    """A whole call with an empty message."""
    opened = frame(HEADERS, END_HEADERS, stream, headers_of(method))
    return opened + frame(DATA, END_STREAM, stream, EMPTY_MESSAGE)


class RawConnection:
    """A connection to a node; what comes on it is kept."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.frames: list[Frame] = []
        self.came = asyncio.Event()
        self.closed = False

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                came = Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
                self.frames.append(came)
                if came.kind == SETTINGS and not came.flags & ACK:
                    self._writer.write(frame(SETTINGS, ACK, 0, b""))
                self.came.set()
        self.closed = True
        self.came.set()

    async def until(self, kinds: Sequence[int], *, count: int, seconds: float) -> list[Frame]:
        """Wait for so many frames of these kinds, or the end; returns those that came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.closed and len(self.of(kinds)) < count:
                    self.came.clear()
                    await self.came.wait()
        return self.of(kinds)

    def of(self, kinds: Sequence[int]) -> list[Frame]:
        return [each for each in self.frames if each.kind in kinds]


@asynccontextmanager
async def raw_connection(node: LocalNode, profile: Profile) -> AsyncIterator[RawConnection]:
    """Connect as a client, and exchange settings."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(profile.ca)
    context.load_cert_chain(profile.certificate, profile.key)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(node.host, node.port, ssl=context)
    connection = RawConnection(writer)
    reading = asyncio.create_task(connection.read(reader))
    try:
        await connection.send(PREFACE + frame(SETTINGS, 0, 0, b""))
        assert await connection.until([SETTINGS], count=2, seconds=5), "no settings came"
        yield connection
    finally:
        writer.transport.abort()
        await reading

"""The request message of a method, by its full name, and its parsing; the answer of an upload."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Self

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ipfs_cluster_node.codec.elements import count_elements
from ipfs_cluster_node.core.errors import ClusterError, Reason, invalid_field

ELEMENTS_MAX: Final = 32_768
"""In one request. Its fields have lower bounds of their own: the largest submission has about
26,000 elements."""
UNCOUNTED_BYTES_MAX: Final = 64 * 1024
"""Requests up to this size are not counted, so that ordinary calls cost nothing."""

_POOL = descriptor_pool.Default()  # type: ignore[no-untyped-call]

Read = Callable[[bytes], Any]


def request_type_of(method: str) -> Any | None:
    """The class of a method's request; None for an unknown method."""
    _, service, name = method.split("/")
    try:
        described = _POOL.FindServiceByName(service).FindMethodByName(name)
    except KeyError:
        return None
    return message_factory.GetMessageClass(described.input_type)


def read_request(kind: Any, data: bytes, field: str = "message") -> Any:
    """Parse a request of a message class; errors call it `field`.

    Raises:
        ClusterError: PAYLOAD_TOO_LARGE beyond `ELEMENTS_MAX`, before anything is built;
            INVALID_ARGUMENT if the bytes are not such a message.
    """
    try:
        if (
            len(data) > UNCOUNTED_BYTES_MAX
            and count_elements(data, kind.DESCRIPTOR, ELEMENTS_MAX) > ELEMENTS_MAX
        ):
            raise ClusterError(
                Reason.PAYLOAD_TOO_LARGE,
                f"a request has at most {ELEMENTS_MAX} elements in all its lists together; "
                "send several",
            )
        return kind.FromString(data)
    except (DecodeError, ValueError):
        raise invalid_field(field, f"not a {kind.DESCRIPTOR.full_name}") from None


def reader_of(deserialize: Read | None, decode: Callable[[Any], Any] | None = None) -> Read:
    """Parses like a generated handler's deserializer, within the bound of elements.

    Without one, the bytes are passed on. `decode` converts the message to the value that is judged
    and served.
    """
    if deserialize is None:
        return bytes
    kind = getattr(deserialize, "__self__", None)
    if not hasattr(kind, "DESCRIPTOR"):
        return deserialize
    if decode is None:
        return lambda data: read_request(kind, data)
    return lambda data: decode(read_request(kind, data))


class Requests:
    """A stream's requests, each parsed when it is read."""

    __slots__ = ("_first", "_read", "_rest")

    def __init__(self, read: Read, rest: AsyncIterator[bytes], first: Any = None) -> None:
        """Give `first`, if it was parsed already, then the others."""
        self._first, self._read, self._rest = first, read, rest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._read(await self._rest.__anext__())


def written(upload: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[None]]:
    """The same, with its answer written here.

    When a refused call returns, gRPC would send an empty message before the error, and Java's only
    stub for uploads hands that to its caller.
    """

    async def call(incoming: AsyncIterator[bytes], context: Any) -> None:
        response = await upload(incoming, context)
        if response is not None:
            await context.write(response)

    return call

"""Takes the first call that a command would make, instead of making it."""

from collections.abc import Callable
from typing import Any, NoReturn

from ipfs_cluster_node.client.client import Client
from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.lookups import Lookups


class CapturedCall(Exception):  # noqa: N818  # Not an error: the expected outcome.
    """The call that would be made."""

    def __init__(self, method: str, request: bytes) -> None:
        """Take the full name of the method and the serialised request."""
        super().__init__(method)
        self.method = method
        self.request = request


class CapturingConnection(Connection):
    """Replaces the connection of a client that must not call anything."""

    def __init__(self) -> None:
        super().__init__((), None)

    async def following(self, operation: Callable[..., Any], **_: Any) -> NoReturn:
        """Take the first call of the operation."""
        await operation(_Channel(), 1.0)
        raise AssertionError("an operation that did not call")


def capturing_client(opened: Callable[[], Any]) -> Client:
    """A client that makes no call, but looks up names and beginnings of ids.

    Lookups are no part of what is captured: they are made with the rights of the client that
    `opened` opens for each, and have no effects.
    """
    client = Client(CapturingConnection())
    client.lookups = Lookups(_OpenedForEach(opened))
    return client


class _OpenedForEach:
    """A client's lists, for which it is opened only when one is needed."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._opened = opened

    def __getattr__(self, name: str) -> Any:
        async def call(**options: Any) -> Any:
            async with self._opened() as client:
                return await getattr(client, name)(**options)

        return call


class _Channel:
    """The part of a channel that stubs use."""

    def _multicallable(self, method: str, request_serializer: Any, **_: Any) -> Any:
        def call(request: Any, **_: Any) -> NoReturn:
            raise CapturedCall(method, request_serializer(request))

        return call

    def _upload(self, method: str, request_serializer: Any, **_: Any) -> Any:
        return lambda **_: _CapturedUpload(method, request_serializer)

    unary_unary = unary_stream = _multicallable
    stream_unary = stream_stream = _upload


class _CapturedUpload:
    """A call that is judged by the first message written to it."""

    def __init__(self, method: str, serialize: Callable[[Any], bytes]) -> None:
        self._method, self._serialize = method, serialize

    async def write(self, request: Any) -> NoReturn:
        raise CapturedCall(self._method, self._serialize(request))

    def add_done_callback(self, _callback: Any) -> None:
        """It never ends."""

    def cancel(self) -> None:
        """Nothing was begun."""

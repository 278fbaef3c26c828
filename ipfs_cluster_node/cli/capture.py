"""Takes the first call that a command would make, instead of making it."""

from collections.abc import Callable
from typing import Any, NoReturn

from ipfs_cluster_node.client.connection import Connection


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

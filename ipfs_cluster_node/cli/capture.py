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
        """Start without endpoints."""
        super().__init__((), None)

    async def unary(self, method: Callable[..., Any], request: Any, **_: Any) -> NoReturn:
        """Take the call."""
        method(_Channel())(request)
        raise AssertionError("a stub that did not call")

    async def following(self, operation: Callable[..., Any], **_: Any) -> NoReturn:
        """Take the first call of the operation."""
        await operation(_Channel(), 1.0)
        raise AssertionError("an operation that did not call")


class _Channel:
    """The part of a channel that stubs use."""

    def _multicallable(self, method: str, request_serializer: Any, **_: Any) -> Any:
        def call(request: Any = None, **_: Any) -> NoReturn:
            raise CapturedCall(method, b"" if request is None else request_serializer(request))

        return call

    unary_unary = unary_stream = stream_unary = stream_stream = _multicallable

"""Shared by the parts of the client: single calls, and lists page by page."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Final

from ipfs_cluster_node.client.connection import Connection

TIMEOUT_DEFAULT: Final = timedelta(seconds=30)
PAGE_SIZE: Final = 1000


class Calls(ABC):
    """A part of `Client`: the operations of one service."""

    _connection: Connection

    @abstractmethod
    async def _unary(self, stub: Any, method: str, request: Any, timeout: timedelta) -> Any:
        """Call a method of a stub's class at the leader; `Client` does."""

    async def _pages(
        self, stub: Any, method: str, request_of: Callable[[str], Any], timeout: timedelta
    ) -> AsyncIterator[Any]:
        """Every page of a list; `request_of` makes the request for a page token."""
        token = ""
        while True:
            page = await self._unary(stub, method, request_of(token), timeout)
            yield page
            token = page.next_page_token
            if not token:
                return

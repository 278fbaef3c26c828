"""Shared by the parts of the client: single calls, and lists page by page."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

from ipfs_cluster_node.client.connection import Connection
from ipfs_cluster_node.client.lookups import Lookups

TIMEOUT_DEFAULT: Final = timedelta(seconds=30)
PAGE_SIZE: Final = 1000

T = TypeVar("T")


class Calls(ABC):
    """A part of `Client`: the operations of one service."""

    _connection: Connection
    lookups: Lookups

    @abstractmethod
    async def _unary(self, request: Any, timeout: timedelta) -> Any:
        """Call the method that takes `request` at the leader; `Client` does."""

    @abstractmethod
    def _note_answer(self) -> None:
        """Take note that a master has answered; `Client` does."""

    async def _list(
        self,
        request: Any,
        items: str,
        decode: Callable[[Any], T],
        timeout: timedelta,
        limit: int | None = None,
    ) -> list[T]:
        """All items of a list, or the first `limit`; see `listed`."""
        return await listed(lambda: self._unary(request, timeout), request, items, decode, limit)


async def listed(
    ask: Callable[[], Awaitable[Any]],
    request: Any,
    items: str,
    decode: Callable[[Any], T],
    limit: int | None = None,
) -> list[T]:
    """Ask for page after page, and decode the items of the answers' field `items`.

    `request`, which `ask` sends, has the list's filter; its page is set here.
    """
    found: list[T] = []
    while limit is None or len(found) < limit:
        request.page_size = PAGE_SIZE if limit is None else min(PAGE_SIZE, limit - len(found))
        page = await ask()
        found += map(decode, getattr(page, items))
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    return found

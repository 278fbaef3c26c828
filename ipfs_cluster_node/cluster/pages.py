"""Pages of lists, limited by the requested size and by the size of a message."""

import sys
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from ipfs_cluster_node.access.turns import current_turn
from ipfs_cluster_node.adapters.net.tls import MESSAGE_BYTES_MAX
from ipfs_cluster_node.codec.pages import Page
from ipfs_cluster_node.core.errors import ClusterError, Reason

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""Of the encoded items of one answer: a page ends before the item that would exceed it."""
ITEM_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 64 * 1024
"""A larger item than `PAGE_BYTES_MAX` is a page of its own, up to this size: a message has room for
it, its page token and the answer's other fields."""

Item = TypeVar("Item", bound=Any)


async def page_of_items(
    items: Iterable[tuple[Item | None, object] | None],
    page: Page,
    *,
    scanned_max: int = sys.maxsize,
) -> tuple[list[Item], str]:
    """The items of a page, and the token of the next page, empty if nothing follows.

    The iterable must tolerate changes to everything else between two of its items.

    Args:
        items: Messages in the order of the list, each with its key; Nones are left out.
        page: The page.
        scanned_max: The page ends once so many items were looked at. Then each has its key, also
            where None stands for a message that is left out.

    Raises:
        ClusterError: PAYLOAD_TOO_LARGE: the next item alone exceeds `ITEM_BYTES_MAX`;
            `next_page_token` in the metadata goes on after it.
    """
    turn = current_turn()
    shown: list[Item] = []
    shown_bytes = 0
    last: object = ""
    for number, each in enumerate(items):
        if number >= scanned_max:
            return shown, page.token_after(last)
        if each is not None:
            item, key = each
            if item is None:
                last = key
                if turn.over:
                    await turn.next()
                continue
            item_bytes = item.ByteSize()
            if len(shown) == page.size or (shown and shown_bytes + item_bytes > PAGE_BYTES_MAX):
                return shown, page.token_after(last)
            if item_bytes > ITEM_BYTES_MAX:
                token = page.token_after(key)
                raise ClusterError(
                    Reason.PAYLOAD_TOO_LARGE,
                    f"{key} has {item_bytes} bytes, more than a message holds; the page token "
                    f"{token} goes on after it",
                    metadata={"next_page_token": token},
                )
            shown.append(item)
            shown_bytes += item_bytes
            last = key
        if turn.over:
            await turn.next()
    return shown, ""

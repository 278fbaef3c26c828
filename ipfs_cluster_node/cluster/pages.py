"""Pages of lists, limited by the requested size and by the size of a message."""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from ipfs_cluster_node.access.turns import current_turn

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""Of the encoded items of one answer: a page that reaches it ends early, and names the next one.
Half of what a message may have; no single item comes near the other half."""

Item = TypeVar("Item", bound=Any)


async def page_of_items(
    items: Iterable[tuple[Item, object] | None], size: int
) -> tuple[list[Item], str]:
    """The first items, and the token of the next page, empty if nothing follows.

    The iterable must tolerate changes to everything else between two of its items.

    Args:
        items: Messages in the order of the list, each with its page token; Nones are left out.
        size: Most items.
    """
    turn = current_turn()
    shown: list[Item] = []
    shown_bytes = 0
    last: object = ""
    for each in items:
        if each is not None:
            item, token = each
            item_bytes = item.ByteSize()
            if len(shown) == size or (shown and shown_bytes + item_bytes > PAGE_BYTES_MAX):
                return shown, str(last)
            shown.append(item)
            shown_bytes += item_bytes
            last = token
        if turn.over:
            await turn.next()
    return shown, ""

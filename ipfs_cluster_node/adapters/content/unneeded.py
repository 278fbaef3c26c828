"""Finds the blocks of a store that no named file has. All of it blocks; callers use a thread."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.multiformats import RAW, Cid
from ipfs_cluster_node.core.unixfs import Part, Walk


def reachable(root: Cid, store: BlockStore, count_max: int) -> tuple[list[Cid], bool]:
    """Blocks of a file as far as its nodes are here, at most so many; and whether that is all."""
    blocks = list(islice(_blocks(root, store, []), count_max + 1))
    return blocks[:count_max], len(blocks) <= count_max


def discard_blocks(candidates: set[Cid], roots: Iterable[Cid], store: BlockStore) -> dict[Cid, Cid]:
    """Remove the blocks of files from a set.

    Returns:
        By file, the first of its inner nodes that is not here: blocks below it are not known.

    Raises:
        ClusterError: OVERLOADED if a block can't be read now; what is left in the set then may be
            of files.
    """
    incomplete: dict[Cid, Cid] = {}
    for root in roots:
        missing: list[Cid] = []
        candidates.difference_update(_blocks(root, store, missing))
        if missing:
            incomplete[root] = missing[0]
    return incomplete


def _blocks(root: Cid, store: BlockStore, missing: list[Cid]) -> Iterator[Cid]:
    """Each block of a file, here or not; nothing below a node that is missing or no file.

    Raises:
        ClusterError: OVERLOADED if a block can't be read now: the blocks so far are not all.
    """
    parts = Walk(root)
    while True:
        window: list[Part] = []
        with suppress(ClusterError):  # It is no file, and can't be read, whatever its blocks.
            window = parts.take(1)
        if not window:
            return
        [part] = window
        yield part.cid
        if part.cid.codec == RAW:
            continue
        data = store.get(part.cid)
        if data is None:
            missing.append(part.cid)
            continue
        try:
            parts.open(part, data)
        except ClusterError:  # Malformed, or no file, as above.
            return

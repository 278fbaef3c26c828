"""Finds the blocks of a store that no named file has. All of it blocks; callers use a thread."""

from array import array
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.multiformats import RAW, Cid
from ipfs_cluster_node.core.unixfs import Part, Walk

KEY_BYTES: Final = 8
"""Of a block's digest. Two blocks with the same key are taken for one: one too many is kept."""
KNOWN_BLOCKS_MAX: Final = 8 * 1024 * 1024
"""Blocks that are remembered, in 64 MiB: those of 2 TiB of large files. Other files are walked."""


def _key(cid: Cid) -> int:
    return int.from_bytes(cid.digest[:KEY_BYTES], "big")


class KnownFiles:
    """The blocks of files that were walked as a whole: a CID names the same ones for ever.

    So a file is read once, and its blocks stay known if a node of it is damaged later.
    """

    def __init__(self, blocks_max: int = KNOWN_BLOCKS_MAX) -> None:
        """Remember so many blocks at most; `room` is how many more."""
        self.room = blocks_max
        self._keys: dict[Cid, array[int]] = {}

    def keys_of(self, root: Cid) -> "array[int] | None":
        """The keys of all blocks of a file; None if it is not known."""
        return self._keys.get(root)

    def learn(self, root: Cid, keys: "array[int]") -> None:
        """Remember the keys of all blocks of a file, if there is room for so many."""
        if root not in self._keys and len(keys) <= self.room:
            self.room -= len(keys)
            self._keys[root] = keys

    def forget_others(self, named: Container[Cid]) -> None:
        """Forget the files that are not named any more."""
        for root in [root for root in self._keys if root not in named]:
            self.room += len(self._keys.pop(root))


class Candidates:
    """Blocks that may be unneeded; those of named files are discarded, file by file."""

    def __init__(self, cids: Iterable[Cid]) -> None:
        """Begin with `cids`."""
        self.left = set(cids)
        self._by_key: dict[int, list[Cid]] = {}
        for cid in self.left:
            self._by_key.setdefault(_key(cid), []).append(cid)
        self._leaves = {str(cid): cid for cid in self.left if cid.codec == RAW}

    def discard_leaf(self, cid: str) -> None:
        """Discard a file of a single raw block."""
        leaf = self._leaves.get(cid)
        if leaf is not None:
            self.left.discard(leaf)

    def discard_keys(self, keys: "array[int]") -> None:
        """Discard the blocks with these keys."""
        if not self._by_key.keys().isdisjoint(keys):
            for key in keys:
                self.left.difference_update(self._by_key.pop(key, ()))

    def discard_files(
        self, roots: Iterable[Cid], store: BlockStore, known: KnownFiles
    ) -> dict[Cid, Cid]:
        """Discard the blocks of files, read where they are not known.

        Returns:
            By file, the first of its inner nodes that is not here: blocks below it are not known.

        Raises:
            ClusterError: OVERLOADED if a block can't be read now; what is left may be of files.
        """
        incomplete: dict[Cid, Cid] = {}
        for root in roots:
            keys = known.keys_of(root)
            if keys is not None:
                self.discard_keys(keys)
                continue
            missing: list[Cid] = []
            keys = array("Q")
            for cid in _blocks(root, store, missing):
                self.left.discard(cid)
                if len(keys) <= known.room:
                    keys.append(_key(cid))
            if missing:
                incomplete[root] = missing[0]
            else:
                known.learn(root, keys)
        return incomplete


def reachable(root: Cid, store: BlockStore, count_max: int) -> tuple[list[Cid], bool]:
    """Blocks of a file as far as its nodes are here, at most so many; and whether that is all."""
    blocks = list(islice(_blocks(root, store, []), count_max + 1))
    return blocks[:count_max], len(blocks) <= count_max


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

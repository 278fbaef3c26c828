"""Which blocks a file has: permission to read it covers exactly these."""

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ipfs_cluster_node.adapters.content.blockstore import BlockStore
from ipfs_cluster_node.adapters.content.files import blocks_of
from ipfs_cluster_node.core.errors import ClusterError
from ipfs_cluster_node.core.multiformats import RAW, Cid

DIGEST_BYTES: Final = 32
INDEXED_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bound of the whole index, enough for 128 GiB of files; one larger file is indexed alone."""


class FileIndex:
    """The blocks of files stored here. Methods block; asyncio callers use a thread."""

    def __init__(self, store: BlockStore, *, size_bytes_max: int = INDEXED_BYTES_MAX) -> None:
        self._store = store
        self._size_bytes_max = size_bytes_max
        self._files: OrderedDict[Cid, bytes] = OrderedDict()
        """Per file its blocks' digests, sorted and concatenated; most recently used last."""
        self._lock = threading.Lock()
        """One file is walked at a time: several readers often want the same one."""

    def holds(self, root: Cid, blocks: Iterable[Cid]) -> bool:
        """Whether all of these are blocks of the file; False if it is not complete here."""
        wanted = [block.digest for block in blocks if block != root]
        if not wanted:
            return True
        if root.codec == RAW:
            return False
        with self._lock:
            digests = self._files.get(root)
            if digests is None:
                digests = self._digests_of(root)
                if digests is None:
                    return False
                self._files[root] = digests
                self._forget()
            self._files.move_to_end(root)
        return all(_is_in(digests, digest) for digest in wanted)

    def _digests_of(self, root: Cid) -> bytes | None:
        try:
            blocks = set(blocks_of(root, self._store))
        except ClusterError:
            return None  # Not a file.
        digests = {block.digest for block in blocks if block is not None}
        return None if None in blocks else b"".join(sorted(digests))

    def _forget(self) -> None:
        size_bytes = sum(map(len, self._files.values()))
        while size_bytes > self._size_bytes_max and len(self._files) > 1:
            size_bytes -= len(self._files.popitem(last=False)[1])


def _is_in(digests: bytes, digest: bytes) -> bool:
    def at(position: int) -> bytes:
        return digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

    position = bisect_left(range(len(digests) // DIGEST_BYTES), digest, key=at)
    return at(position) == digest

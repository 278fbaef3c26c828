"""Many sorted keys: added and removed one by one, iterated from any key on."""

import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final

BLOCK_KEYS_MAX: Final = 2048
"""A block larger than this is split in two."""


class SortedKeys:
    """A sorted set of strings in blocks: adding or removing one moves only those of its block."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        ordered = sorted(keys)
        size = BLOCK_KEYS_MAX // 2
        self._blocks = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        self._lasts = [block[-1] for block in self._blocks]

    def add(self, key: str) -> None:
        """Add a key that is not in the set."""
        if not self._blocks:
            self._blocks, self._lasts = [[key]], [key]
            return
        at = min(bisect_right(self._lasts, key), len(self._blocks) - 1)
        block = self._blocks[at]
        insort(block, key)
        self._lasts[at] = block[-1]
        if len(block) > BLOCK_KEYS_MAX:
            half = len(block) // 2
            self._blocks[at : at + 1] = [block[:half], block[half:]]
            self._lasts[at : at + 1] = [block[half - 1], block[-1]]

    def remove(self, key: str) -> None:
        """Remove a key that is in the set."""
        at = bisect_left(self._lasts, key)
        block = self._blocks[at]
        del block[bisect_left(block, key)]
        if block:
            self._lasts[at] = block[-1]
        else:
            del self._blocks[at], self._lasts[at]

    def after(self, key: str) -> Iterator[str]:
        """The keys after a key, in order; keys may be added or removed meanwhile."""
        while True:
            at = bisect_right(self._lasts, key)
            if at == len(self._blocks):
                return
            block = self._blocks[at]
            following = block[bisect_right(block, key) :]
            yield from following
            key = following[-1]

    def starting_with(self, prefix: str, after: str = "") -> Iterator[str]:
        """The keys that begin with a prefix, of those after a key; as `after`."""
        if not prefix:
            return self.after(after)
        last_before = prefix[:-1] + chr(ord(prefix[-1]) - 1) + chr(sys.maxunicode)
        following = self.after(max(after, last_before))
        return takewhile(lambda key: key.startswith(prefix), following)

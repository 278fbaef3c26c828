"""Blocks that may not be deleted although the log names no file that has them: not yet.

What stores blocks holds them until the log names their file. Where another master will have it
named, as for a copy put here, that is not known here: the hold lingers until the state is current
as of `SETTLED_SECONDS` after it ended. A master names what it put within `NAMED_SECONDS_MAX`, or
never.

While blocks are collected no hold is dropped: the names were read when the round began, and a file
may be named, and its hold end, after that.
"""

from dataclasses import dataclass, field
from typing import Final

from ipfs_cluster_node.core.multiformats import Cid

NAMED_SECONDS_MAX: Final = 300.0
"""From the end of a copy until the log names it, or the upload fails."""
SETTLED_SECONDS: Final = 2 * NAMED_SECONDS_MAX
"""After which a copy that the log does not name never will be, by that upload."""
MERGED_SECONDS: Final = 60.0
"""Lingering holds that end within this time are merged: there may be thousands of small files."""
LINGERING_MAX: Final = 64
"""Lingering holds; beyond it the two oldest are merged, and both held as long as the second."""
BLOCKS_HELD_MAX: Final = 262_144
"""64 GiB of leaves, some 30 MB of memory. A hold of more holds every block of the node."""


@dataclass(eq=False, slots=True)
class Hold:
    """The blocks that one operation stores, or found stored already."""

    digests: set[bytes] = field(default_factory=set)
    all: bool = False
    lingers_from: float | None = None
    """When it ended with its file perhaps not named yet, in seconds; None if that is settled."""

    def add(self, cid: Cid) -> None:
        """Hold one more block."""
        self.digests.add(cid.digest)
        self._bound()

    def merge(self, other: "Hold") -> None:
        """Hold what another one held, as long as the one that ended last."""
        self.digests |= other.digests
        self.all |= other.all
        ends = [each for each in (self.lingers_from, other.lingers_from) if each is not None]
        self.lingers_from = max(ends, default=None)
        self._bound()

    def _bound(self) -> None:
        if self.all or len(self.digests) > BLOCKS_HELD_MAX:
            self.all = True
            self.digests.clear()


class HeldBlocks:
    """Every hold on the blocks of a node."""

    def __init__(self) -> None:
        self._active: set[Hold] = set()
        self._lingering: list[tuple[float, Hold]] = []
        """With the time when each began to take others in; the newest last."""
        self._passing = Hold()
        """What holds that ended during the round that runs held."""
        self._collecting = False
        self._deleting: set[bytes] = set()

    def begin(self) -> Hold:
        """Hold blocks, none yet."""
        hold = Hold()
        self._active.add(hold)
        return hold

    def end(self, hold: Hold) -> None:
        """End a hold, which may linger."""
        self._active.remove(hold)
        ended = hold.lingers_from
        if ended is None:
            if self._collecting:
                self._passing.merge(hold)
        elif self._lingering and ended - self._lingering[-1][0] < MERGED_SECONDS:
            self._lingering[-1][1].merge(hold)
        else:
            self._lingering.append((ended, hold))
            # Where no round runs, none is dropped: they would grow without bound.
            if len(self._lingering) > LINGERING_MAX:
                self._lingering[0][1].merge(self._lingering.pop(1)[1])

    def begin_round(self, current_as_of: float) -> None:
        """Begin to collect by a state that has all that was committed until then, in seconds."""
        self._passing = Hold()
        self._collecting = True
        self._lingering = [
            (began, hold)
            for began, hold in self._lingering
            if hold.lingers_from is None or hold.lingers_from + SETTLED_SECONDS > current_as_of
        ]

    def end_round(self) -> None:
        """End what `begin_round` began."""
        self._collecting = False
        self._passing = Hold()

    def begin_deletion(self, cid: Cid) -> bool:
        """Whether a block may be deleted; then whoever holds it from now on waits for the end."""
        if self.holds(cid):
            return False
        self._deleting.add(cid.digest)
        return True

    def end_deletion(self, cid: Cid) -> None:
        """End what `begin_deletion` allowed."""
        self._deleting.discard(cid.digest)

    def is_being_deleted(self, cid: Cid) -> bool:
        """Whether who holds a block has to wait before looking for it."""
        return cid.digest in self._deleting

    def holds(self, cid: Cid) -> bool:
        """Whether a block may not be deleted."""
        return any(
            hold.all or cid.digest in hold.digests
            for hold in (*self._active, self._passing, *(hold for _, hold in self._lingering))
        )

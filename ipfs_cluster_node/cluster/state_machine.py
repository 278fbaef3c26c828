"""The state machine behind the log: decodes, applies, announces changes."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from ipfs_cluster_node.codec.commands import decode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core.effects import Answer, Effect
from ipfs_cluster_node.core.state import ClusterState
from ipfs_cluster_node.core.tables import Touched

FREEZES_MAX: Final = 10_000
"""Freezes between two collections of everything. Until then garbage that was frozen stays, some
70 MB; the collection is one long pause."""

UNFROZEN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of commands between two collections of what they left: each takes some 20 ms."""
YOUNG: Final = 1
"""The older of the collector's two young generations; the oldest may hold everything."""

EffectListener = Callable[[Effect], None]
ChangeListener = Callable[[int, Touched | None], None]
"""Takes the state's revision, and the rows that a log entry touched: all that changed, and some
perhaps that one of its commands changed back. None after a snapshot replaced the state: any row
may differ."""


class ReplicatedStateMachine:
    """Owns this node's copy of the replicated state. Runs in the event loop's thread."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.revision = 0
        """The index of the last log entry applied to the state."""
        self._effect_listeners: list[EffectListener] = []
        self._change_listeners: list[ChangeListener] = []
        self._freezes = 0
        self._unfrozen_bytes = 0

    def listen(self, *listeners: EffectListener) -> None:
        """Call these with the effects of each command; a listener must not raise."""
        self._effect_listeners += listeners

    def watch(self, *listeners: ChangeListener) -> None:
        """Call these with the changes of each log entry; a listener must not raise."""
        self._change_listeners += listeners

    def apply(self, index: int, command: bytes) -> Answer:
        """Apply a committed command."""
        outcome, effects = self.state.carry_out(decode_command(command))
        self._unfrozen_bytes += len(command)
        if self._unfrozen_bytes > UNFROZEN_BYTES_MAX:
            gc.collect(YOUNG)
            self._freeze_objects()
        for effect in effects:
            for listener in self._effect_listeners:
                listener(effect)
        return outcome

    def end_entry(self, index: int) -> None:
        """Announce what the commands of an entry changed."""
        self.revision = index
        self._announce(self.state.take_touched())

    def _announce(self, touched: Touched | None) -> None:
        for listener in self._change_listeners:
            listener(self.revision, touched)

    def freeze(self) -> Callable[[], Iterator[bytes]]:
        """Capture the state; the returned function encodes it, part by part, in a thread."""
        data = self.state.data()
        self._freeze_objects()
        return lambda: encode_snapshot(data)

    def _freeze_objects(self) -> None:
        # The present state is no garbage: the collector would scan all of it whenever it has grown
        # by a quarter, for longer than an election takes.
        self._unfrozen_bytes = 0
        self._freezes += 1
        if self._freezes % FREEZES_MAX == 0:
            gc.unfreeze()
            gc.collect()
        gc.freeze()

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        """Decode a state, in a thread; the returned function installs it."""
        with _uncollected():
            state = ClusterState(decode_snapshot(parts))

        def use() -> None:
            self.state, self.revision = state, index
            self._freeze_objects()
            self._announce(None)

        return use


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the collector: a state has no garbage, but would be scanned again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

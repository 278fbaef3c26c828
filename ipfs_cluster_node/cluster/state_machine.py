"""The state machine behind the log: decodes, applies, passes effects on."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from ipfs_cluster_node.codec.commands import decode_command
from ipfs_cluster_node.codec.snapshot import decode_snapshot, encode_snapshot
from ipfs_cluster_node.core.effects import Accepted, Effect, Rejected
from ipfs_cluster_node.core.state import ClusterState

FREEZES_MAX: Final = 10_000
"""Snapshots until garbage that was frozen is looked for: some 70 MB, and then one long pause."""

UNFROZEN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of commands that were applied since: what they left is some 20 ms of the collector's work."""
YOUNG: Final = 1
"""The older of the collector's two young generations; the oldest may hold everything."""

EffectListener = Callable[[Effect], None]


class ClusterMachine:
    """Owns this node's copy of the replicated state; all in the loop's thread."""

    def __init__(self) -> None:
        """Start empty."""
        self.state = ClusterState()
        self._listeners: list[EffectListener] = []
        self._freezes = 0
        self._unfrozen_bytes = 0

    def listen(self, listener: EffectListener) -> None:
        """Have effects carried out; a listener must not raise."""
        self._listeners.append(listener)

    def apply(self, index: int, command: bytes) -> Accepted | Rejected:
        """Carry out a committed command."""
        applied = self.state.apply(decode_command(command))
        self._unfrozen_bytes += len(command)
        if self._unfrozen_bytes > UNFROZEN_BYTES_MAX:
            gc.collect(YOUNG)
            self._freeze_objects()
        for effect in applied.effects:
            for listener in self._listeners:
                listener(effect)
        return applied.outcome

    def freeze(self) -> Callable[[], Iterator[bytes]]:
        """Take the state as of now; the returned function encodes it, part by part, in a thread."""
        data = self.state.data()
        self._freeze_objects()
        return lambda: encode_snapshot(data)

    def _freeze_objects(self) -> None:
        # What the state holds by now is no garbage: the collector would look at all of it again
        # whenever it has grown by a quarter, for longer than an election takes.
        self._unfrozen_bytes = 0
        self._freezes += 1
        if self._freezes % FREEZES_MAX == 0:
            gc.unfreeze()
            gc.collect()
        gc.freeze()

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        """Decode a state, in a thread; the returned function has it used."""
        with _uncollected():
            state = ClusterState(decode_snapshot(parts))

        def use() -> None:
            self.state = state
            self._freeze_objects()

        return use


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing of a state is garbage, but the collector would look at all of it again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

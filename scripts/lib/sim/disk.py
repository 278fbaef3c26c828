"""A disk that keeps what was synced, and of the rest what chance leaves."""

import errno
import random
from collections.abc import Callable, Iterable

PAGE_BYTES = 512
NOTES_CHOSEN = 8
"""A crash brings back one of this many last contents of a note."""


class PowerLossError(Exception):
    """The machine stopped in the middle of a call."""


class MemoryFile:
    """A file as it was when it was opened."""

    def __init__(self, data: bytes) -> None:
        """Keep the bytes."""
        self._data = data
        self.size_bytes = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read; short at the end."""
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Nothing to give up."""


class MemoryDisk:
    """The files of one node. `crash` makes of them what a power cut would."""

    def __init__(self, rng: random.Random) -> None:
        """Begin empty."""
        self._rng = rng
        self._files: dict[str, bytes] = {}
        self._synced: dict[str, int] = {}
        """How many bytes of a file are durable."""
        self._nameless: set[str] = set()
        """New files whose names are not durable."""
        self._removed: dict[str, bytes] = {}
        """Removed files, which a crash may bring back."""
        self._notes: dict[str, list[bytes]] = {}
        """Every content of a note since the last crash."""
        self.dying = False
        """Whether the power goes in the next call that syncs."""
        self.fault: Callable[[], int] = lambda: 0
        """Asked before each write and sync: the errno to fail with, or 0."""

    def names(self) -> list[str]:
        return sorted(self._files)

    def open(self, name: str) -> MemoryFile | None:
        return MemoryFile(self._files[name]) if name in self._files else None

    def read(self, name: str) -> bytes | None:
        return self._files.get(name)

    def append(self, name: str, data: bytes) -> None:
        if name not in self._files:
            self._files[name] = b""
            self._synced[name] = 0
            self._nameless.add(name)
        error = self.fault()
        if error == errno.ENOSPC:
            self._files[name] += data[: self._rng.randrange(len(data))]  # A short write first.
        self._fail(error)
        self._files[name] += data

    def sync(self, name: str) -> None:
        self._maybe_die()
        self._fail(self.fault())
        self._synced[name] = len(self._files[name])

    def note(self, name: str, data: bytes) -> None:
        self._fail(self.fault())
        self._files[name] = data
        self._synced[name] = len(data)
        self._notes.setdefault(name, [b""]).append(data)

    def replace(self, name: str, parts: Iterable[bytes]) -> None:
        data = b"".join(parts)
        if self.dying and self._rng.random() < 0.5:
            self._files[f"{name}.new"] = data[: self._rng.randrange(len(data) + 1)]
            self._synced[f"{name}.new"] = 0
            self._nameless.add(f"{name}.new")
            raise PowerLossError
        self._fail(self.fault())
        self._put(name, data)

    def rename(self, name: str, new_name: str) -> None:
        if self.dying and self._rng.random() < 0.5:
            raise PowerLossError
        self._fail(self.fault())
        data = self._files.pop(name)
        del self._synced[name]
        self._put(new_name, data)

    def _put(self, name: str, data: bytes) -> None:
        self._files[name] = data
        self._synced[name] = len(data)
        self._nameless.clear()
        self._removed.clear()  # One sync of the directory for all.
        self._maybe_die()

    def truncate(self, name: str, size_bytes: int) -> None:
        self._files[name] = self._files[name][:size_bytes]
        self._synced[name] = size_bytes

    def settle(self, name: str, offset: int) -> None:
        self._maybe_die()
        self._fail(self.fault())
        self._synced[name] = len(self._files[name])
        self._nameless.discard(name)

    def remove(self, name: str) -> None:
        if name in self._files:
            data, synced = self._files.pop(name), self._synced.pop(name)
            if name not in self._nameless:
                self._removed[name] = data[:synced]
            self._nameless.discard(name)

    def close(self) -> None:
        """Nothing to give up."""

    def copy(self) -> dict[str, bytes]:
        """A backup of all files, as they are now."""
        return dict(self._files)

    def put_back(self, copy: dict[str, bytes]) -> None:
        """Have the files of a backup, durably, and no others."""
        self._files = dict(copy)
        self._synced = {name: len(data) for name, data in copy.items()}
        self._nameless.clear()
        self._removed.clear()
        self._notes.clear()

    def kill(self) -> None:
        """The process ends, the machine goes on: what was written stays."""
        self.dying = False

    def crash(self) -> None:
        """The power goes: what was not synced is lost, torn or kept."""
        self.dying = False
        rng = self._rng
        for name in list(self._nameless):
            if rng.random() < 0.5:
                del self._files[name], self._synced[name]
        self._nameless.clear()
        for name, data in self._removed.items():
            if rng.random() < 0.5:
                self._files[name] = data
        self._removed.clear()
        for name, contents in self._notes.items():
            kept = rng.choice(contents[-NOTES_CHOSEN:])
            self._files[name], self._synced[name] = kept, len(kept)
        self._notes.clear()
        for name, data in self._files.items():
            synced = self._synced.get(name, len(data))
            self._files[name] = data[:synced] + self._remains(data[synced:])
            self._synced[name] = len(self._files[name])

    def _remains(self, tail: bytes) -> bytes:
        kind = self._rng.randrange(4)
        if kind == 0 or not tail:
            return b""
        if kind == 1:
            return tail[: self._rng.randrange(len(tail) + 1)]
        if kind == 2:
            return tail
        # The size is there, and some pages are not.
        pages = [tail[at : at + PAGE_BYTES] for at in range(0, len(tail), PAGE_BYTES)]
        return b"".join(p if self._rng.random() < 0.5 else bytes(len(p)) for p in pages)

    def _maybe_die(self) -> None:
        if self.dying:
            raise PowerLossError

    def _fail(self, error: int) -> None:
        if error:
            raise OSError(error, "asked for")

"""What the log drives, as consensus sees it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol


class StateMachine(Protocol):
    """Applies commands; its whole state can be taken and replaced."""

    def apply(self, index: int, command: bytes) -> object:
        """Carry out a committed command; the result goes to its proposer on this node."""

    def end_entry(self, index: int) -> None:
        """Take note that every command of an entry was carried out."""

    def freeze(self) -> Callable[[], Iterator[bytes]]:
        """Take the state as of now; the returned function encodes it, part by part, in a thread."""

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        """Decode what `freeze` encoded, in a thread, while `apply` goes on with the present state.

        The returned function puts the one in the place of the other, at once.
        """

"""The state machine that the log drives, as consensus sees it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol


class StateMachine(Protocol):
    """Applies commands; its whole state can be taken and replaced."""

    def apply(self, index: int, command: bytes) -> object:
        """Carry out a committed command; the result goes to its proposer on this node."""

    def end_entry(self, index: int) -> None:
        """Note that all commands of an entry have been applied."""

    def freeze(self) -> Callable[[], Iterator[bytes]]:
        """Freeze the present state; the returned function encodes it in parts, in a thread."""

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        """Decode what `freeze` encoded, in a thread, while `apply` works on the present state.

        The returned function replaces the present state with the decoded one, in one go.
        """

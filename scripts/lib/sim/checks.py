"""What must hold at every moment, whatever fails."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

PART_COMMANDS: Final = 20
"""In one part of a snapshot."""


class ViolationError(AssertionError):
    """A promise of consensus was broken."""


@dataclass
class Machine:
    """Keeps every command in order, and a digest of all so far by index."""

    commands: list[bytes] = field(default_factory=list)
    digest: bytes = b""
    index: int = 0
    checks: "Checks | None" = None

    def apply(self, index: int, command: bytes) -> object:
        """Take a command."""
        if index < self.index:
            raise ViolationError(f"index {index} applied after {self.index}")
        self.index = index
        self.commands.append(command)
        self.digest = blake2b(self.digest + command, digest_size=8).digest()
        if self.checks is not None:
            try:
                self.checks.applied(len(self.commands), index, command, self.digest)
            except ViolationError as error:
                self.checks.broken = self.checks.broken or error  # The engine goes on.
        return len(self.commands)

    def end_entry(self, index: int) -> None:
        """Take note of the end of an entry, after the commands that it holds."""
        if index < self.index:
            raise ViolationError(f"entry {index} ends after a command of {self.index}")

    def freeze(self) -> "Frozen":
        """Take the state as of now."""
        return Frozen(self.index, self.digest, list(self.commands))

    def load(self, index: int, parts: Iterable[bytes]) -> Callable[[], None]:
        """Decode a state; the returned function has it used."""
        head, *bodies = parts
        commands = [command for body in bodies for command in body.split(b"\n")]

        def use() -> None:
            self.digest, self.commands, self.index = head, commands, index

        return use


@dataclass
class Frozen:
    """A state; called, it encodes itself."""

    index: int
    digest: bytes
    commands: list[bytes]

    def __call__(self) -> Iterator[bytes]:
        """Encode."""
        yield self.digest
        for first in range(0, len(self.commands), PART_COMMANDS):
            yield b"\n".join(self.commands[first : first + PART_COMMANDS])


class Checks:
    """What all nodes of a run did, as none of them can know it."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._leaders: dict[int, str] = {}
        self._commands: list[tuple[int, bytes, bytes]] = []
        """Every command that anybody applied, in order: index, command, digest so far."""
        self.acknowledged: dict[bytes, int] = {}
        """Command to its place in the order."""
        self.acknowledged_max = 0
        self.commits = 0
        self.broken: ViolationError | None = None
        """A violation that could not be raised where it was found."""

    def leads(self, term: int, voter: str) -> None:
        """A node leads a term."""
        known = self._leaders.setdefault(term, voter)
        if known != voter:
            raise ViolationError(f"term {term} has two leaders: {known} and {voter}")

    def applied(self, place: int, index: int, command: bytes, digest: bytes) -> None:
        """A node applied a command, as the one at this place of the order."""
        if place <= len(self._commands):
            known = self._commands[place - 1]
            if known != (index, command, digest):
                raise ViolationError(
                    f"command {place} is {command!r} at {index}; it was {known[1]!r} at {known[0]}"
                )
            return
        self._commands.append((index, command, digest))
        self.commits += 1

    def restored(self, machine: Machine) -> None:
        """A node loaded a state."""
        known = [command for _, command, _ in self._commands[: len(machine.commands)]]
        if machine.commands != known:
            raise ViolationError(
                f"{len(machine.commands)} commands that are not the committed ones"
            )

    def acknowledge(self, command: bytes, place: int) -> None:
        """A client was told that its command is committed."""
        if place > len(self._commands) or self._commands[place - 1][1] != command:
            raise ViolationError(f"{command!r} is acknowledged at {place}, where it is not")
        self.acknowledged[command] = place
        self.acknowledged_max = max(self.acknowledged_max, place)

    def read(self, place: int, since: int, who: str) -> None:
        """A node that leads for sure answered a read with all up to this place.

        `since` is what was acknowledged when the read began.
        """
        if place < since:
            raise ViolationError(f"{who} read {place} commands, {since} were acknowledged")

    def finally_holds(self, machine: Machine, who: str) -> None:
        """A node at the end: all that was acknowledged is there."""
        lost = [
            c
            for c, place in self.acknowledged.items()
            if machine.commands[place - 1 : place] != [c]
        ]
        if lost:
            raise ViolationError(f"{who} lost {len(lost)} acknowledged commands: {lost[:3]}")

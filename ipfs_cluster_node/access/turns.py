"""Turns at the event loop: long work runs in slices, between which the loop is free.

Between two awaits of a call, nothing else runs: no heartbeat is sent, no vote answered. So work
that grows with a request or with the state asks its `Turn` after each small step whether its time
is over, and then waits for the next one. One slice runs at a time, callers take turns, and after
each slice the loop is free for a while for everything else, above all consensus, which needs
several rounds of the loop to commit one entry.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Final, TypeVar

SLICE_SECONDS: Final = 0.005
"""How long work may run before others have their turn."""
CROWD_SECONDS: Final = 0.02
"""How long calls that begin in one round of the loop may run together: most are short."""
PAUSE_SECONDS: Final = 0.002
"""Pause between the end of a slice and the next one."""
SLICE_SECONDS_MIN: Final = 0.001
"""Shortest turn, where several share a slice."""

T = TypeVar("T")


class Turns:
    """Callers waiting for a turn at one event loop."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Start with no caller waiting; `monotonic` gives seconds."""
        self.monotonic = monotonic
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._under_way = False
        self._slice_ends = 0.0
        self._round_began: float | None = None

    def crowded(self) -> bool:
        """Whether calls that began in this round of the loop have used up its time."""
        moment = self.monotonic()
        if self._round_began is None:
            self._round_began = moment
            asyncio.get_running_loop().call_soon(self._end_round)
            return False
        return moment - self._round_began > CROWD_SECONDS

    def _end_round(self) -> None:
        self._round_began = None

    async def next(self, caller: str) -> float:
        """Wait for a turn, in rotation with other callers; returns its end."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        if not self._under_way:
            self._under_way = True
            loop.call_later(PAUSE_SECONDS, self._begin_slice)
        await turn
        return max(self._slice_ends, self.monotonic() + SLICE_SECONDS_MIN)

    def _begin_slice(self) -> None:
        self._slice_ends = self.monotonic() + SLICE_SECONDS
        self._give()

    def _give(self) -> None:
        while self._waiting:
            caller, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            if turns:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
            if not turn.done():  # Its call may have been cancelled.
                turn.set_result(None)
                break
        # Runs after the calls that were just woken.
        asyncio.get_running_loop().call_soon(self._after)

    def _after(self) -> None:
        if not self._waiting:
            self._under_way = False
        elif self.monotonic() < self._slice_ends:
            self._give()
        else:
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._begin_slice)


class Turn:
    """One call's time at the loop."""

    def __init__(self, turns: Turns, caller: str) -> None:
        self._turns, self._caller = turns, caller
        self._monotonic = turns.monotonic
        self._ends = self._monotonic() + SLICE_SECONDS

    @property
    def over(self) -> bool:
        """Whether `next` is due."""
        return self._monotonic() >= self._ends

    async def next(self) -> None:
        """Yield to others; returns at this call's next turn."""
        self._ends = await self._turns.next(self._caller)


_turn: ContextVar[Turn] = ContextVar("turn")


def set_turn(turn: Turn) -> None:
    """Set the turn of the current call or task."""
    _turn.set(turn)


def current_turn() -> Turn:
    """The current call's turn; a new one if none was set."""
    turn = _turn.get(None)
    return Turn(Turns(asyncio.get_running_loop().time), "") if turn is None else turn


async def gathered(items: Iterable[T | None]) -> list[T]:
    """Collect an iterable's items other than None, yielding to the loop between slices.

    The iterable must tolerate changes to everything else between two of its items.
    """
    turn = current_turn()
    found: list[T] = []
    for item in items:
        if item is not None:
            found.append(item)
        if turn.over:
            await turn.next()
    return found

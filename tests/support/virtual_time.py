"""An event loop whose clock jumps: hours of waiting pass in milliseconds, in a fixed order.

`@virtual_time` turns an async test into one that runs on such a loop. Within it
`asyncio.sleep`, timeouts and the clock of consensus read the loop's time, as does the `Clock` that
`loop_clock()` gives to what is tested.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from ipfs_cluster_node.adapters.clock import Clock
from ipfs_cluster_node.adapters.raft import clock as raft_clock
from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK

T = TypeVar("T")

BEGIN_MS: Final = 1_800_000_000_000
"""The wall clock when the loop's own clock is at 0, in milliseconds since 1970."""
REAL_WAIT_SECONDS_MAX: Final = 10.0
"""How long real work, in a thread or behind a socket, may take before a test is stuck."""
VIRTUAL_SECONDS_MAX: Final = 7 * 24 * 3600.0
"""How far the clock may go before a test counts as one that never ends."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Moves its clock to the next timer as soon as nothing else is ready."""

    def __init__(self) -> None:
        self._virtual_seconds = 0.0
        self.ahead_seconds = 0.0
        """Of the wall clock, where a node has none of its own."""
        self._real_work = 0
        self._selector_with_jumps = _JumpingSelector(self)
        super().__init__(self._selector_with_jumps)

    def time(self) -> float:
        """Seconds since the loop began."""
        return self._virtual_seconds

    def clock(self, ahead_seconds: Callable[[], float] | None = None) -> Clock:
        """A node's clock, whose wall clock is so far ahead of the loop's time."""
        ahead = ahead_seconds or (lambda: self.ahead_seconds)

        def wall_ms() -> int:
            return BEGIN_MS + int(self._virtual_seconds * 1000) + int(ahead() * 1000)

        return Clock(wall_ms=wall_ms, monotonic=self.time, boottime=self.time)

    def advance(self, seconds: float) -> None:
        """Move the clock while nothing runs: what a process that stands still would see."""
        self._virtual_seconds += seconds

    @contextmanager
    def real_work(self) -> Iterator[None]:
        """Hold the clock while something outside the loop, such as a thread, is at work."""
        self._real_work += 1
        try:
            yield
        finally:
            self._real_work -= 1

    @property
    def holds_clock(self) -> bool:
        """Whether real work is under way."""
        return self._real_work > 0

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run in a thread; the clock stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._real_work += 1
        future.add_done_callback(lambda _future: self._done())
        return future

    def _done(self) -> None:
        self._real_work -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: it moves the loop's clock there instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self._loop.holds_clock:
            ready = super().select(REAL_WAIT_SECONDS_MAX)
            if not ready:
                raise RuntimeError("the test waits for something that will never happen")
            return ready
        # A little more than asked: rounding must not leave the timer just ahead for ever.
        self._loop.advance(max(timeout, 1e-6))
        if self._loop.time() > VIRTUAL_SECONDS_MAX:
            raise RuntimeError(f"the test still waits after {VIRTUAL_SECONDS_MAX:.0f} s")
        return ready


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, with the clock of consensus on the loop's time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        raft_clock.use(loop.time)
        try:
            return runner.run(main)
        finally:
            raft_clock.use()


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a `VirtualTimeLoop`."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run


def virtual_loop() -> VirtualTimeLoop:
    """The running loop, for `advance` and `real_work`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def loop_clock() -> Clock:
    """That of the running loop, if its time is virtual; else the system's."""
    loop = asyncio._get_running_loop()
    return loop.clock() if isinstance(loop, VirtualTimeLoop) else SYSTEM_CLOCK


def monotonic() -> float:
    """Seconds by `loop_clock`."""
    return loop_clock().monotonic()


def now_ms() -> int:
    """Milliseconds since 1970 by `loop_clock`."""
    return loop_clock().wall_ms()


def utc_now() -> datetime:
    """The time by `loop_clock`."""
    return loop_clock().wall()

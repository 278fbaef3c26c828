"""The clock of consensus: no clock setting moves it, and it runs while the machine sleeps."""

import time
from collections.abc import Callable
from typing import Final

CLOCK_ID: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since the machine started."""
    return time.clock_gettime(CLOCK_ID)


_source: Callable[[], float] = boot_time


def now() -> float:
    """The time."""
    return _source()


def use(source: Callable[[], float]) -> None:
    """Read another clock from now on, as the simulation does."""
    global _source  # noqa: PLW0603  # PySyncObj has its clock in a global as well.
    _source = source

"""The clock of consensus: no clock setting moves it, and it runs while the machine sleeps.

PySyncObj reads its clock from a global of its module, so all replicas of a process share one. What
is ours in this package reads the same one: two clocks would disagree on when a vote was given.
"""

from collections.abc import Callable

from ipfs_cluster_node.adapters.system_clock import SYSTEM_CLOCK

_source: Callable[[], float] = SYSTEM_CLOCK.boottime


def now() -> float:
    """The time."""
    return _source()


def use(source: Callable[[], float] = SYSTEM_CLOCK.boottime) -> None:
    """Read another clock from now on, in all replicas of this process, as a simulation does."""
    global _source  # noqa: PLW0603  # PySyncObj has its clock in a global as well.
    _source = source

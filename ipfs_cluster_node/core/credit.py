"""How many attempts a worker takes: one per slot, and a few ahead so that no slot idles."""

from typing import Final

from ipfs_cluster_node.core.model import SLOTS_MAX

CREDIT_MAX: Final = SLOTS_MAX
"""Most attempts that one worker holds or has granted credit for."""
READ_AHEAD_SECONDS: Final = 0.1
"""Amount of work taken ahead of free slots, so that short tasks do not wait for the log."""
READ_AHEAD_MAX: Final = 256
HELD_MAX: Final = 8192
"""At so many attempts, running or with unconfirmed outcomes, a worker grants no more credit: its
next session names them all."""
MEAN_WEIGHT: Final = 0.2
"""Weight of the newest attempt: an outlier is outweighed after some 40."""
SECONDS_MIN: Final = 1e-4


def next_mean(mean: float | None, seconds: float) -> float:
    """The moving average of attempts' durations, after one more; None before the first."""
    return seconds if mean is None else mean + MEAN_WEIGHT * (seconds - mean)


def in_hand_max(slots: int, *, seconds_mean: float | None, seconds_youngest: float) -> int:
    """How many attempts a worker should hold, including running ones.

    Never fewer than its slots: however long attempts take, no slot may idle.

    Args:
        slots: How many attempts run at once.
        seconds_mean: The recent mean duration; None if no attempt has ended yet.
        seconds_youngest: How long the youngest attempt has been running if all slots are taken,
            else 0. No slot became free for at least this long, so that nothing is hoarded behind
            long attempts that follow many short ones.
    """
    if seconds_mean is None:
        return slots
    seconds = max(seconds_mean, seconds_youngest, SECONDS_MIN)
    ahead = int(slots * READ_AHEAD_SECONDS / seconds)
    return min(slots + min(ahead, READ_AHEAD_MAX), max(slots, CREDIT_MAX))


def credit_due(slots: int, *, wanted: int, in_hand: int) -> int:
    """How much credit to grant; none until half of the read-ahead is used up.

    Attempts granted together are assigned by one log entry. `wanted` is what `in_hand_max` gives;
    `in_hand` has the attempts held, plus the credit already granted.
    """
    return 0 if in_hand > slots + (wanted - slots) // 2 else max(0, wanted - in_hand)

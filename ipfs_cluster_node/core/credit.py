"""How many attempts a worker takes: what runs, and a little ahead so that no slot waits."""

from typing import Final

from ipfs_cluster_node.core.model import SLOTS_MAX

CREDIT_MAX: Final = SLOTS_MAX
"""Most attempts that one worker has in hand or has asked for."""
READ_AHEAD_SECONDS: Final = 0.1
"""Work taken ahead of free slots, so that short tasks do not wait for the log."""
READ_AHEAD_MAX: Final = 256
HELD_MAX: Final = 8192
"""Attempts that a worker has in hand, or whose outcomes are not confirmed, until it asks for no
more: its next session names them all."""
MEAN_WEIGHT: Final = 0.2
"""Of the newest attempt: one that was far longer than the others is outweighed after some 40."""
SECONDS_MIN: Final = 1e-4


def next_mean(mean: float | None, seconds: float) -> float:
    """The mean of how long attempts take, after one more; None before the first."""
    return seconds if mean is None else mean + MEAN_WEIGHT * (seconds - mean)


def in_hand_max(slots: int, *, seconds_mean: float | None, seconds_youngest: float) -> int:
    """How many attempts a worker wants in hand, those that run included.

    Never fewer than its slots: however long attempts take, none of its slots may idle.

    Args:
        slots: How many attempts run at once.
        seconds_mean: How long attempts took of late; None if none has ended yet.
        seconds_youngest: For how long the youngest attempt has been running where all slots are
            taken, else 0. So long at least no slot became free: nothing is hoarded behind long
            attempts that follow many short ones.
    """
    if seconds_mean is None:
        return slots
    seconds = max(seconds_mean, seconds_youngest, SECONDS_MIN)
    ahead = int(slots * READ_AHEAD_SECONDS / seconds)
    return min(slots + min(ahead, READ_AHEAD_MAX), max(slots, CREDIT_MAX))


def credit_due(slots: int, *, wanted: int, in_hand: int) -> int:
    """How many more attempts to ask for; none until half of what was read ahead is used up.

    What is asked for together is assigned by one entry of the log.

    Args:
        slots: How many attempts run at once.
        wanted: What `in_hand_max` says.
        in_hand: How many attempts there are, those asked for included.
    """
    return 0 if in_hand > slots + (wanted - slots) // 2 else max(0, wanted - in_hand)

"""How long a worker that hands attempts back gets no others."""

from ipfs_cluster_node.core.backoff import (
    BACKOFF_SECONDS,
    BACKOFF_SECONDS_MAX,
    Backoff,
    backoff_after,
)
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, TaskFailure, TaskResult

WHICH = AttemptId(TaskId("t"), 1)


def ended(reason: Reason | None, *, handed_back: bool = False) -> AttemptOutcome:
    failure = None if reason is None else TaskFailure(reason, "why")
    result = TaskResult() if reason is None else None
    return AttemptOutcome(
        id=WHICH, result=result, failure=failure, retryable=True, handed_back=handed_back
    )


BACK = ended(Reason.WORKER_LOST, handed_back=True)
LOST = ended(Reason.WORKER_LOST)


def test_a_worker_that_hands_back_all_it_gets_backs_off_ever_longer_up_to_a_bound() -> None:
    backoff, now, lengths = Backoff(), 100.0, []
    for _ in range(8):
        backoff = backoff_after(backoff, [BACK, BACK], now)
        lengths.append(backoff.until - now)
        now = backoff.until
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert lengths[0] == BACKOFF_SECONDS
    assert lengths[-1] == BACKOFF_SECONDS_MAX


def test_what_is_handed_back_during_a_backoff_does_not_lengthen_it() -> None:
    backoff = backoff_after(Backoff(), [BACK], 0.0)
    assert backoff_after(backoff, [BACK], 0.9) == backoff


def test_an_attempt_that_ends_resets_the_next_backoff_and_leaves_the_current_one() -> None:
    for other in (ended(None), ended(Reason.HANDLER_FAILED)):
        backoff = backoff_after(Backoff(until=10.0, seconds=8.0), [other], 5.0)
        assert backoff.until == 10.0
        assert backoff_after(backoff, [BACK], 20.0).until == 21.0
        assert backoff_after(Backoff(10.0, 8.0), [other, BACK], 20.0).until == 21.0


def test_a_loss_counts_as_handed_back_and_no_outcome_is_no_backoff() -> None:
    """Otherwise a worker that reports every attempt as lost uses up all ten at once."""
    assert backoff_after(Backoff(), [LOST], 5.0) == Backoff(until=6.0, seconds=1.0)
    assert backoff_after(Backoff(), [], 5.0) == Backoff()
    assert backoff_after(Backoff(), [ended(None)], 5.0) == Backoff()

"""For how long a worker that gives attempts back is given no others."""

from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import AttemptId, AttemptOutcome, TaskFailure, TaskResult
from ipfs_cluster_node.core.rests import (
    HAND_BACK_REST_SECONDS,
    HAND_BACK_REST_SECONDS_MAX,
    Rest,
    rest_after,
)

WHICH = AttemptId(TaskId("t"), 1)


def ended(reason: Reason | None, *, handed_back: bool = False) -> AttemptOutcome:
    failure = None if reason is None else TaskFailure(reason, "why")
    result = TaskResult() if reason is None else None
    return AttemptOutcome(
        id=WHICH, result=result, failure=failure, retryable=True, handed_back=handed_back
    )


BACK = ended(Reason.WORKER_LOST, handed_back=True)
LOST = ended(Reason.WORKER_LOST)


def test_a_worker_that_gives_back_all_it_gets_rests_ever_longer_up_to_a_bound() -> None:
    rest, now, lengths = Rest(), 100.0, []
    for _ in range(8):
        rest = rest_after(rest, [BACK, BACK], now)
        lengths.append(rest.until - now)
        now = rest.until
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert lengths[0] == HAND_BACK_REST_SECONDS
    assert lengths[-1] == HAND_BACK_REST_SECONDS_MAX


def test_what_comes_back_during_a_rest_makes_it_no_longer() -> None:
    rest = rest_after(Rest(), [BACK], 0.0)
    assert rest_after(rest, [BACK], 0.9) == rest


def test_an_attempt_that_ends_makes_the_next_rest_short_again_and_the_one_that_goes_on_no_shorter() -> (
    None
):
    for other in (ended(None), ended(Reason.HANDLER_FAILED)):
        rest = rest_after(Rest(until=10.0, seconds=8.0), [other], 5.0)
        assert rest.until == 10.0
        assert rest_after(rest, [BACK], 20.0).until == 21.0
        assert rest_after(Rest(10.0, 8.0), [other, BACK], 20.0).until == 21.0


def test_what_is_told_as_lost_counts_as_given_back_and_nothing_is_no_rest() -> None:
    """Else tasks were lost ten times at once with a worker that says so of all it gets."""
    assert rest_after(Rest(), [LOST], 5.0) == Rest(until=6.0, seconds=1.0)
    assert rest_after(Rest(), [], 5.0) == Rest()
    assert rest_after(Rest(), [ended(None)], 5.0) == Rest()

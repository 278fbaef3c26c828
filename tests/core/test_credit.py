"""How many attempts a worker takes."""

from hypothesis import example, given
from hypothesis import strategies as st

from ipfs_cluster_node.core.credit import (
    CREDIT_MAX,
    READ_AHEAD_MAX,
    READ_AHEAD_SECONDS,
    SECONDS_MIN,
    credit_due,
    in_hand_max,
    next_mean,
)
from ipfs_cluster_node.core.model import SLOTS_MAX

SECONDS = st.floats(0.0, 1e9)


@given(st.integers(1, SLOTS_MAX), st.none() | SECONDS, SECONDS)
@example(1, 10.0, 0.0)
@example(8, 0.8, 0.0)
@example(SLOTS_MAX, 0.0, 0.0)
def test_a_worker_wants_all_its_slots_taken_and_never_more_than_it_may_ask_for(
    slots: int, mean: float | None, youngest: float
) -> None:
    wanted = in_hand_max(slots, seconds_mean=mean, seconds_youngest=youngest)
    assert slots <= wanted <= min(slots + READ_AHEAD_MAX, CREDIT_MAX)


def test_for_each_number_of_slots_and_length_of_tasks_no_slot_idles() -> None:
    for slots in range(1, 9):
        for milliseconds in (1, 2, 5, 10, 50, 90, 99, 100, 101, 200, 500, 1000, 10_000):
            wanted = in_hand_max(slots, seconds_mean=milliseconds / 1000, seconds_youngest=0.0)
            ahead = int(slots * READ_AHEAD_SECONDS / (milliseconds / 1000))
            assert wanted == slots + min(READ_AHEAD_MAX, ahead), (slots, milliseconds)


def test_short_attempts_are_taken_ahead_up_to_a_bound() -> None:
    def wanted(seconds: float) -> int:
        return in_hand_max(2, seconds_mean=seconds, seconds_youngest=0.0)

    assert wanted(0.02) == 2 + 10
    assert wanted(0.0) == wanted(SECONDS_MIN / 2) == 2 + READ_AHEAD_MAX


def test_nothing_is_taken_ahead_before_the_first_attempt_has_ended() -> None:
    assert in_hand_max(3, seconds_mean=None, seconds_youngest=0.0) == 3


def test_nothing_is_hoarded_behind_a_long_attempt_that_follows_short_ones() -> None:
    assert in_hand_max(2, seconds_mean=0.001, seconds_youngest=0.0) == 2 + 200
    assert in_hand_max(2, seconds_mean=0.001, seconds_youngest=5.0) == 2


def test_one_attempt_of_an_hour_is_outweighed_by_the_short_ones_after_it() -> None:
    mean: float | None = None
    for seconds in (3600.0, *[0.001] * 50):
        mean = next_mean(mean, seconds)
    assert mean is not None
    assert mean < READ_AHEAD_SECONDS


def test_the_first_attempt_is_the_mean_and_the_next_moves_it_a_fifth() -> None:
    assert next_mean(None, 3.0) == 3.0
    assert next_mean(3.0, 8.0) == 4.0


@given(st.integers(1, SLOTS_MAX), st.integers(0, READ_AHEAD_MAX), st.integers(0, 2 * SLOTS_MAX))
def test_credit_fills_up_what_is_wanted_before_any_slot_idles(
    slots: int, ahead: int, in_hand: int
) -> None:
    credit = credit_due(slots, wanted=slots + ahead, in_hand=in_hand)
    assert credit in (0, slots + ahead - in_hand)
    if in_hand < slots:
        assert credit


def test_credit_is_asked_for_once_half_of_what_was_read_ahead_is_used_up() -> None:
    assert [credit_due(2, wanted=12, in_hand=each) for each in (12, 8, 7, 6)] == [0, 0, 5, 6]
    assert [credit_due(1, wanted=1, in_hand=each) for each in (1, 0)] == [0, 1]
    assert [credit_due(1, wanted=2, in_hand=each) for each in (2, 1)] == [0, 1]
    assert credit_due(2, wanted=2, in_hand=9) == 0

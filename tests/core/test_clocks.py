"""A node's clock is compared with the others'; that of a single one, with its own past."""

import pytest

from ipfs_cluster_node.core.clocks import (
    CLOCK_DIFFERENCE_MS_MAX,
    DRIFT_MS_PER_HOUR_MAX,
    SAMPLE_AGE_MS_MAX,
    SETTLE_MS,
    START_MS,
    START_SETTLE_MS,
    ClockSample,
    Judgement,
    SteadyClock,
    Verdict,
    judge_clock,
    sample_of,
)
from ipfs_cluster_node.core.ids import NodeId

DAY = 24 * 3_600_000
LIMIT = CLOCK_DIFFERENCE_MS_MAX


def judge(
    own: float,
    *others: float,
    voters: int,
    votes: bool = True,
    error: float = 0,
    age: float = 0,
) -> Judgement:
    samples = {NodeId(f"n{i}"): ClockSample(at, error, 0) for i, at in enumerate(others)}
    return judge_clock(own, samples, voter_count=voters, votes=votes, now_ms=age)


@pytest.mark.parametrize(
    ("own", "others", "voters", "verdict", "ahead"),
    [
        (0, (0, 0), 3, Verdict.TRUSTED, 0),
        (DAY, (0, 0), 3, Verdict.OFF, DAY),
        (-DAY, (0, 0), 3, Verdict.OFF, -DAY),
        # One other agrees, and with it two of three: the third is wrong.
        (0, (0, DAY), 3, Verdict.TRUSTED, 0),
        (DAY, (0, DAY), 3, Verdict.TRUSTED, 0),
        # One voter is away, and the one that is left says otherwise.
        (DAY, (0,), 3, Verdict.DISPUTED, DAY),
        (0, (0,), 3, Verdict.TRUSTED, 0),
        (0, (), 3, Verdict.UNKNOWN, 0),
        # With two, it is unknown whose clock is wrong.
        (DAY, (0,), 2, Verdict.DISPUTED, DAY),
        (0, (0,), 2, Verdict.TRUSTED, 0),
        # Three that all differ.
        (0, (DAY, -DAY), 3, Verdict.DISPUTED, DAY),
        (0, (DAY // 2, -DAY), 3, Verdict.DISPUTED, DAY),
        (0, (DAY, -DAY // 2), 3, Verdict.DISPUTED, DAY),
        (0, (DAY, DAY, DAY, DAY), 5, Verdict.OFF, -DAY),
        (0, (DAY, DAY, DAY), 5, Verdict.OFF, -DAY),
        (0, (DAY, DAY, 0), 5, Verdict.DISPUTED, -DAY),
        (0, (DAY, DAY, 0, 0), 5, Verdict.TRUSTED, 0),
        (0, (0,), 5, Verdict.UNKNOWN, 0),
        # Of four, three are a majority.
        (0, (DAY, DAY), 4, Verdict.DISPUTED, -DAY),
        (0, (DAY, DAY, DAY), 4, Verdict.OFF, -DAY),
        (0, (0, DAY, DAY), 4, Verdict.DISPUTED, -DAY),
        (0, (), 1, Verdict.TRUSTED, 0),
    ],
)
def test_a_majority_of_the_voters_judges(
    own: float, others: tuple[float, ...], voters: int, verdict: Verdict, ahead: float
) -> None:
    found = judge(own, *others, voters=voters)
    assert found.verdict is verdict
    assert abs(found.ahead_ms) == abs(ahead)
    if verdict is Verdict.OFF:
        assert found.ahead_ms == ahead


def test_the_bound_is_a_minute_beyond_what_the_measuring_may_be_wrong_by() -> None:
    assert judge(LIMIT, 0, voters=2).verdict is Verdict.TRUSTED
    assert judge(LIMIT + 1, 0, voters=2).verdict is Verdict.DISPUTED
    assert judge(LIMIT + 500, 0, voters=2, error=500).verdict is Verdict.TRUSTED
    assert judge(LIMIT + 501, 0, voters=2, error=500).verdict is Verdict.DISPUTED


def test_a_sample_loses_sharpness_and_then_its_word() -> None:
    hour = 3_600_000
    drift = DRIFT_MS_PER_HOUR_MAX
    assert judge(LIMIT + drift, 0, voters=2, age=hour).verdict is Verdict.TRUSTED
    assert judge(LIMIT + drift + 1, 0, voters=2, age=hour).verdict is Verdict.DISPUTED
    assert judge(DAY, 0, 0, voters=3, age=SAMPLE_AGE_MS_MAX).verdict is Verdict.OFF
    assert judge(DAY, 0, 0, voters=3, age=SAMPLE_AGE_MS_MAX + 1).verdict is Verdict.UNKNOWN


def test_the_measured_difference_is_the_majoritys_middle_and_names_who_agrees() -> None:
    found = judge(DAY, 0, 10, 20, -DAY, voters=5)
    assert found == Judgement(
        Verdict.OFF, DAY - 10, frozenset({NodeId("n0"), NodeId("n1"), NodeId("n2")})
    )
    right = judge(0, 0, 10, DAY, voters=4)
    assert right.agreeing == {NodeId("n0"), NodeId("n1")}


def test_clocks_that_are_apart_from_one_another_judge_nobody() -> None:
    assert judge(DAY, 0, LIMIT, voters=3).verdict is Verdict.OFF
    assert judge(DAY, 0, LIMIT + 1, voters=3).verdict is Verdict.DISPUTED
    assert judge(DAY, 0, LIMIT + 2, voters=3, error=1).verdict is Verdict.OFF


def test_a_node_without_a_vote_goes_by_the_leader() -> None:
    assert judge(0, 0, voters=1, votes=False).verdict is Verdict.TRUSTED
    assert judge(DAY, 0, voters=1, votes=False) == Judgement(
        Verdict.OFF, DAY, frozenset({NodeId("n0")})
    )
    assert judge(DAY, voters=1, votes=False).verdict is Verdict.UNKNOWN


def test_a_sample_is_the_middle_of_the_round_trip() -> None:
    assert sample_of(wall_ms=1_000_050, sent_ms=0, received_ms=100) == ClockSample(1e6, 50, 100)


def test_a_jump_counts_once_the_clock_has_gone_on_steadily_for_an_hour() -> None:
    clock = SteadyClock(0).seen(LIMIT, 0)
    assert clock.judge().verdict is Verdict.TRUSTED
    assert clock.offset_ms == LIMIT, "small steps are followed"
    jumped = clock.seen(DAY, 1000)
    assert jumped.judge() == Judgement(Verdict.JUMPED, DAY - LIMIT)
    assert jumped.seen(DAY, 1000 + SETTLE_MS - 1).judge().verdict is Verdict.JUMPED
    assert jumped.seen(DAY, 1000 + SETTLE_MS).judge().verdict is Verdict.TRUSTED
    # Back again: at once.
    assert jumped.seen(LIMIT, 2000) == SteadyClock(LIMIT)
    # Another jump begins the hour again.
    again = jumped.seen(2 * DAY, 1000 + SETTLE_MS - 1)
    assert again.seen(2 * DAY, 1000 + SETTLE_MS).judge().verdict is Verdict.JUMPED
    assert again.seen(2 * DAY, 1000 + 2 * SETTLE_MS).judge().verdict is Verdict.TRUSTED


def test_a_jump_soon_after_the_start_counts_after_a_minute() -> None:
    """As when NTP sets right a clock that the machine started with."""
    began = SteadyClock(0, started_ms=1000).seen(LIMIT, 1000)
    for at in (1000, 1000 + START_MS):
        jumped = began.seen(-DAY, at)
        assert jumped.judge().verdict is Verdict.JUMPED
        assert jumped.seen(-DAY, at + START_SETTLE_MS - 1).judge().verdict is Verdict.JUMPED
        assert jumped.seen(-DAY, at + START_SETTLE_MS).judge().verdict is Verdict.TRUSTED
    # So does another one after it, as long as the start is recent.
    first = began.seen(-DAY, 1000).seen(-DAY, 1000 + START_SETTLE_MS)
    again = first.seen(DAY, 2000 + START_SETTLE_MS)
    assert again.judge().verdict is Verdict.JUMPED
    assert again.seen(DAY, 2000 + 2 * START_SETTLE_MS).judge().verdict is Verdict.TRUSTED
    late = began.seen(-DAY, 1001 + START_MS)
    assert late.seen(-DAY, 1000 + START_MS + SETTLE_MS).judge().verdict is Verdict.JUMPED

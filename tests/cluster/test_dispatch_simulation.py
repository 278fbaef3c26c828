"""Workers and sessions under seeded faults: nothing fails, and a missing guard is noticed."""

import pytest

from scripts.lib.sim.dispatch import run_dispatch

SECONDS = 30.0


@pytest.mark.parametrize("seed", range(1, 7))
def test_workers_and_sessions_hold_under_faults(seed: int) -> None:
    report = run_dispatch(seed, SECONDS)
    assert report.failure == ""
    assert report.faults >= 5
    assert report.tasks > 50
    again = run_dispatch(seed, SECONDS)
    assert again == report  # The same seed runs the same way.


@pytest.mark.parametrize(
    "guard", ["no-fence", "forgotten-outcomes", "no-requeue", "hoarding", "any-attempt"]
)
def test_a_guard_that_is_missing_is_found(guard: str) -> None:
    assert any(run_dispatch(seed, 60.0, guard).failure for seed in range(1, 40))

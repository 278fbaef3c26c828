"""When the log's disk counts as slow."""

from ipfs_cluster_node.adapters.raft.pace import WINDOW_SECONDS, WritePace


def write(pace: WritePace, at: float, seconds: float) -> float:
    pace.began(at)
    pace.ended(at + seconds)
    return at + seconds


def test_a_hitch_is_no_slow_disk() -> None:
    pace = WritePace()
    now = write(pace, 100.0, 0.5)
    for _ in range(500):
        now = write(pace, now, 0.009)
    assert pace.slowest(now) == 0.0


def test_many_slow_writes_are_a_slow_disk_until_they_are_past() -> None:
    pace = WritePace()
    now = 100.0
    for _ in range(4):
        now = write(pace, now, 0.2) + 0.5
    assert round(pace.slowest(now), 3) == 0.2
    assert pace.slowest(now + WINDOW_SECONDS) == 0.0


def test_a_write_under_way_counts() -> None:
    pace = WritePace()
    pace.began(100.0)
    assert pace.slowest(100.5) == 0.0
    assert round(pace.slowest(102.0), 3) == 2.0
    pace.ended(102.0)
    assert round(pace.slowest(102.0), 3) == 2.0


def test_of_a_long_write_only_what_is_in_the_window_counts() -> None:
    pace = WritePace()
    now = write(pace, 100.0, 3.0)
    assert round(pace.slowest(now + WINDOW_SECONDS - 1.0), 3) == 3.0
    assert pace.slowest(now + WINDOW_SECONDS - 0.5) == 0.0

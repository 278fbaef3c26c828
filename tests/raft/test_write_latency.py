"""When the log's disk counts as slow."""

from ipfs_cluster_node.adapters.raft.write_latency import WINDOW_SECONDS, WriteLatency


def write(latency: WriteLatency, at: float, seconds: float) -> float:
    latency.began(at)
    latency.ended(at + seconds)
    return at + seconds


def test_a_hitch_is_no_slow_disk() -> None:
    latency = WriteLatency()
    now = write(latency, 100.0, 0.5)
    for _ in range(500):
        now = write(latency, now, 0.009)
    assert latency.slowest(now) == 0.0


def test_many_slow_writes_are_a_slow_disk_until_they_are_past() -> None:
    latency = WriteLatency()
    now = 100.0
    for _ in range(4):
        now = write(latency, now, 0.2) + 0.5
    assert round(latency.slowest(now), 3) == 0.2
    assert latency.slowest(now + WINDOW_SECONDS) == 0.0


def test_a_write_under_way_counts() -> None:
    latency = WriteLatency()
    latency.began(100.0)
    assert latency.slowest(100.5) == 0.0
    assert round(latency.slowest(102.0), 3) == 2.0
    latency.ended(102.0)
    assert round(latency.slowest(102.0), 3) == 2.0


def test_of_a_long_write_only_what_is_in_the_window_counts() -> None:
    latency = WriteLatency()
    now = write(latency, 100.0, 3.0)
    assert round(latency.slowest(now + WINDOW_SECONDS - 1.0), 3) == 3.0
    assert latency.slowest(now + WINDOW_SECONDS - 0.5) == 0.0

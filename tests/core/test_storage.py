"""The holders of a file, and the part of a disk that is reserved for the log."""

from collections import Counter

from ipfs_cluster_node.core.ids import NodeId
from ipfs_cluster_node.core.storage import Candidate, holders_in_order, reserve_bytes

GIB = 2**30
A, B, C, D = map(NodeId, "abcd")


def candidates(**free: int | None) -> list[Candidate]:
    return [Candidate(NodeId(name), alive=True, free_bytes=each) for name, each in free.items()]


def firsts(among: list[Candidate], count: int = 4000) -> Counter[NodeId]:
    return Counter(holders_in_order(f"cid-{n}", among)[0] for n in range(count))


def test_of_a_small_disk_less_is_kept_than_is_set() -> None:
    assert reserve_bytes(GIB, 1000 * GIB) == GIB
    assert reserve_bytes(GIB, 10 * GIB) == GIB // 2
    assert reserve_bytes(0, 10 * GIB) == 0


def test_files_spread_evenly_over_masters_with_as_much_room() -> None:
    came = firsts(candidates(a=GIB, b=GIB, c=GIB, d=GIB))
    assert all(850 < came[node] < 1150 for node in (A, B, C, D)), came


def test_a_master_with_three_times_the_room_comes_first_three_times_as_often() -> None:
    came = firsts(candidates(a=3 * GIB, b=GIB))
    assert 2.6 < came[A] / came[B] < 3.4, came


def test_a_master_that_has_not_said_is_taken_for_a_usual_one() -> None:
    assert 1800 < firsts(candidates(a=GIB, b=None))[B] < 2200
    assert 1800 < firsts(candidates(a=None, b=None))[B] < 2200


def test_full_and_silent_masters_come_last_and_are_asked_all_the_same() -> None:
    among = [
        Candidate(A, alive=False, free_bytes=GIB),
        Candidate(B, alive=True, free_bytes=0),
        Candidate(C, alive=True, free_bytes=1),
        Candidate(D, alive=False, free_bytes=0),
    ]
    for n in range(50):
        assert holders_in_order(f"cid-{n}", among) == [C, B, A, D]


def test_the_same_file_goes_to_the_same_masters() -> None:
    among = candidates(a=GIB, b=GIB, c=GIB)
    for n in range(50):
        assert holders_in_order(f"c{n}", among) == holders_in_order(f"c{n}", among[::-1])

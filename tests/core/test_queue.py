"""Waiting tasks keep the order of their submission."""

from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.queue import TaskQueue


@given(st.lists(st.tuples(st.sampled_from("sub take back".split()), st.integers(0, 9))))
def test_the_order_is_that_of_submission_whatever_comes_and_goes(
    steps: list[tuple[str, int]],
) -> None:
    queue, waiting, away, submitted = TaskQueue(), set[int](), list[int](), 0
    for what, position in steps:
        if what == "sub":
            submitted += 1
            queue.add(submitted, TaskId(f"t{submitted}"))
            waiting.add(submitted)
        elif what == "take" and waiting:
            taken = sorted(waiting)[position % len(waiting)]
            queue.remove(taken, TaskId(f"t{taken}"))
            waiting.remove(taken)
            away.append(taken)
        elif what == "back" and away:
            back = away.pop(position % len(away))
            queue.add(back, TaskId(f"t{back}"))
            waiting.add(back)
        assert list(queue) == [(n, TaskId(f"t{n}")) for n in sorted(waiting)]
        assert (bool(queue), len(queue)) == (bool(waiting), len(waiting))
        for sequence in range(submitted + 2):
            ahead = sum(n < sequence for n in waiting)
            assert [queue.ahead_of(sequence, most) for most in (0, 2, 99)] == [
                min(ahead, 1),
                min(ahead, 3),
                ahead,
            ]

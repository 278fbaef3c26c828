"""A page is no longer than requested, and fits into one message."""

from collections.abc import Iterator

import pytest

from ipfs_cluster_node.access.turns import Turn, Turns, set_turn
from ipfs_cluster_node.adapters.net.tls import MESSAGE_BYTES_MAX
from ipfs_cluster_node.cluster.pages import ITEM_BYTES_MAX, PAGE_BYTES_MAX, page_of_items
from ipfs_cluster_node.codec.pages import Page
from ipfs_cluster_node.codec.tasks import task_to_proto
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import (
    MESSAGE_CHARS_MAX,
    Task,
    TaskFailure,
    TaskInput,
    TaskSpec,
    TaskState,
)
from ipfs_cluster_node.v1 import task_dispatch_pb2 as pb
from tests.support.large_cluster import cid_of
from tests.support.ucan import actor
from tests.support.virtual_time import monotonic


def widest() -> pb.Task:
    """A task with the largest entry that a list may show."""
    return task_to_proto(
        Task(
            task_id=TaskId("t" * 64),
            sequence=1,
            spec=TaskSpec(
                task_type="t" * 64,
                namespace="n" * 128,
                inputs=tuple(TaskInput(f"{n:064d}", cid_of(n), "parquet") for n in range(64)),
            ),
            submitter=actor(1).did,
            state=TaskState.FAILED,
            submitted_at_ms=1,
            failure=TaskFailure(Reason.SQL_FAILED, "\N{GRINNING FACE}" * MESSAGE_CHARS_MAX),
        ),
        with_data=False,
    )


@pytest.mark.asyncio
async def test_a_page_of_wide_tasks_fits_in_a_message() -> None:
    """A thousand of them took 10 MB, and the list always failed with RESOURCE_EXHAUSTED."""
    task = widest()
    page = Page("tasks", 1000)
    shown, following = await page_of_items(((task, n) for n in range(1000)), page)
    assert following == page.token_after(len(shown) - 1)
    answer = pb.ListTasksResponse(tasks=shown, next_page_token=following)
    assert PAGE_BYTES_MAX - 2 * task.ByteSize() < answer.ByteSize() < MESSAGE_BYTES_MAX
    assert task.ByteSize() < MESSAGE_BYTES_MAX - PAGE_BYTES_MAX


@pytest.mark.asyncio
async def test_a_page_ends_by_its_size_and_says_whether_more_follow() -> None:
    def items(count: int) -> Iterator[tuple[pb.Task, int] | None]:
        for number in range(count):
            yield None  # What is not shown.
            yield pb.Task(task_id=f"t{number}"), number

    page = Page("tasks", 5)
    for count, token in ((4, ""), (5, ""), (6, page.token_after(4))):
        shown, following = await page_of_items(items(count), page)
        assert [task.task_id for task in shown] == [f"t{n}" for n in range(min(count, 5))]
        assert following == token


@pytest.mark.asyncio
async def test_one_item_is_shown_however_long_it_is() -> None:
    """Otherwise a list would never come past it."""
    long = pb.Task(task_id="x" * (PAGE_BYTES_MAX + 1))
    page = Page("tasks", 5)
    shown, following = await page_of_items(((long, n) for n in range(3)), page)
    assert (len(shown), following) == (1, page.token_after(0))


@pytest.mark.asyncio
async def test_an_item_that_no_message_holds_is_named_and_the_list_goes_on_after_it() -> None:
    """gRPC would refuse to send it, with a status that tells nothing, again and again."""
    rows = [pb.Task(task_id="x" * size) for size in (1, ITEM_BYTES_MAX, 1)]
    page = Page("tasks", 5)
    shown, following = await page_of_items(zip(rows, "abc", strict=True), page)
    assert (shown, following) == (rows[:1], page.token_after("a"))
    with pytest.raises(ClusterError) as caught:
        await page_of_items(zip(rows[1:], "bc", strict=True), page)
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE
    assert caught.value.metadata["next_page_token"] == page.token_after("b")
    fits = pb.Task(task_id="x" * (ITEM_BYTES_MAX - 5))
    assert await page_of_items([(fits, "a")], page) == ([fits], "")


@pytest.mark.asyncio
async def test_a_page_that_takes_long_to_find_lets_others_have_their_turn() -> None:
    """Most of the rows that are read may be hidden from the caller."""
    taken = 0

    class Short(Turn):
        over = True

        async def next(self) -> None:
            nonlocal taken
            taken += 1

    set_turn(Short(Turns(monotonic), "a"))
    hidden = (None for _ in range(1000))
    assert await page_of_items(hidden, Page("tasks", 10)) == ([], "")
    assert taken == 1000

"""Page tokens and sizes in requests."""

import pytest

from ipfs_cluster_node.codec.pages import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page, page_of
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.v1.task_dispatch_pb2 import ListTasksRequest


def asked(size: int = 0, token: str = "") -> Page:
    return page_of(ListTasksRequest(page_size=size, page_token=token), "tasks")


def refused(token: str) -> Reason:
    with pytest.raises(ClusterError) as caught:
        asked(token=token).after_number()
    return caught.value.reason


def test_a_larger_page_than_the_maximum_is_lowered() -> None:
    """It was refused, so each client needed to know the number."""
    sizes = [asked(size).size for size in (0, 1, PAGE_SIZE_MAX, PAGE_SIZE_MAX + 1, 2**31 - 1)]
    assert sizes == [PAGE_SIZE_DEFAULT, 1, PAGE_SIZE_MAX, PAGE_SIZE_MAX, PAGE_SIZE_MAX]
    with pytest.raises(ClusterError, match="page_size"):
        asked(-1)


def test_a_token_leads_on_after_a_row() -> None:
    token = asked().token_after(12)
    assert "12" not in token
    assert asked(token=token).after_number() == 12
    assert asked().after_number() is None


@pytest.mark.parametrize("key", ["1" * 5000, "1" * 19, "²", "-1", "x"])
def test_a_token_that_is_no_number_is_refused(key: str) -> None:
    """Thousands of digits, or a superscript, failed in the node."""
    assert refused(asked().token_after(key)) is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "token", ["12", "x", "\N{SUPERSCRIPT TWO}", "////", "=", "dGFza3M", "dGFza3Mg"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refused(token) is Reason.INVALID_ARGUMENT


def test_a_token_of_another_list_is_refused() -> None:
    """The list began somewhere, or started again: rows were skipped or shown twice."""
    assert refused(Page("content", 1).token_after(12)) is Reason.INVALID_ARGUMENT

"""Several masters are tried in turn, as long as another one may admit the joiner."""

from typing import Any

import pytest

from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.config.settings import NodeSection
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.node import joining

A, B, C = (f"{name}.example:9095" for name in "abc")


async def joined(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Reason | None]
) -> tuple[list[str], Any, list[str]]:
    """Which masters were asked, what came of it, and what was said of those that failed."""
    asked: list[str] = []
    told: list[str] = []

    async def join_cluster(_home: Home, _settings: Any, *, enrolment: str, **_: Any) -> str:
        asked.append(enrolment)
        if (reason := answers[enrolment]) is not None:
            raise ClusterError(reason, f"{enrolment} did not")
        return f"by {enrolment}"

    monkeypatch.setattr(joining, "join_cluster", join_cluster)
    home: Any = None
    found: Any
    try:
        found = await joining.join_at_any(
            home,
            NodeSection(name="n", role="worker"),
            token="t",
            enrolment=list(answers),
            on_failed=told.append,
        )
    except ClusterError as error:
        found = error
    return asked, found, told


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "reason",
    [
        Reason.UNREACHABLE,
        Reason.CERTIFICATE_INVALID,  # Another cluster has its address now.
        Reason.NO_LEADER,
        Reason.SHUTTING_DOWN,
        Reason.CLOCK_OFF,
        Reason.AUTHORITY_SEALED,
    ],
)
async def test_another_master_is_tried_where_one_can_t(
    monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    asked, found, told = await joined(monkeypatch, {A: reason, B: None, C: None})
    assert (asked, found) == ([A, B], f"by {B}")
    assert told == [f"{A} did not; trying {B}"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "reason", [Reason.TOKEN_USED, Reason.TOKEN_INVALID, Reason.HOME_EXISTS, Reason.JOIN_REJECTED]
)
async def test_a_decision_is_not_asked_of_another_master(
    monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    asked, found, told = await joined(monkeypatch, {A: reason, B: None})
    assert (asked, found.reason, told) == ([A], reason, [])


@pytest.mark.asyncio
async def test_if_none_admits_it_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, _ = await joined(monkeypatch, {A: Reason.UNREACHABLE})
    assert (one.reason, one.message) == (Reason.UNREACHABLE, f"{A} did not")
    asked, all_of_them, told = await joined(
        monkeypatch, {A: Reason.UNREACHABLE, B: Reason.NO_LEADER, C: Reason.UNREACHABLE}
    )
    assert asked == [A, B, C]
    assert all_of_them.message == f"{A} did not; {B} did not; {C} did not"
    assert len(told) == 2

"""A node that leaves, or notices that it was removed, under a simulated clock."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipfs_cluster_node.access.identify import REMOVED_KEY
from ipfs_cluster_node.config.home import Home
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.members import most_say_removed
from ipfs_cluster_node.node.leaving import (
    REMOVED_SECONDS_MIN,
    LeaveRequest,
    Leaving,
    check_not_left,
    leave,
)
from tests.support.virtual_time import loop_clock, monotonic, virtual_time

REQUEST = LeaveRequest("r", lose_files=True)
REMOVED = ClusterError(Reason.CALLER_UNKNOWN, "removed", metadata={REMOVED_KEY: "true"})
AT_RISK = ClusterError(Reason.QUORUM_AT_RISK, "too few")


class Running:
    """A node that runs in a home, and its cluster."""

    def __init__(self, path: Path, *answers: ClusterError | None) -> None:
        """The leader answers so, one after the other."""
        self.home = Home(path)
        self.home.state.mkdir(parents=True)
        self.answers = list(answers)
        self.did: list[str] = []
        self.refused, self.removed = False, False
        self.asked_at: list[float] = []
        connection: Any = SimpleNamespace(unary=self._unary)
        self.leaving = Leaving(
            self.home,
            connection=connection,
            was_refused=lambda: self.refused,
            is_removed=self._is_removed,
            drain=self._drain,
            stay=lambda: self.did.append("stay"),
            clock=loop_clock(),
        )

    async def _unary(self, request: Any, **_: float) -> None:
        assert request.lose_files
        self.did.append("check" if request.check_only else "leave")
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer

    async def _is_removed(self) -> bool:
        self.asked_at.append(monotonic())
        return self.removed

    async def _drain(self) -> None:
        self.did.append("drain")

    def ask(self) -> None:
        self.home.leaving.write_text(json.dumps(asdict(REQUEST)))

    def answer(self) -> Any:
        return json.loads(self.home.leave_answer.read_text())["error"]


async def ends(work: Coroutine[Any, Any, None]) -> Reason:
    with pytest.raises(ClusterError) as caught:
        await asyncio.wait_for(work, 60)
    return caught.value.reason


async def goes_on(running: Running, *, seconds: float = 60) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(running.leaving.run(), seconds)


def asked_once_it_runs(running: Running) -> None:
    asyncio.get_running_loop().call_later(1, running.ask)


def test_it_drains_is_removed_and_ends(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path, None, None)
        asked_once_it_runs(running)
        assert await ends(running.leaving.run()) is Reason.REMOVED_FROM_CLUSTER
        assert running.did == ["check", "drain", "leave"]
        assert running.answer() == {}
        with pytest.raises(ClusterError, match="join --replace"):
            check_not_left(running.home)

    virtual_time(run)()


@pytest.mark.parametrize("before", [(), (None,)])
def test_a_refusal_leaves_it_a_member_that_works(tmp_path: Path, before: tuple[None, ...]) -> None:
    async def run() -> None:
        running = Running(tmp_path, *before, AT_RISK)
        asked_once_it_runs(running)
        await goes_on(running)
        assert running.did == ["check", *["drain", "leave"][: 2 * len(before)], "stay"]
        assert running.answer() == {"reason": "QUORUM_AT_RISK", "message": "too few"}
        check_not_left(running.home)

    virtual_time(run)()


@pytest.mark.parametrize("removed", [True, False])
def test_an_answer_that_was_lost_is_made_up_by_most_masters_only(
    tmp_path: Path,
    removed: bool,  # noqa: FBT001
) -> None:
    async def run() -> None:
        running = Running(tmp_path, None, REMOVED)
        running.removed = removed
        asked_once_it_runs(running)
        if removed:
            assert await ends(running.leaving.run()) is Reason.REMOVED_FROM_CLUSTER
            return
        await goes_on(running)
        assert running.did[-1] == "stay"
        check_not_left(running.home)

    virtual_time(run)()


def test_a_request_of_a_former_process_is_void(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path)
        running.ask()
        await goes_on(running)
        assert running.did == []
        assert not running.home.leaving.exists()

    virtual_time(run)()


def test_a_removed_node_ends_once_most_masters_say_so_and_not_before(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path)
        running.refused = True
        await goes_on(running)
        assert running.asked_at
        assert running.asked_at[0] >= REMOVED_SECONDS_MIN
        assert len(running.asked_at) < 60 / REMOVED_SECONDS_MIN + 1
        check_not_left(running.home)
        running.removed = True
        assert await ends(running.leaving.run()) is Reason.REMOVED_FROM_CLUSTER

    virtual_time(run)()


def test_no_master_is_asked_while_a_leader_hears_it(tmp_path: Path) -> None:
    async def run() -> None:
        running = Running(tmp_path)
        running.removed = True
        await goes_on(running)
        assert running.asked_at == []

    virtual_time(run)()


@pytest.mark.parametrize(
    ("said", "removed"),
    [
        ([], False),
        ([True], True),
        ([True, False], False),
        ([True, True, False], True),
        ([True, True, False, False], False),
    ],
)
def test_most_of_the_other_masters_must_say_so(said: list[bool], removed: bool) -> None:  # noqa: FBT001
    assert most_say_removed(said) is removed


def test_a_home_that_another_command_uses_is_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.config.touch()
    home.identity.touch()

    async def run() -> None:
        with home.lock():
            assert await ends(leave(home, lose_files=False, drain_seconds=1)) is Reason.HOME_IN_USE
        assert not home.leaving.exists()

    virtual_time(run)()

"""A command that waits prints why, to standard error. Time is simulated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ipfs_cluster_node.cli import content_commands, task_commands
from ipfs_cluster_node.cli.main import main
from ipfs_cluster_node.cli.output import hint_of_waiting
from ipfs_cluster_node.cli.waiting import (
    LOOK_SECONDS,
    REPEAT_SECONDS,
    continuing,
    saying_what_continues,
    saying_why_it_waits,
)
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.model import TaskState
from ipfs_cluster_node.core.multiformats import RAW, cid_of
from ipfs_cluster_node.core.views import ListedSpec, ListedTask, TaskStatus, TaskWaiting
from tests.support.virtual_time import virtual_time

CID = str(cid_of(RAW, b"data"))


class Cluster:
    """The answers that a client gets."""

    def __init__(self) -> None:
        self.leader = "m"
        self.error: ClusterError | None = None
        self.state = TaskState.PENDING
        self.waiting: TaskWaiting | None = None

    async def get_cluster_status(self, *, timeout: timedelta) -> Any:
        assert timeout
        if self.error is not None:
            raise self.error
        return SimpleNamespace(leader_node_id=self.leader)

    async def get_task(self, _task_id: str, *, timeout: timedelta) -> Any:
        assert timeout
        status = TaskStatus(state=self.state, waiting=self.waiting)
        return ListedTask(spec=ListedSpec(task_type="echo"), status=status)


def said_while(cluster: Cluster, seconds: float, capsys: Any, *task_ids: str) -> list[str]:
    @virtual_time
    async def run() -> None:
        async with saying_why_it_waits(cluster, task_ids):
            await asyncio.sleep(seconds)

    run()
    out, err = capsys.readouterr()
    assert out == ""
    return str(err).splitlines()


def test_no_leader_is_told_after_a_while_and_then_once_a_minute(capsys: Any) -> None:
    cluster = Cluster()
    cluster.leader = ""
    assert said_while(cluster, LOOK_SECONDS - 0.1, capsys) == []
    [line] = said_while(cluster, LOOK_SECONDS + 0.1, capsys)
    assert "no master leads" in line
    assert len(said_while(cluster, LOOK_SECONDS + REPEAT_SECONDS - 1, capsys)) == 1
    assert len(said_while(cluster, LOOK_SECONDS + 2 * REPEAT_SECONDS + 1, capsys)) == 3


@pytest.mark.parametrize(
    ("reason", "told"), [(Reason.UNREACHABLE, True), (Reason.NOT_DELEGATED, False)]
)
def test_silence_is_told_and_what_may_not_be_asked_is_not(
    capsys: Any,
    reason: Reason,
    told: bool,  # noqa: FBT001
) -> None:
    cluster = Cluster()
    cluster.error = ClusterError(reason, "what was said")
    lines = said_while(cluster, LOOK_SECONDS + 1, capsys)
    assert lines == (["still waiting: what was said"] if told else [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"live_task_types": ("sum", "x")},
            "no live worker runs echo: those that are alive run sum",
        ),
        ({}, "no live worker runs echo: none is alive; start one"),
        (
            {"worker_count": 2, "slot_count": 4, "position": 3, "pending_count": 9},
            "3rd of 9 waiting tasks for 4 slots of 2 workers",
        ),
    ],
)
def test_a_task_that_waits_says_for_which_worker(
    capsys: Any, change: dict[str, Any], said: str
) -> None:
    cluster = Cluster()
    cluster.waiting = TaskWaiting(**change)
    [line] = said_while(cluster, LOOK_SECONDS + 1, capsys, "t")
    assert said in line


def test_silence_is_told_once_whichever_call_waits(capsys: Any) -> None:
    cluster = Cluster()
    cluster.error = ClusterError(Reason.UNREACHABLE, "no master answers at a:1 (refused); start")
    with click.Context(click.Command("x")):

        @virtual_time
        async def run() -> None:
            async with saying_why_it_waits(cluster, ()):
                for _ in range(8):
                    await asyncio.sleep(5)
                    hint_of_waiting("still waiting: no master answers at a:1")

        run()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["still waiting: no master answers at a:1"] * 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ClusterError(Reason.DEADLINE_EXCEEDED, "over"), True),
        (ClusterError(Reason.UNREACHABLE, "away"), True),
        (TimeoutError(), True),
        (KeyboardInterrupt(), True),
        (ClusterError(Reason.TASK_NOT_FOUND, "gone"), False),
    ],
)
def test_a_wait_that_runs_out_says_how_to_go_on(
    capsys: Any,
    error: BaseException,
    told: bool,  # noqa: FBT001
) -> None:
    with pytest.raises(type(error)), saying_what_continues() as lines:
        lines[:] = continuing(None, "t1")
        raise error
    said = capsys.readouterr().err
    assert ("task cancel t1" in said and "task get t1" in said) is told


def test_ctrl_c_says_nothing_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_client(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(task_commands, "run_client", run_client)
    done = CliRunner().invoke(main, ["task", "watch", "t"])
    assert done.exit_code == 130
    assert done.output == ""


def test_a_task_that_runs_says_nothing(capsys: Any) -> None:
    cluster = Cluster()
    cluster.state = TaskState.RUNNING
    assert said_while(cluster, 5 * REPEAT_SECONDS, capsys, "t") == []


class Slow(Cluster):
    """Everything takes half a minute, and no master leads."""

    def __init__(self) -> None:
        super().__init__()
        self.leader = ""
        self.lookups = self

    async def task_ids(self, texts: Any) -> list[str]:
        return list(texts)

    async def cid(self, text: str) -> str:
        return text

    async def add_content(self, _path: Path, **_: Any) -> Any:
        await asyncio.sleep(30)
        return SimpleNamespace(cid="bafy", size_bytes=1, holders=())

    async def get_content(self, _cid: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(30)
        yield b"data"

    async def submit_task(self, *_: Any, **__: Any) -> str:
        await asyncio.sleep(30)
        return "t"

    async def watch_tasks(self, _task_ids: Any, **_: Any) -> Any:
        await asyncio.sleep(30)
        yield ListedTask(task_id="t", status=TaskStatus(state=TaskState.CANCELLED))


@pytest.mark.parametrize(
    ("module", "arguments", "times"),
    [
        (content_commands, ["content", "add", __file__], 1),
        (content_commands, ["content", "get", CID, "-o", "-"], 1),
        (task_commands, ["task", "submit", "echo", "--wait"], 2),
        (task_commands, ["task", "watch", "t"], 1),
        (task_commands, ["task", "wait", "t"], 1),
    ],
)
def test_the_commands_that_wait_say_so(
    monkeypatch: pytest.MonkeyPatch, module: Any, arguments: list[str], times: int
) -> None:
    ended: list[Any] = []

    def run_client(_profile: str | None, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        @virtual_time
        async def run() -> None:
            ended.append(await operation(Slow()))

        run()
        return ended[-1]

    monkeypatch.setattr(module, "run_client", run_client)
    done = CliRunner().invoke(main, arguments)
    assert done.stderr.count("no master leads") == times, done.output
    assert "no master leads" not in done.stdout
    assert len(ended) == 1, "it went on"

"""Explains why a command is still waiting: no leader, or no worker for its tasks."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Final

from ipfs_cluster_node.cli.output import hint, hint_of_waiting, say, state_line, with_profile
from ipfs_cluster_node.core.errors import ClusterError, Trait

LOOK_SECONDS: Final = 5.0
"""Delay before the first check of the reason, and between checks."""
REPEAT_SECONDS: Final = 60.0
"""How often the same reason is repeated."""
TASKS_NAMED_MAX: Final = 10
"""Of the tasks that continue, so many are named."""
TASKS_ASKED_MAX: Final = 10
"""At most so many tasks are looked up: each is a call."""
ASK_TIMEOUT: Final = timedelta(seconds=3)


@asynccontextmanager
async def saying_why_it_waits(client: Any, task_ids: Sequence[str] = ()) -> AsyncIterator[None]:
    """While the block runs, print on standard error what it is waiting for; of these tasks too."""
    teller = asyncio.create_task(_tell(client, task_ids), name="say-why-it-waits")
    try:
        yield
    finally:
        teller.cancel()
        await asyncio.gather(teller, return_exceptions=True)


async def wait_shown(client: Any, task_id: str, timeout: timedelta) -> Any:
    """Wait for a task's end, with its state on a terminal; returns the task."""
    async with saying_why_it_waits(client, [task_id]):
        with naming_the_task(task_id), state_line(f"task {task_id}") as show:
            async for watched in client.watch_tasks([task_id], timeout=timeout):
                if watched.status.has_ended:
                    return watched
                ratio = watched.status.progress_ratio
                show(f"{watched.status.state}" + (f" {ratio:.0%}" if ratio else ""))
    raise AssertionError("a watch that ended before its task")


def continuing(profile: str | None, *task_ids: str) -> list[str]:
    """What to say of tasks that are no longer waited for."""
    command = "ipfs-cluster-node" if profile is None else with_profile(profile)
    if len(task_ids) == 1:
        [task_id] = task_ids
        return [
            f"the task continues; to cancel it: {command} task cancel {task_id}",
            f"to see how it ends: {command} task get {task_id}",
        ]
    shown = " ".join(task_ids[:TASKS_NAMED_MAX]) + (" …" if task_ids[TASKS_NAMED_MAX:] else "")
    return [
        f"{len(task_ids)} tasks continue: {shown}",
        f"to cancel one: {command} task cancel TASK_ID; to see how they end: {command} task list",
    ]


@contextmanager
def naming_the_task(task_id: str) -> Iterator[None]:
    """Add the task's id to the metadata of an error, so that it can be found."""
    try:
        yield
    except ClusterError as error:
        error.metadata = {**error.metadata, "task_id": task_id}
        raise


@contextmanager
def saying_what_continues() -> Iterator[list[str]]:
    """If Ctrl-C, a timeout or silence ends the block, print the lines put into the list by then."""
    lines: list[str] = []
    try:
        yield lines
    except KeyboardInterrupt:
        say(*lines, err=True)
        raise
    except ClusterError as error:
        if error.reason.has(Trait.NO_ANSWER):
            hint(*lines)
        raise
    except TimeoutError:
        hint(*lines)
        raise


async def _tell(client: Any, task_ids: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    told, told_at = "", 0.0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            reason = await _why(client, task_ids)
        except ClusterError as error:
            # A lookup that is denied or fails gives no reason.
            reason = error.message if error.reason.has(Trait.RETRYABLE) else ""
            if error.reason.has(Trait.NO_ANSWER):
                # The call that waits may have said so already.
                hint_of_waiting(f"still waiting: {reason.partition(' (')[0]}")
                told = ""
                continue
        if reason and (reason != told or loop.time() - told_at >= REPEAT_SECONDS):
            hint(f"still waiting: {reason}")
            told_at = loop.time()
        told = reason


async def _why(client: Any, task_ids: Sequence[str]) -> str:
    """What the block is waiting for, as far as known; empty if all goes well."""
    from ipfs_cluster_node.core.task_details import waiting_words  # `--help` needs none.

    status = await client.get_cluster_status(timeout=ASK_TIMEOUT)
    if not status.leader_node_id:
        return "no master leads; a majority of the masters must run"
    for task_id in task_ids[:TASKS_ASKED_MAX]:
        task = await client.get_task(task_id, timeout=ASK_TIMEOUT)
        if task.status.waiting is not None:
            return waiting_words(task.spec.task_type, task.status.waiting)
    return ""

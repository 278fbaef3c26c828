"""A pool of handler processes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ipfs_cluster_node.adapters.worker.processes import HandlerProcess
from ipfs_cluster_node.adapters.worker.registry import load_handlers
from ipfs_cluster_node.core.errors import Reason
from ipfs_cluster_node.core.ids import TaskId

log = logging.getLogger(__name__)

ATTEMPTS_PER_PROCESS_MAX: Final = 10_000
"""After so many a process is replaced, so that what handlers leak does not add up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """An input as a file."""

    path: Path
    cid: str
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What to run."""

    task_id: TaskId
    attempt: int
    task_type: str
    payload: bytes
    content_type: str
    timeout: timedelta
    inputs: Mapping[str, InputFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded:
    """A result; `file` lies in the attempt's scratch directory."""

    data: bytes
    content_type: str
    file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """A failure; `retryable` if another attempt may succeed."""

    reason: Reason
    message: str
    retryable: bool


Progress = Callable[[TaskId, int, float, str], None]


class HandlerPool:
    """Runs attempts in processes that are kept warm."""

    def __init__(
        self,
        *,
        modules: Sequence[str],
        slots: int,
        memory_bytes_max: int,
        hidden: Callable[[], Sequence[Path]] = tuple,
        on_progress: Progress = lambda _task, _attempt, _ratio, _note: None,
    ) -> None:
        """Know the handlers; `start` starts the processes.

        Args:
            modules: Of the handlers.
            slots: How many processes.
            memory_bytes_max: What a handler is told that it may use.
            hidden: What handlers must not see; asked for each process.
            on_progress: Called with what they say of their progress.

        Raises:
            ClusterError: CONFIG_INVALID for a module that can't be imported.
        """
        self._modules = tuple(modules)
        self._slots = slots
        self._memory_bytes_max = memory_bytes_max
        self._hidden = hidden
        self._on_progress = on_progress
        self._idle: list[tuple[HandlerProcess, int]] = []
        self.task_types = frozenset(load_handlers(modules)) if slots else frozenset()

    async def start(self) -> None:
        """Start the processes."""
        started = await asyncio.gather(*(self._start_process() for _ in range(self._slots)))
        self._idle = [(process, 0) for process in started]
        if started and started[0].unconfined:
            log.warning(
                "handlers are not confined: they can read the node's keys",
                extra={"why": started[0].unconfined},
            )

    def _start_process(self) -> Awaitable[HandlerProcess]:
        return HandlerProcess.start(self._modules, self._memory_bytes_max, self._hidden())

    async def close(self) -> None:
        """Kill the processes."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.kill() for process, _ in idle))

    async def execute(self, attempt: Attempt, scratch: Path) -> AttemptSucceeded | AttemptFailed:
        """Run an attempt. Cancelling this kills its process, and all that it started, first.

        Args:
            attempt: At most `slots` run at once; the caller sees to that.
            scratch: An empty directory of the attempt; the caller removes it.
        """
        try:
            process, served = await self._take()
        except (OSError, TimeoutError) as error:
            return AttemptFailed(
                reason=Reason.HANDLER_FAILED,
                message=f"no handler process could be started ({error}); see the worker's log",
                retryable=True,
            )
        reusable = False
        try:
            async with asyncio.timeout(attempt.timeout.total_seconds()):
                await process.write(_header(attempt, scratch), attempt.payload)
                while "progress" in (answer := await process.read())[0]:
                    news = answer[0]
                    self._on_progress(
                        attempt.task_id, attempt.attempt, news["progress"], news["note"]
                    )
            reusable = not process.has_children and served + 1 < ATTEMPTS_PER_PROCESS_MAX
            return _outcome(*answer)
        except TimeoutError:
            return AttemptFailed(
                reason=Reason.ATTEMPT_TIMED_OUT,
                message=f"the attempt ran longer than its time and was killed; give it longer "
                f"than {attempt.timeout.total_seconds():.3g} s",
                retryable=False,
            )
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, KeyError):
            return AttemptFailed(
                reason=Reason.HANDLER_FAILED,
                message=f"the handler's process {await process.how_it_died()}",
                retryable=True,
            )
        finally:
            if reusable:
                self._idle.append((process, served + 1))
            else:
                await asyncio.shield(process.kill())

    async def _take(self) -> tuple[HandlerProcess, int]:
        if self._idle:
            return self._idle.pop()
        return await self._start_process(), 0


def _header(attempt: Attempt, scratch: Path) -> dict[str, Any]:
    return {
        "task_id": attempt.task_id,
        "attempt": attempt.attempt,
        "task_type": attempt.task_type,
        "content_type": attempt.content_type,
        "scratch": str(scratch),
        "inputs": {
            name: [str(given.path), given.cid, given.format]
            for name, given in attempt.inputs.items()
        },
    }


def _outcome(header: dict[str, Any], body: bytes) -> AttemptSucceeded | AttemptFailed:
    if header["ok"]:
        return AttemptSucceeded(
            data=body,
            content_type=header["content_type"],
            file=None if header["file"] is None else Path(header["file"]),
        )
    return AttemptFailed(
        reason=Reason(header["reason"]), message=header["message"], retryable=header["retryable"]
    )

"""A pool of handler processes."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

from ipfs_cluster_node.adapters.worker import confinement, trees
from ipfs_cluster_node.adapters.worker.answers import (
    FailureSaid,
    Identity,
    ProgressSaid,
    ProtocolError,
    ResultSaid,
)
from ipfs_cluster_node.adapters.worker.files import ResultFileError, open_result
from ipfs_cluster_node.adapters.worker.processes import (
    ConfinementError,
    Ended,
    HandlerProcess,
    Plan,
)
from ipfs_cluster_node.adapters.worker.runner import MEMORY_ADVICE
from ipfs_cluster_node.adapters.worker.sources import Refused, Sources
from ipfs_cluster_node.core.errors import ClusterError, Reason
from ipfs_cluster_node.core.ids import TaskId
from ipfs_cluster_node.core.model import RESULT_INLINE_BYTES_MAX
from ipfs_cluster_node.tasks import TaskInputFile

log = logging.getLogger(__name__)

ATTEMPTS_PER_RUNNER_MAX: Final = 10_000
"""After so many a runner is replaced, so that handlers' leaks do not add up."""
WATCH_INTERVAL_SECONDS: Final = 0.1
MEMORY_EXTRA_BYTES: Final = 256 * 2**20
"""Memory of an attempt beyond `tasks.memory_max`, for interpreters and libraries."""
PROCESS_COUNT_MAX: Final = 256
"""Concurrent processes of one attempt."""
THREAD_COUNT_MAX: Final = 2048
"""Concurrent threads of one attempt, in all its processes together."""
PROGRESS_COUNT_FREE: Final = 32
PROGRESS_PAUSE_SECONDS: Final = 0.01
"""Pause after each further frame of progress, so that a flood costs the handler's own time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt to run."""

    task_id: TaskId
    attempt: int
    task_type: str
    payload: bytes
    content_type: str
    timeout: timedelta
    inputs: Mapping[str, TaskInputFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded:
    """A result; `file` is open, and closed when the lease is returned."""

    data: bytes
    content_type: str
    file: BinaryIO | None


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A failure; `retryable` if another attempt may succeed."""

    reason: Reason
    message: str
    retryable: bool = False
    output_tail: str = ""


Progress = Callable[[TaskId, int, float, str], None]


class HandlerPool:
    """Runs attempts in prepared processes."""

    def __init__(
        self,
        *,
        sources: Sources,
        slots: int,
        memory_bytes_max: int,
        scratch: Path,
        hidden: Sequence[Path] = (),
        writable: Sequence[str] = (),
        require_confinement: bool = False,
        also_kept: Collection[str] = (),
        on_progress: Progress = lambda _task, _attempt, _ratio, _note: None,
    ) -> None:
        """Take what to load handlers from; `start` starts the processes, one for each slot.

        An attempt that uses `MEMORY_EXTRA_BYTES` beyond `memory_bytes_max` is killed. `scratch` is
        for the pool alone, and emptied at the start; it may lie in a hidden path. Hidden paths that
        are missing when the pool starts are ignored. `also_kept` are task types whose runners are
        kept like those of the node's own handlers; for tests only, since a kept runner is trusted.
        """
        self._plan = Plan(
            sources=sources,
            memory_bytes_max=memory_bytes_max,
            scratch=scratch,
            hidden=(),
            writable=tuple(writable),
        )
        self._hidden = tuple(hidden)
        self._slots = slots
        self._require = require_confinement
        self._on_progress = on_progress
        self._idle: list[HandlerProcess] = []
        self._busy: set[HandlerProcess] = set()
        self._killing: set[asyncio.Task[None]] = set()
        self._confined = True
        self._watcher: asyncio.Task[None] | None = None
        self.missing: tuple[str, ...] = ()
        """Parts of the handlers' confinement that this machine lacks, as sentences."""
        self.task_types: frozenset[str] = frozenset()
        """Those of the handlers, once it has started."""
        self.refused: tuple[Refused, ...] = ()
        """Files with handlers, and task types, that are left out; once it has started."""
        self._kept_types = frozenset(also_kept)

    async def start(self) -> None:
        """Start the processes.

        Raises:
            ClusterError: CONFINEMENT_MISSING, if it is required but not possible; CONFIG_INVALID
                for a writable path, and for handlers that can't be loaded, with the traceback as
                its note.
            OSError, TimeoutError: Some did not start; `close` kills the others.
        """
        if not self._slots:
            return
        scratch = self._plan.scratch
        with suppress(FileNotFoundError):
            await asyncio.to_thread(trees.remove, scratch)
        scratch.mkdir(mode=0o700, parents=True)
        hidden = tuple(confinement.Place.at(path) for path in self._hidden if path.exists())
        self._plan = replace(
            self._plan,
            scratch=scratch.resolve(),
            hidden=hidden,
            writable=confinement.writable_beside(self._plan.writable, hidden),
            visible=confinement.visible_in(hidden, self._plan.sources),
        )
        self._idle = [first := await self._start_first()]
        self.task_types = first.loaded.types
        self._kept_types |= first.loaded.kept
        self.refused = (*self._plan.sources.refused, *first.loaded.refused)
        for refused in self.refused:
            log.error("handlers are left out", extra=asdict(refused))
        self._watcher = asyncio.create_task(self._watch(), name="handler-watch")
        others = await asyncio.gather(
            *(self._start_process() for _ in range(self._slots - 1)), return_exceptions=True
        )
        self._idle += [each for each in others if isinstance(each, HandlerProcess)]
        for each in others:
            if isinstance(each, BaseException):
                raise each

    async def _start_first(self) -> HandlerProcess:
        first: HandlerProcess | None
        try:
            first = await self._start_process()
            self.missing = first.missing
        except ConfinementError as error:
            self._confined = False
            self.missing = (f"handlers can read the node's keys and signal it ({error})",)
            first = await self._start_process() if not self._require else None
        if self.missing:
            log.warning("handlers are not confined", extra={"missing": self.missing})
        if first is None or (self._require and self.missing):
            if first is not None:
                await first.kill()
            raise ClusterError(
                Reason.CONFINEMENT_MISSING,
                f"{'; '.join(self.missing)}; permit user namespaces on this machine (see "
                "docs/security.md), or start without --require-confinement",
            )
        return first

    async def _start_process(self) -> HandlerProcess:
        return await HandlerProcess.start(self._plan, confined=self._confined)

    async def close(self) -> None:
        """Kill the processes."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        idle, self._idle = self._idle, []
        await asyncio.gather(*self._killing, *(process.kill() for process in idle))

    @asynccontextmanager
    async def lease(self, task_type: str) -> AsyncIterator["Lease"]:
        """Lease a process for an attempt, with a scratch directory that only this process sees.

        The caller takes at most `slots` at once. Leaving the block first kills everything that the
        attempt started.

        Raises:
            ClusterError: HANDLER_FAILED, no process could be started.
        """
        process = await self._take(task_type)
        lease = None
        try:
            lease = Lease(
                process=process,
                reusable=task_type in self._kept_types,
                busy=self._busy,
                on_progress=self._on_progress,
            )
            yield lease
        finally:
            await asyncio.shield(self._give_back(process, lease))

    async def _take(self, task_type: str) -> HandlerProcess:
        for fits in (task_type, ""):
            for process in self._idle:
                # A kept runner that continued after its answer gets no other attempt.
                if process.kept_type == fits and process.runner.waits:
                    self._idle.remove(process)
                    return process
        if self._idle:
            process = self._idle.pop()
            if await self._renew(process):
                return process
            await process.kill()
        try:
            return await self._start_process()
        except (OSError, TimeoutError, ClusterError) as error:
            raise ClusterError(
                Reason.HANDLER_FAILED,
                f"no handler process could be started ({error}); see the worker's log",
            ) from error

    async def _renew(self, process: HandlerProcess) -> bool:
        """Give a process a fresh runner; False if it does not obey."""
        try:
            ended = await process.end()
            process.runner.close()
            process.fork()
            await process.clear()
        except (OSError, EOFError, TimeoutError):
            return False
        return ended.clean

    async def _give_back(self, process: HandlerProcess, lease: "Lease | None") -> None:
        good = lease is not None and await lease.close()
        if good:
            try:
                await process.clear()
            except OSError as error:
                log.warning("a scratch directory could not be emptied", extra={"why": str(error)})
                good = False
        if good:
            self._idle.append(process)
        else:
            await process.kill()

    # Limits of an attempt.

    async def _watch(self) -> None:
        # In a thread of its own: handlers determine how long a check takes.
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="handler-watch") as thread:
            # Started once: an attempt with many threads may leave no room for another.
            await loop.run_in_executor(thread, os.getpid)
            while True:
                await asyncio.sleep(WATCH_INTERVAL_SECONDS)
                for process in list(self._busy):
                    runner = process.runner
                    if why := await loop.run_in_executor(thread, self._excess, process):
                        runner.stop(why)
                for process in [each for each in self._idle if each.kept_type]:
                    why = await loop.run_in_executor(thread, self._excess_of_idle, process)
                    if why and process in self._idle:
                        self._idle.remove(process)
                        log.warning(
                            "killed a handler's process that kept running between attempts",
                            extra={"task_type": process.kept_type, "why": why},
                        )
                        killing = asyncio.create_task(process.kill(), name="handler-kill")
                        self._killing.add(killing)
                        killing.add_done_callback(self._killing.discard)

    def _excess_of_idle(self, process: HandlerProcess) -> str:
        return self._excess(process) if process.is_alone else "it started processes"

    def _excess(self, process: HandlerProcess) -> str:
        used = process.usage(processes_max=PROCESS_COUNT_MAX, threads_max=THREAD_COUNT_MAX)
        bound = self._plan.memory_bytes_max + MEMORY_EXTRA_BYTES
        if used.process_count > PROCESS_COUNT_MAX:
            return f"it had more than {PROCESS_COUNT_MAX} processes at once"
        if used.thread_count > THREAD_COUNT_MAX:
            return f"it had more than {THREAD_COUNT_MAX} threads at once"
        if used.resident_bytes > bound and (used_bytes := process.proportional_bytes) > bound:
            return f"it used {used_bytes // 2**20} MiB of memory, over {bound // 2**20}"
        return ""


@dataclass(slots=True, kw_only=True)
class Lease:
    """A process leased for one attempt."""

    process: HandlerProcess
    reusable: bool
    busy: set[HandlerProcess]
    """Holds the process as long as anything of the attempt may run, so that it is watched."""
    on_progress: Progress
    directory: int = field(init=False)
    """A descriptor of the scratch directory, the only way the node accesses it: handlers can
    replace anything behind a name."""
    _file: BinaryIO | None = field(init=False, default=None)
    _state: str = field(init=False, default="fresh")
    """`fresh`: nothing ran; `kept`: its runner may continue; `used`: its runner must end; `ended`;
    `broken`: the process can't be used any longer."""
    _ended: Ended | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.directory = self.process.open_scratch()

    @property
    def scratch(self) -> Path:
        """The attempt's directory; empty at first, and emptied or removed after the lease."""
        return self.process.scratch

    async def run(self, attempt: Attempt) -> AttemptSucceeded | AttemptFailed:
        """Run the attempt, once. Cancelling this first kills everything that it started."""
        process, runner = self.process, self.process.runner
        asked = Identity(
            task_id=attempt.task_id, attempt=attempt.attempt, nonce=secrets.token_hex(16)
        )
        runner.output.begin(attempt.task_id, attempt.attempt)
        process.kept_type = attempt.task_type
        process.served += 1
        self._state = "used"
        self.busy.add(process)
        try:
            try:
                async with asyncio.timeout(attempt.timeout.total_seconds()):
                    said = await self._talk(asked, attempt)
                answer = await self._outcome(said)
            except TimeoutError:
                answer = AttemptFailed(
                    Reason.ATTEMPT_TIMED_OUT,
                    "the attempt ran longer than its time and was killed; give it longer than "
                    f"{attempt.timeout.total_seconds():.3g} s",
                )
            except ProtocolError as error:
                # A keeper that handlers can't reach is intact; otherwise it is not trusted either.
                self._state = "used" if self.process.confined else "broken"
                who = {"task_id": asked.task_id, "attempt": asked.attempt}
                log.warning("killed a handler's process", extra={**who, "why": str(error)})
                answer = AttemptFailed(
                    Reason.HANDLER_FAILED, f"the handler's process was killed: {error}"
                )
            except (EOFError, OSError):
                answer = await self._died()
        finally:
            try:
                await self._settle()
            finally:
                self.busy.discard(process)
        tail = runner.output.finish()
        return replace(answer, output_tail=tail) if isinstance(answer, AttemptFailed) else answer

    async def _talk(self, asked: Identity, attempt: Attempt) -> ResultSaid | FailureSaid:
        runner = self.process.runner
        request = _request(attempt, self.scratch, keep=self.reusable)
        await runner.ask(asked, request, attempt.payload)
        count = 0
        while isinstance(said := await runner.hear(asked), ProgressSaid):
            self.on_progress(attempt.task_id, attempt.attempt, said.ratio, said.note)
            count += 1
            if count > PROGRESS_COUNT_FREE:
                await asyncio.sleep(PROGRESS_PAUSE_SECONDS)
        if (
            self.reusable
            and said.clean
            and self.process.served < ATTEMPTS_PER_RUNNER_MAX
            and self.process.is_alone
        ):
            self._state = "kept"
        else:
            await self._settle()
        if runner.has_unread:
            raise ProtocolError("it continued after its answer")
        return said

    async def _outcome(self, said: ResultSaid | FailureSaid) -> AttemptSucceeded | AttemptFailed:
        if isinstance(said, FailureSaid):
            return AttemptFailed(said.reason, said.message, said.retryable)
        if said.file is not None:
            try:
                opened = await asyncio.to_thread(open_result, self.directory, said.file)
            except ResultFileError as error:
                return AttemptFailed(Reason.TASK_RESULT_INVALID, str(error))
            self._file = os.fdopen(opened, "rb")
            if len(said.data) > RESULT_INLINE_BYTES_MAX:
                raise ProtocolError("it sent too many bytes in addition to a file")
        return AttemptSucceeded(data=said.data, content_type=said.content_type, file=self._file)

    async def _died(self) -> AttemptFailed:
        await self._settle()
        if stopped := self.process.runner.stopped_for:
            return AttemptFailed(
                Reason.TASK_MEMORY_EXCEEDED, f"the attempt was killed: {stopped}; {MEMORY_ADVICE}"
            )
        how = (
            "went away with the process it was made in" if self._ended is None else self._ended.text
        )
        why = f"the handler's process {how}"
        return AttemptFailed(Reason.HANDLER_FAILED, why, retryable=True)

    async def _settle(self) -> None:
        """Make sure that nothing of the attempt keeps running, unless its runner is kept."""
        if self._state != "used":
            return
        self._state = "broken"
        with suppress(OSError, EOFError, TimeoutError):
            self._ended = await asyncio.shield(self.process.end())
            if self._ended.clean:
                self._state = "ended"

    async def close(self) -> bool:
        """Close everything; returns whether the process can be used again."""
        if self._file is not None:
            self._file.close()
        if self._state == "ended":
            self.process.runner.close()
            try:
                self.process.fork()
            except OSError:
                return False
        return self._state not in ("used", "broken")


def _request(attempt: Attempt, scratch: Path, *, keep: bool) -> dict[str, Any]:
    return {
        "task_type": attempt.task_type,
        "content_type": attempt.content_type,
        "scratch": str(scratch),
        "keep": keep,
        "inputs": {
            name: [str(given.path), given.cid, given.format]
            for name, given in attempt.inputs.items()
        },
    }

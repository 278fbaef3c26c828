"""One thread that writes the log, so that the event loop runs on while the disk works.

`asyncio.to_thread` would do, but costs some 0.1 ms of CPU per write, and waits when other work
occupies all its threads.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

STOP_SECONDS_MAX: Final = 5.0
"""How long a node that stops waits for a write, whose disk may hang."""

_Job = tuple[Callable[[], None], asyncio.Future[None]]


class Writer:
    """Runs blocking jobs, one after the other."""

    def __init__(self) -> None:
        """Start the thread; call it in a running loop."""
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._ended = self._loop.create_future()
        # A daemon: a process must be able to end while its disk hangs.
        threading.Thread(target=self._work, name="raft-writer", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether its thread has ended, and so writes nothing any more."""
        return self._ended.done()

    async def run(self, job: Callable[[], None]) -> None:
        """Run a job in the thread, to its end even if this is cancelled; raises what it raises."""
        done = self._loop.create_future()
        self._jobs.put((job, done))
        await done

    async def stop(self) -> bool:
        """End the thread after its present job; returns whether it ended in time."""
        self._jobs.put(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await asyncio.shield(self._ended)
        return self.ended

    def _work(self) -> None:
        while (taken := self._jobs.get()) is not None:
            job, done = taken
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:  # Raised where the job is awaited.
                error = raised
            self._tell(done, error)
        self._tell(self._ended, None)

    def _tell(self, done: asyncio.Future[None], error: BaseException | None) -> None:
        with suppress(RuntimeError):  # The loop is closed: nothing awaits the job.
            self._loop.call_soon_threadsafe(_settle, done, error)


def _settle(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)

"""The thread that writes the log."""

import asyncio
import threading
import time
from functools import partial

import pytest

from ipfs_cluster_node.adapters.raft import writer as writer_module
from ipfs_cluster_node.adapters.raft.writer import Writer


def test_jobs_run_in_turn_in_another_thread() -> None:
    async def main() -> list[int]:
        writer = Writer()
        done: list[int] = []
        loop_thread = threading.get_ident()

        def job(number: int) -> None:
            assert threading.get_ident() != loop_thread
            time.sleep(0.01 / (number + 1))
            done.append(number)

        await asyncio.gather(*(writer.run(partial(job, n)) for n in range(3)))
        assert await writer.stop()
        return done

    assert asyncio.run(main()) == [0, 1, 2]


def test_who_waits_learns_what_failed_and_the_thread_goes_on() -> None:
    async def main() -> None:
        writer, done = Writer(), []

        def fail() -> None:
            raise OSError(28, "no space left")

        with pytest.raises(OSError, match="no space left"):
            await writer.run(fail)
        await writer.run(lambda: done.append(1))
        assert done == [1]
        assert await writer.stop()

    asyncio.run(main())


def test_a_write_under_way_is_waited_for() -> None:
    """The files must not be closed under it."""

    async def main() -> None:
        writer, ends = Writer(), threading.Event()
        written = []

        def job() -> None:
            ends.wait(10)
            written.append(True)

        task = asyncio.ensure_future(writer.run(job))
        await asyncio.sleep(0.01)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, ends.set)
        assert await writer.stop()
        assert written == [True]

    asyncio.run(main())


def test_a_write_that_hangs_does_not_keep_a_node_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_module, "STOP_SECONDS_MAX", 0.05)

    async def main() -> None:
        writer, ends = Writer(), threading.Event()

        def hang() -> None:
            ends.wait(10)

        task = asyncio.ensure_future(writer.run(hang))
        await asyncio.sleep(0.01)
        assert not await writer.stop()
        ends.set()
        task.cancel()

    asyncio.run(main())

"""What a task of consensus waits for between two turns."""

import asyncio

import pytest

from ipfs_cluster_node.adapters.raft.wake import Wake
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_what_was_set_before_is_not_waited_for_and_is_then_cleared() -> None:
    wake = Wake()
    wake.set()
    wake.set()
    await wake.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wake.wait(), 0.01)


@virtual_time
async def test_the_waiter_is_woken_each_time() -> None:
    wake, woken = Wake(), 0

    async def wait() -> None:
        nonlocal woken
        while True:
            await wake.wait()
            woken += 1

    waiter = asyncio.create_task(wait())
    for number in range(3):
        await asyncio.sleep(0)
        assert woken == number
        wake.set()
        wake.set()  # Once more changes nothing.
        await asyncio.sleep(0)
        assert woken == number + 1
    waiter.cancel()


@virtual_time
async def test_a_cancelled_waiter_takes_nothing_along() -> None:
    wake = Wake()
    waiter = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    waiter.cancel()
    wake.set()
    await asyncio.gather(waiter, return_exceptions=True)
    async with asyncio.timeout(1):
        await wake.wait()

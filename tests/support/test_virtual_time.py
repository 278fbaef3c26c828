"""The loop with a virtual clock."""

import asyncio
import time

import pytest

from ipfs_cluster_node.adapters.raft.clock import now
from tests.support.virtual_time import BEGIN_MS, monotonic, now_ms, virtual_loop, virtual_time


@virtual_time
async def test_hours_pass_at_once_and_all_clocks_agree() -> None:
    began = time.monotonic()
    await asyncio.sleep(7200)
    assert time.monotonic() - began < 5
    assert monotonic() == now() == pytest.approx(7200, abs=0.01)
    assert now_ms() == pytest.approx(BEGIN_MS + 7_200_000, abs=10)


@virtual_time
async def test_timers_fire_in_order() -> None:
    order: list[int] = []

    async def wait(seconds: int) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    await asyncio.gather(*map(wait, (5, 1, 3)))
    assert order == [1, 3, 5]


@virtual_time
async def test_the_clock_stands_still_while_a_thread_works() -> None:
    timer = asyncio.create_task(asyncio.sleep(1))
    await asyncio.to_thread(time.sleep, 0.05)
    assert not timer.done()
    assert virtual_loop().time() < 1
    await timer


@virtual_time
async def test_a_timeout_is_one() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()

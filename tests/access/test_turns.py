"""Long work yields: one slice at a time, callers in turn, with the loop free between slices."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import pytest

from ipfs_cluster_node.access import turns as turns_module
from ipfs_cluster_node.access.turns import (
    CROWD_SECONDS,
    PAUSE_SECONDS,
    SLICE_SECONDS,
    Turn,
    Turns,
    current_turn,
    gathered,
    set_turn,
)
from tests.support.virtual_time import monotonic, virtual_loop, virtual_time


class Clock:
    """Time that passes only when the work says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns_module, "PAUSE_SECONDS", 0.0)
    return clock


@pytest.mark.asyncio
async def test_the_loop_has_its_turns_while_items_are_gathered(clock: Clock) -> None:
    rounds = 0
    done = asyncio.Event()

    async def others() -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            await asyncio.sleep(0)

    def items() -> Iterator[int | None]:
        for number in range(100):
            clock.now += 0.001
            yield number if number % 2 else None

    other = asyncio.create_task(others())
    set_turn(Turn(Turns(clock), "a"))
    assert await gathered(items()) == list(range(1, 100, 2))
    done.set()
    await other
    assert rounds >= 15  # 100 ms, of which none was longer than a slice of 5.


@pytest.mark.asyncio
async def test_callers_take_turns_however_much_one_of_them_asks(clock: Clock) -> None:
    turns, served = Turns(clock), []

    async def work(caller: str) -> None:
        await turns.next(caller)
        served.append(caller)
        clock.now += 1.0

    tasks = [asyncio.create_task(work("greedy")) for _ in range(10)]
    tasks.append(asyncio.create_task(work("modest")))
    await asyncio.gather(*tasks)
    assert served.index("modest") <= 1
    assert len(served) == 11


@pytest.mark.asyncio
async def test_short_turns_share_a_slice_and_long_ones_do_not(clock: Clock) -> None:
    """Otherwise a thousand waiting small calls would be served one by one."""
    turns, rounds = Turns(clock), []

    async def work(seconds: float) -> None:
        await turns.next("a")
        rounds.append(clock.now)
        clock.now += seconds

    begins = []
    begin = turns._begin_slice

    def counted() -> None:
        begins.append(clock.now)
        begin()

    turns._begin_slice = counted  # type: ignore[method-assign]
    await asyncio.gather(*(work(0.0001) for _ in range(20)))
    assert len(begins) == 1
    await asyncio.gather(*(work(0.01) for _ in range(5)))
    assert len(begins) == 6


@virtual_time
async def test_between_two_slices_the_loop_is_free_for_a_while() -> None:
    """Consensus passes through the loop several times to commit one entry."""
    loop, began = virtual_loop(), []
    turns = Turns(monotonic)

    async def work() -> None:
        await turns.next("a")
        began.append(loop.time())
        loop.advance(SLICE_SECONDS)

    await asyncio.gather(*(work() for _ in range(5)))
    pauses = [after - before for before, after in pairwise(began)]
    assert min(pauses) >= SLICE_SECONDS + PAUSE_SECONDS - 1e-6


@pytest.mark.asyncio
async def test_who_is_cancelled_while_it_waits_holds_up_nobody(clock: Clock) -> None:
    turns = Turns(clock)
    gone = asyncio.create_task(turns.next("a"))
    next_ = asyncio.create_task(turns.next("b"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(next_, 5)
    await asyncio.wait_for(turns.next("a"), 5)


@pytest.mark.asyncio
async def test_calls_that_begin_in_one_round_of_the_loop_share_their_time(clock: Clock) -> None:
    """A thousand concurrent requests all began before anything else ran."""
    turns = Turns(clock)
    assert not turns.crowded()
    clock.now += 0.6 * CROWD_SECONDS
    assert not turns.crowded()
    clock.now += 0.6 * CROWD_SECONDS
    assert turns.crowded()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not turns.crowded()


@pytest.mark.asyncio
async def test_outside_of_a_call_there_is_a_turn_as_well() -> None:
    assert not current_turn().over

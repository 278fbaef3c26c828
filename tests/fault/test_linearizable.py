"""The checker accepts correct stores, and finds what is wrong with others."""

import random
from collections.abc import Callable
from math import inf

import pytest

from scripts.lib.fault.linearizable import Call, is_linearizable, violations

CLIENTS, CALLS, KEYS = 8, 1500, 5


class Store:
    """Registers whose calls take effect at one moment between their beginning and their end."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.values: dict[str, str] = {}
        self.old: list[tuple[str, str | None]] = []

    def write(self, key: str, value: str) -> bool:
        self.old.append((key, self.values.get(key)))
        self.values[key] = value
        return True

    def read(self, key: str) -> str | None:
        return self.values.get(key)


class Loses(Store):
    """Some acknowledged writes never happened."""

    def write(self, key: str, value: str) -> bool:
        return True if self.rng.random() < 0.05 else super().write(key, value)


class Stale(Store):
    """One read in a hundred gives an older value."""

    def read(self, key: str) -> str | None:
        older = [value for k, value in self.old[-40:] if k == key]
        return older[0] if older and self.rng.random() < 0.01 else super().read(key)


class Twice(Store):
    """One write in fifty happens once more, later."""

    def write(self, key: str, value: str) -> bool:
        if self.old and self.rng.random() < 0.02:
            again, last = self.old[-min(len(self.old), 20)]
            if last is not None:
                self.values[again] = last
        return super().write(key, value)


def history(make: Callable[[random.Random], Store], seed: int) -> list[Call]:
    """Clients call at once; the store serves them in an order of its own."""
    rng = random.Random(seed)
    store = make(rng)
    now = 0.0
    busy = [0.0] * CLIENTS
    calls = []
    for number in range(CALLS):
        client = rng.randrange(CLIENTS)
        now += rng.random()
        start = max(now - rng.random() * 3, busy[client])
        end = now + rng.random() * 3
        now = max(now, start)
        key = f"k{rng.randrange(KEYS)}"
        unanswered = rng.random() < 0.01
        busy[client] = end
        kind = rng.random()
        if kind < 0.5:
            calls.append(Call(key, "read", store.read(key), start, max(end, now)))
        elif kind < 0.8:
            value = str(number)
            if not unanswered or rng.random() < 0.5:
                store.write(key, value)
            calls.append(Call(key, "write", value, start, inf if unanswered else max(end, now)))
        else:
            expected = rng.choice((store.values.get(key), "nonsense"))
            hits = store.values.get(key) == expected
            if hits:
                store.values[key] = str(number)
            calls.append(
                Call(key, "cas", str(number), start, max(end, now), expected=expected, done=hits)
            )
    return calls


@pytest.mark.parametrize("seed", range(5))
def test_a_right_store_passes(seed: int) -> None:
    assert violations(history(Store, seed)) == []


@pytest.mark.parametrize("make", [Loses, Stale, Twice])
@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_store_is_found(make: Callable[[random.Random], Store], seed: int) -> None:
    assert violations(history(make, seed)) != []


def test_an_unanswered_call_may_have_happened_or_not() -> None:
    write = Call("k", "write", "1", 0, inf)
    for seen in (None, "1"):
        assert is_linearizable([write, Call("k", "read", seen, 1, 2)])
    assert not is_linearizable([write, Call("k", "read", "1", 1, 2), Call("k", "read", None, 3, 4)])


def test_order_in_real_time_holds() -> None:
    first, second = Call("k", "write", "1", 0, 1), Call("k", "write", "2", 2, 3)
    assert is_linearizable([first, second, Call("k", "read", "2", 4, 5)])
    assert not is_linearizable([first, second, Call("k", "read", "1", 4, 5)])
    assert is_linearizable([first, second, Call("k", "read", "1", 0.5, 5)])


def test_a_compare_that_failed_saw_another_value() -> None:
    write = Call("k", "write", "1", 0, 1)
    wrong = Call("k", "cas", "2", 2, 3, expected="1", done=False)
    assert not is_linearizable([write, wrong])

"""Whether a history could have happened one call after another (Wing and Gong, with a memo).

One register a key: `write`, `read`, and `cas` (a write if the value is what was expected). A call
that nobody answered may have taken effect at any time after it began, or never within the history.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

Value = str | None


@dataclass(frozen=True)
class Call:
    """One call, as its client saw it."""

    key: str
    kind: str
    """`write`, `read` or `cas`."""
    value: Value
    """Written, or read."""
    start: float
    end: float
    """`inf` if nobody answered."""
    expected: Value = None
    """For `cas`."""
    done: bool = True
    """For `cas`: whether it was answered that it took effect."""


def step(call: Call, state: Value) -> tuple[bool, Value]:
    """Whether a register in this state could answer so, and its state afterwards."""
    if call.kind == "read":
        return state == call.value, state
    if call.kind == "write":
        return True, call.value
    hits = state == call.expected
    after = call.value if hits else state
    return call.end == inf or hits == call.done, after


class _Entry:
    __slots__ = ("after", "before", "call", "number", "returns")

    def __init__(self, number: int, call: Call | None) -> None:
        self.number = number
        self.call = call
        self.returns: _Entry | None = None
        self.before: _Entry | None = None
        self.after: _Entry | None = None

    def lift(self) -> None:
        for each in (self, self.returns):
            assert each is not None
            assert each.before is not None
            each.before.after = each.after
            if each.after is not None:
                each.after.before = each.before

    def unlift(self) -> None:
        for each in (self.returns, self):
            assert each is not None
            assert each.before is not None
            each.before.after = each
            if each.after is not None:
                each.after.before = each


def _linked(calls: list[Call]) -> _Entry:
    events: list[tuple[float, int, _Entry]] = []
    for number, call in enumerate(calls):
        begins, returns = _Entry(number, call), _Entry(number, None)
        begins.returns = returns
        events += [(call.start, 0, begins), (call.end, 1, returns)]
    events.sort(key=lambda event: event[:2])
    head = last = _Entry(-1, None)
    for _, _, entry in events:
        last.after, entry.before = entry, last
        last = entry
    return head


def is_linearizable(calls: list[Call], initial: Value = None) -> bool:
    """Whether the calls on one key are linearizable."""
    head, state, taken = _linked(calls), initial, 0
    seen: set[tuple[int, Value]] = set()
    stack: list[tuple[_Entry, Value]] = []
    entry = head.after
    while head.after is not None:
        assert entry is not None
        if entry.call is not None:
            possible, after = step(entry.call, state)
            now_taken = taken | 1 << entry.number
            if possible and (now_taken, after) not in seen:
                seen.add((now_taken, after))
                stack.append((entry, state))
                state, taken = after, now_taken
                entry.lift()
                entry = head.after
            else:
                entry = entry.after
        else:
            if not stack:
                return False
            entry, state = stack.pop()
            taken &= ~(1 << entry.number)
            entry.unlift()
            entry = entry.after
    return True


def violations(calls: Iterable[Call]) -> list[str]:
    """The keys whose calls are not linearizable."""
    by_key: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_key[call.key].append(call)
    return sorted(key for key, of_key in by_key.items() if not is_linearizable(of_key))

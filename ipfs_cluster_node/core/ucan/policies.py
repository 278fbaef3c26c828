"""Policies: statements about a call's arguments, parsed once and evaluated per call.

Source: ucan-wg/delegation, "Policy". `["or", []]` is true by that text, and so is
`["not", …]` of a statement about a missing field; `minting` refuses to sign such policies.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.globs import Glob
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile
from ipfs_cluster_node.core.ucan.selectors import (
    Field,
    Selector,
    UnresolvedError,
    parse_selector,
    select,
)


@dataclass(frozen=True, slots=True)
class Equals:
    """`==` or `!=`: the selected value as a whole; false if there is none."""

    selector: Selector
    value: Value
    negated: bool


@dataclass(frozen=True, slots=True)
class Compares:
    """`<`, `<=`, `>` or `>=`: false unless a number is selected."""

    selector: Selector
    operator: str
    number: int | float


@dataclass(frozen=True, slots=True)
class Like:
    """`like`: false unless text is selected."""

    selector: Selector
    glob: Glob


@dataclass(frozen=True, slots=True)
class Connects:
    """`and`, or `or` if `any_of`; both are true if empty."""

    statements: "tuple[Statement, ...]"
    any_of: bool


@dataclass(frozen=True, slots=True)
class Not:
    """`not`."""

    statement: "Statement"


@dataclass(frozen=True, slots=True)
class Quantifies:
    """`all`, or `any` if `any_of`, over a list's items or a map's values; else false."""

    selector: Selector
    statement: "Statement"
    any_of: bool


Statement: TypeAlias = Equals | Compares | Like | Connects | Not | Quantifies
Policy: TypeAlias = tuple[Statement, ...]
"""All of them must be true."""

_COMPARE: Final[Mapping[str, Callable[[int | float, int | float], bool]]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


def parse_policy(value: Value, *, profile: ValidationProfile) -> Policy:
    """Parse the `pol` of a delegation, as decoded, so nested no deeper than `profile.depth_max`.

    Raises:
        UcanError: Malformed, or TooLarge for too many statements.
    """
    return _Parser(profile).statements(value)


class _Parser:
    def __init__(self, profile: ValidationProfile) -> None:
        self._profile = profile
        self._nodes_left = profile.policy_nodes_max

    def statements(self, value: Value) -> tuple[Statement, ...]:
        if not isinstance(value, list):
            raise malformed("a policy is not a list of statements")
        return tuple(self._statement(item) for item in value)

    def _statement(self, value: Value) -> Statement:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            limit = self._profile.policy_nodes_max
            raise UcanError(Refusal.TOO_LARGE, f"a policy has over {limit} statements")
        match value:
            case ["and" | "or" as name, inner]:
                return Connects(self.statements(inner), any_of=name == "or")
            case ["not", inner]:
                return Not(self._statement(inner))
            case [str(name), str(selector), operand]:
                path = parse_selector(selector, chars_max=self._profile.selector_chars_max)
                return self._with_selector(name, path, operand)
        raise malformed("a statement is of no known form")

    def _with_selector(self, name: str, selector: Selector, operand: Value) -> Statement:
        if name in ("==", "!="):
            return Equals(selector, operand, negated=name == "!=")
        if name in ("all", "any"):
            return Quantifies(selector, self._statement(operand), any_of=name == "any")
        if name == "like" and isinstance(operand, str):
            return Like(selector, Glob.parse(operand))
        if name in _COMPARE and _is_number(operand):
            return Compares(selector, name, operand)  # type: ignore[arg-type]
        raise malformed("a statement is of no known form")


class Evaluation:
    """Evaluates policies within a number of steps."""

    def __init__(self, *, steps_max: int) -> None:
        """Allow `steps_max` statements in total."""
        self.steps_left = steps_max

    def failing(self, policy: Policy, args: Value) -> int | None:
        """The first statement of `policy` that is false on `args`; None if all are true.

        Raises:
            UcanError: TooLarge: the steps are used up.
        """
        for index, statement in enumerate(policy):
            if not self.holds(statement, args):
                return index
        return None

    def holds(self, statement: Statement, value: Value) -> bool:
        """Whether `statement` is true on `value`.

        Raises:
            UcanError: TooLarge: the steps are used up.
        """
        self.steps_left -= 1
        if self.steps_left < 0:
            raise UcanError(Refusal.TOO_LARGE, "the policies take too many steps to evaluate")
        if isinstance(statement, Not):
            return not self.holds(statement.statement, value)
        if isinstance(statement, Connects):
            return self._connects(statement, value)
        try:
            selected = select(statement.selector, value)
        except UnresolvedError:
            return False
        if isinstance(statement, Equals):
            return equal(selected, statement.value) != statement.negated
        if isinstance(statement, Like):
            return isinstance(selected, str) and statement.glob.matches(selected)
        if isinstance(statement, Compares):
            return _compares(statement, selected)
        return self._quantifies(statement, selected)

    def _connects(self, statement: Connects, value: Value) -> bool:
        if statement.any_of and statement.statements:
            return any(self.holds(inner, value) for inner in statement.statements)
        return all(self.holds(inner, value) for inner in statement.statements)

    def _quantifies(self, statement: Quantifies, value: Value) -> bool:
        if isinstance(value, dict):
            items: Sequence[Value] = list(value.values())
        elif isinstance(value, list):
            items = value
        else:
            return False
        judged = (self.holds(statement.statement, item) for item in items)
        return any(judged) if statement.any_of else all(judged)


def fields_of(policy: Policy) -> frozenset[str] | None:
    """The arguments that a policy reads; None if it may read any of them.

    Calls in which these are equal have the same outcome.
    """
    fields: set[str] = set()
    waiting: list[Statement] = list(policy)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, Connects):
            waiting += statement.statements
        elif isinstance(statement, Not):
            waiting.append(statement.statement)
        else:
            # A quantifier's statements are about the items that its selector yields.
            first = statement.selector[0].step if statement.selector else None
            if not isinstance(first, Field):
                return None
            fields.add(first.key)
    return frozenset(fields)


def size_of(policy: Policy) -> int:
    """The number of statements, including inner ones: roughly the cost of evaluation."""
    size = 0
    waiting: list[Statement] = list(policy)
    while waiting:
        statement = waiting.pop()
        size += 1
        if isinstance(statement, Connects):
            waiting += statement.statements
        elif isinstance(statement, Not | Quantifies):
            waiting.append(statement.statement)
    return size


def equal(one: Value, other: Value) -> bool:
    """Deep equality; 1 equals 1.0, and True is not a number."""
    if _is_number(one) and _is_number(other):
        return one == other
    if type(one) is not type(other):
        return False
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


def _compares(statement: Compares, value: Value) -> bool:
    if not _is_number(value):
        return False
    return _COMPARE[statement.operator](value, statement.number)  # type: ignore[arg-type]


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Policies: which hold, which do not, which are malformed, and which we sign."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.multiformats import DAG_CBOR, cid_of
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.minting import check_mintable
from ipfs_cluster_node.core.ucan.policies import Evaluation, Policy, equal, parse_policy
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from tests.support.dag_cbor import ARGS, values


def policy(*statements: Value) -> Policy:
    return parse_policy(list(statements), profile=SPECIFICATION)


def holds(*statements: Value, args: Value = ARGS) -> bool:
    return Evaluation(steps_max=10_000).failing(policy(*statements), args) is None


# Statements


@pytest.mark.parametrize(
    "statement",
    [
        ["==", ".from", "alice@example.com"],
        ["==", ".one", 1.0],
        ["==", ".half", 0.5],
        ["==", ".none", None],
        ["==", ".flag", True],
        ["==", ".nope?", None],
        ["==", ".raw", b"\xd6\xa9\xc1\x8c\xf8\xc4"],
        ["==", ".tags", {"b": 2, "aa": 3, "a": 1.0}],
        ["!=", ".from", "bob"],
        ["!=", ".one", True],
        ["!=", ".one", "1"],
        ["!=", ".flag", 1],
        ["<", ".half", 1],
        ["<=", ".one", 1],
        ["<=", ".one", 1.0],
        [">=", ".one", 1],
        [">", ".one", 0.999],
        ["like", ".from", "*@example.com"],
        ["like", ".to[0]", "bob*"],
        ["and", []],
        ["or", []],
        ["and", [["==", ".one", 1], ["<", ".half", 1]]],
        ["or", [["==", ".one", 2], ["<", ".half", 1]]],
        ["not", ["==", ".one", 2]],
        ["not", ["==", ".prod", True]],
        ["not", ["not", ["==", ".one", 1]]],
        ["all", ".to", ["like", ".", "*@*"]],
        ["any", ".to", ["like", ".", "bob*"]],
        ["all", ".tags", [">", ".", 0]],
        ["any", ".tags", ["==", ".", 3]],
        ["all", ".to[9:]", ["==", ".", "nobody"]],
        ["any", ".deep.er.list", ["==", ".x", 2]],
        ["all", ".deep", ["any", ".list", ["==", ".x", 2]]],
    ],
)
def test_statements_that_hold(statement: Value) -> None:
    assert holds(statement)
    assert not holds(["not", statement])


@pytest.mark.parametrize(
    "statement",
    [
        ["==", ".from", "bob"],
        ["==", ".one", True],
        ["==", ".flag", 1],
        ["==", ".one", "1"],
        ["==", ".raw", "\xd6\xa9"],
        ["==", ".nope", None],
        ["==", ".tags", {"a": 1, "b": 2}],
        ["==", ".tags", {"a": 1, "b": 2, "aa": True}],
        ["==", ".to", ["bob@example.com"]],
        ["!=", ".from", "alice@example.com"],
        ["!=", ".one", 1.0],
        ["!=", ".nope", 1],
        ["!=", ".nope", None],
        ["<", ".one", 1],
        [">", ".one", 1],
        ["<=", ".one", 0.999],
        [">=", ".one", 1.001],
        ["<", ".flag", 2],
        [">=", ".flag", 1],
        ["<", ".from", 9],
        ["<", ".none", 9],
        ["<", ".nope", 9],
        ["<", ".nope?", 9],
        ["<", ".to", 9],
        ["like", ".one", "*"],
        ["like", ".raw", "*"],
        ["like", ".none", "*"],
        ["like", ".nope", "*"],
        ["like", ".from", "alice"],
        ["and", [["==", ".one", 1], ["==", ".one", 2]]],
        ["or", [["==", ".one", 2], ["==", ".one", 3]]],
        ["not", ["==", ".one", 1]],
        ["all", ".to", ["like", ".", "*@example.com"]],
        ["any", ".to", ["==", ".", "nobody"]],
        ["any", ".to[9:]", ["not", ["==", ".", "nobody"]]],
        ["all", ".from", ["==", ".", "a"]],
        ["any", ".from", ["not", ["==", ".", "a"]]],
        ["all", ".raw", [">=", ".", 0]],
        ["all", ".one", ["==", ".", 1]],
        ["all", ".none", ["==", ".", 1]],
        ["all", ".nope", ["and", []]],
        ["any", ".nope?", ["and", []]],
    ],
)
def test_statements_that_do_not_hold(statement: Value) -> None:
    assert not holds(statement)
    assert holds(["not", statement])


@pytest.mark.parametrize(
    "statement",
    [
        None,
        "==",
        [],
        {},
        ["=="],
        ["==", ".one"],
        ["==", ".one", 1, 2],
        ["==", "one", 1],
        ["==", 1, 1],
        ["===", ".one", 1],
        ["<", ".one", "1"],
        ["<", ".one", True],
        ["<", ".one", None],
        [">=", ".one", [1]],
        ["like", ".from", 1],
        ["like", ".from", b"*"],
        ["and", ["==", ".one", 1]],
        ["and", {}],
        ["and"],
        ["and", [], []],
        ["or", "x"],
        ["not", []],
        ["not", [["==", ".one", 1]]],
        ["not", ["==", ".one", 1], 1],
        ["all", ".to", []],
        ["all", ".to", [["==", ".", 1]]],
        ["any", ".to"],
        ["any", ["==", ".", 1]],
        [None, ".one", 1],
        ["AND", []],
    ],
)
def test_what_is_no_statement(statement: Value) -> None:
    with pytest.raises(UcanError, match="Malformed"):
        policy(statement)
    with pytest.raises(UcanError, match="Malformed"):
        policy(["not", statement])


@pytest.mark.parametrize("value", [None, {}, "", 1, b"", True])
def test_a_policy_is_a_list(value: Value) -> None:
    with pytest.raises(UcanError, match="Malformed"):
        parse_policy(value, profile=PRODUCT)


def test_the_first_statement_that_fails_is_named() -> None:
    parsed = policy(["==", ".one", 1], ["==", ".one", 2], ["==", ".one", 3])
    assert Evaluation(steps_max=10).failing(parsed, ARGS) == 1


def test_statements_are_counted_however_they_nest() -> None:
    flat: Value = [["==", ".", 1]] * 128
    parse_policy(flat, profile=PRODUCT)
    nested: Value = [["and", [["==", ".", 1]] * 127]]
    parse_policy(nested, profile=PRODUCT)
    too_many: list[Value] = [[["==", ".", 1]] * 129, [["and", [["==", ".", 1]] * 128]]]
    for over in too_many:
        with pytest.raises(UcanError, match="TooLarge"):
            parse_policy(over, profile=PRODUCT)


def test_evaluation_ends_after_so_many_steps() -> None:
    parsed = policy(["all", ".", ["any", ".", ["==", ".", 1]]])
    args: Value = [[0] * 10] * 10
    # 1 for `all`, then `any` over ten zeros, which fails the first of them.
    assert Evaluation(steps_max=12).failing(parsed, args) == 0
    with pytest.raises(UcanError, match="TooLarge"):
        Evaluation(steps_max=11).failing(parsed, args)


def test_equality_tells_types_apart() -> None:
    link = Link.to(cid_of(DAG_CBOR, b"x"))
    assert equal(link, Link.to(cid_of(DAG_CBOR, b"x")))
    assert not equal(link, link.binary)
    different: list[Value] = [None, False, 0, "", b"", [], {}, link]
    for first in different:
        assert [equal(first, other) for other in different].count(True) == 1
    assert equal([1, {"a": 2.0}], [1.0, {"a": 2}])
    assert not equal([1], [True])
    assert not equal({"a": 0}, {"a": False})
    assert not equal({"a": None}, {"b": None})
    assert not equal(2**53 + 1, float(2**53))


def statements_over(*selectors: str) -> st.SearchStrategy[Value]:
    selector = st.sampled_from(selectors)
    leaves = (
        st.tuples(st.sampled_from(["==", "!="]), selector, values)
        | st.tuples(st.sampled_from(["<", "<=", ">", ">="]), selector, st.integers(-3, 3))
        | st.tuples(st.just("like"), selector, st.text(alphabet="a*/\\", max_size=4))
    )
    return st.recursive(
        leaves.map(list),
        lambda inner: (
            st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, max_size=3)).map(list)
            | st.tuples(st.just("not"), inner).map(list)
            | st.tuples(st.sampled_from(["all", "any"]), selector, inner).map(list)
        ),
        max_leaves=8,
    )


statements = statements_over(".", ".a", ".a?", ".a.b", '.["a"]', ".[0]", ".a[]", ".[1:]", ".b[-1]?")
arguments = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    values | st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2),
    max_size=3,
)


@given(st.lists(statements, max_size=4), arguments)
def test_every_policy_has_an_answer_on_every_argument(parts: list[Value], args: Value) -> None:
    failing = Evaluation(steps_max=1_000_000).failing(policy(*parts), args)
    assert failing is None or 0 <= failing < len(parts)


@given(st.lists(statements, max_size=3), statements, st.integers(0, 3), arguments)
def test_one_more_statement_never_grants_more(
    parts: list[Value], more: Value, position: int, args: Value
) -> None:
    longer = [*parts[:position], more, *parts[position:]]
    assert holds(*parts, args=args) or not holds(*longer, args=args)


@given(statements, arguments)
def test_not_turns_every_statement_round(statement: Value, args: Value) -> None:
    assert holds(statement, args=args) is not holds(["not", statement], args=args)


@given(values)
def test_any_value_is_a_policy_or_refused(value: Value) -> None:
    try:
        parse_policy(value, profile=PRODUCT)
    except UcanError as error:
        assert error.name in (Refusal.MALFORMED, Refusal.TOO_LARGE)


# What we sign ourselves


@pytest.mark.parametrize(
    "statement",
    [
        ["==", ".namespace", "team-a"],
        ["<=", ".priority", 5],
        [">=", ".priority", 1],
        ["like", ".namespace", "*"],
        ["like", ".namespace", "team-a/*"],
        ["like", ".key", "jobs/*/logs/*"],
        ["like", ".namespace", r"team\*"],
        ["like", ".namespace", "team-a"],
        ["and", [["==", ".a", 1]]],
        ["or", [["==", ".a", 1], ["==", ".a", 2]]],
        ["all", ".names", ["like", ".", "a/*"]],
        ["any", ".names", ["==", ".", "a"]],
    ],
)
def test_what_our_tools_may_sign(statement: Value) -> None:
    check_mintable(policy(statement))


@pytest.mark.parametrize(
    "statement",
    [
        ["!=", ".namespace", "prod"],
        ["not", ["==", ".namespace", "prod"]],
        ["<", ".priority", 5],
        [">", ".priority", 5],
        ["and", []],
        ["or", []],
        ["like", ".namespace", "team-a*"],
        ["like", ".namespace", "*-a"],
        ["like", ".namespace", "**"],
        ["like", ".namespace", "team-a/**"],
        ["like", ".key", "jobs/*/x*"],
        ["like", ".key", r"\**"],
        ["==", ".namespace?", None],
        ["<=", ".a?.b", 1],
        ["like", '.["a"]?', "*"],
        ["all", ".names?", ["==", ".", "a"]],
        ["all", ".names", ["!=", ".", "a"]],
        ["any", ".names", ["or", []]],
        ["and", [["==", ".a", 1], ["not", ["==", ".b", 1]]]],
        ["or", [["and", [["like", ".a", "b*"]]]]],
    ],
)
def test_what_our_tools_do_not_sign(statement: Value) -> None:
    with pytest.raises(UcanError, match=r"InvalidClaim.*statement 1"):
        check_mintable(policy(["==", ".a", 1], statement))


@given(statements_over(".a", ".a.b", '["a"]', ".a[0]"))
def test_what_we_sign_never_holds_where_its_argument_is_missing(statement: Value) -> None:
    try:
        check_mintable(policy(statement))
    except UcanError:
        return
    assert not holds(statement, args={})

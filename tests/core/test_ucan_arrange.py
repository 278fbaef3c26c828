"""Chains from unordered delegations: which one is found, and how soon."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.arrange import ARRANGEMENTS_MAX, path_between
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.ucan.tokens import Delegation
from tests.support.claims import (
    ALICE,
    BOB,
    CAROL,
    CLUSTER,
    MALLORY,
    NOW,
    TO_ALICE,
    TO_BOB,
    TO_CAROL,
    arranged,
    chain_through,
    claim,
    link,
    unarranged,
)


@given(st.permutations([TO_ALICE, TO_BOB, TO_CAROL, link(CLUSTER, MALLORY), link(BOB, MALLORY)]))
def test_order_does_not_matter_nor_does_what_does_not_belong(bag: list[Delegation]) -> None:
    assert arranged(claim(CAROL), *bag).chain == (TO_ALICE, TO_BOB, TO_CAROL)


def test_the_chain_that_holds_is_found_among_several() -> None:
    state, late = link(CLUSTER, ALICE, "/state"), link(CLUSTER, ALICE, expires_s=NOW - 600)
    strict = link(CLUSTER, ALICE, policy=[["==", ".namespace", "x"]])
    bag = (state, late, strict, TO_ALICE)
    assert arranged(claim(ALICE), *bag).chain == (TO_ALICE,)
    assert arranged(claim(ALICE, "/state/read"), *bag).chain == (state,)
    revocations = {TO_ALICE.cid: frozenset({CLUSTER})}
    # One that holds but for its policy tells more than one that has ended.
    assert unarranged(claim(ALICE), *bag, revocations=revocations) == ("MatchError", 0)
    assert unarranged(claim(ALICE), state, late) == ("Expired", 0)
    assert unarranged(claim(ALICE), state, strict) == ("MatchError", 0)
    assert unarranged(claim(ALICE), strict, state) == ("MatchError", 0)
    assert unarranged(claim(ALICE), state) == ("InvalidCommand", 0)


def test_a_bag_without_a_chain_says_what_is_missing() -> None:
    assert unarranged(claim(ALICE)) == ("InvalidClaim", None)
    assert unarranged(claim(MALLORY), TO_ALICE, TO_BOB) == ("InvalidAudience", None)
    assert unarranged(claim(BOB), TO_BOB) == ("InvalidAudience", 0)
    assert unarranged(claim(BOB), link(ALICE, BOB, subject=ALICE)) == ("InvalidSubject", 0)
    # One that comes from the cluster tells more than one that does not.
    elsewhere = link(MALLORY, ALICE)
    assert unarranged(claim(ALICE, "/state"), elsewhere, TO_ALICE) == ("InvalidCommand", 0)
    assert unarranged(claim(ALICE, "/state"), TO_ALICE, elsewhere) == ("InvalidCommand", 0)


def test_the_authority_needs_no_chain() -> None:
    assert arranged(claim(CLUSTER), TO_ALICE).chain == ()
    assert arranged(claim(CLUSTER)).chain == ()


def test_what_goes_round_in_a_bag_is_passed_over() -> None:
    round_trip = [
        link(person, other, policy=[["==", ".namespace", number]])
        for number in range(4)
        for person, other in ((ALICE, BOB), (BOB, ALICE), (ALICE, ALICE), (BOB, CLUSTER))
    ]
    assert unarranged(claim(ALICE), *round_trip) == ("InvalidAudience", 0)
    assert unarranged(claim(ALICE), round_trip[2]) == ("InvalidAudience", None)
    assert arranged(claim(ALICE), *round_trip, TO_ALICE).chain == (TO_ALICE,)


def test_each_link_of_a_bag_of_thousands_of_chains_is_looked_at_a_few_times() -> None:
    people = [CLUSTER, *(Did(f"did:key:z6Mk{number}") for number in range(8))]
    wrong = [
        link(giver, taker, policy=[["==", ".namespace", number]])
        for giver, taker in pairwise(people)
        for number in range(4)
    ]
    tried = 0

    def revoked(cid: Cid, default: object) -> object:
        nonlocal tried
        tried += 1
        return default

    revocations: Any = type("Counting", (dict,), {"get": staticmethod(revoked)})({wrong[0].cid: 1})
    assert unarranged(claim(people[-1]), *wrong, revocations=revocations) == ("MatchError", 0)
    assert tried <= 3 * len(wrong)
    right = [link(giver, taker) for giver, taker in pairwise(people)]
    for bag in ([*wrong, *right], [*right, *wrong]):
        assert arranged(claim(people[-1]), *bag).chain == tuple(right)


def test_why_none_of_thousands_of_chains_holds_is_told_soon() -> None:
    people = [CLUSTER, *(Did(f"did:key:z6Mk{number}") for number in range(8))]
    ended = [
        link(giver, taker, expires_s=NOW - 999 - number)
        for giver, taker in pairwise(people)
        for number in range(4)
    ]
    assert unarranged(claim(people[-1]), *ended) == ("Expired", 0)
    assert ARRANGEMENTS_MAX == 64


@pytest.mark.parametrize("policy", [[], [["==", ".never", 1]], [["==", ".never", 1]] * 100])
@pytest.mark.parametrize("command", ["/", "/task", "/state"])
def test_nobody_shuts_others_out_by_what_is_delegated_to_them(
    command: str, policy: list[Any]
) -> None:
    """Once only the first 64 chains were tried."""
    helpers = [Did(f"did:key:z6Mkhelper{number}") for number in range(8)]
    crowd = [
        link(CLUSTER, MALLORY),
        *(link(MALLORY, helper, command, policy=policy) for helper in helpers for _ in range(8)),
        *(link(helper, ALICE, command, policy=policy) for helper in helpers),
    ]
    for mine in (
        [TO_ALICE],
        [link(CLUSTER, BOB), link(BOB, ALICE, policy=[["==", ".namespace", "team-a"]])],
    ):
        found = arranged(claim(ALICE), *crowd, *mine)
        assert found.chain[-1].audience == ALICE
        if policy or command == "/state":
            assert found.chain == tuple(mine)


def test_a_bag_may_hold_a_chain_of_eight_links_and_no_more() -> None:
    chain, last = chain_through(9)
    assert unarranged(claim(last), *chain) == ("ChainTooLong", None)
    chain, last = chain_through(8)
    assert arranged(claim(last), *reversed(chain)).chain == tuple(chain)


def test_all_chains_of_a_bag_share_their_steps() -> None:
    profile = replace(PRODUCT, evaluation_steps_max=3)
    wrong = [link(CLUSTER, ALICE, policy=[["==", ".namespace", n]]) for n in range(3)]
    assert arranged(claim(ALICE), *wrong[:2], TO_ALICE, profile=profile)
    assert unarranged(claim(ALICE), *wrong, *wrong, profile=profile) == ("MatchError", 0)
    longer = link(CLUSTER, ALICE, policy=[["==", ".namespace", "team-a"]])
    assert arranged(claim(ALICE), *wrong[:2], longer, profile=profile)
    assert unarranged(claim(ALICE), *wrong, longer, profile=profile) == ("MatchError", 0)


def test_a_way_between_two_is_the_shortest() -> None:
    detour = [link(CLUSTER, BOB), link(BOB, ALICE), link(ALICE, CAROL)]
    assert path_between(detour, CLUSTER, CAROL) == tuple(detour)
    assert path_between([*detour, TO_ALICE], CLUSTER, CAROL) == (TO_ALICE, detour[2])
    assert path_between(detour, ALICE, ALICE) == ()
    assert path_between(detour, CAROL, ALICE) == ()

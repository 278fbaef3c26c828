"""Chains and revocations of their links, decided over decoded tokens."""

from dataclasses import replace
from typing import Any

import pytest

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, RAW, cid_of
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from ipfs_cluster_node.core.ucan.revocations import check_revoker, parse_revocation, revoked_link
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
    chain_through,
    claim,
    granted,
    link,
    refused,
    validation_context,
)


def test_a_chain_is_granted_and_tells_of_itself() -> None:
    short = link(ALICE, BOB, expires_s=NOW + 5)
    grant = granted(claim(BOB), TO_ALICE, short)
    assert grant.chain == (TO_ALICE, short)
    assert grant.claim == claim(BOB)
    assert grant.holder == ALICE
    assert grant.expires_s == NOW + 5
    alone = granted(claim(CLUSTER))
    assert (alone.holder, alone.expires_s, alone.chain) == (CLUSTER, None, ())


def test_an_authority_is_needed_where_the_profile_says_so() -> None:
    with pytest.raises(ValueError, match="cluster's DID"):
        validation_context(authority=None)
    assert validation_context(authority=None, profile=SPECIFICATION)


def test_each_thing_that_is_wrong_is_named_and_its_link() -> None:
    bob = claim(BOB)
    assert refused(bob) == ("InvalidClaim", None)
    assert refused(claim(BOB, subject=BOB)) == ("InvalidSubject", None)
    assert refused(bob, TO_ALICE) == ("InvalidAudience", 0)
    assert refused(bob, TO_BOB) == ("InvalidAudience", 0)
    assert refused(bob, TO_BOB, TO_ALICE) == ("InvalidAudience", 0)
    assert refused(bob, TO_ALICE, link(MALLORY, BOB)) == ("InvalidAudience", 1)
    assert refused(claim(MALLORY), TO_ALICE, TO_BOB) == ("InvalidAudience", 1)
    assert refused(bob, TO_ALICE, link(ALICE, BOB, subject=ALICE)) == ("InvalidSubject", 1)
    assert refused(bob, TO_ALICE, link(ALICE, BOB, "/")) == ("InvalidCommand", 1)
    assert refused(bob, TO_ALICE, link(ALICE, BOB, "/tasksteal")) == ("InvalidCommand", 1)
    assert refused(claim(BOB, "/tasksteal"), TO_ALICE, TO_BOB) == ("InvalidCommand", 1)
    assert refused(claim(BOB, "/"), TO_ALICE, TO_BOB) == ("InvalidCommand", 1)
    narrow = link(ALICE, BOB, policy=[["<=", ".priority", 3], ["==", ".namespace", "x"]])
    assert refused(bob, TO_ALICE, narrow) == ("MatchError", 1)
    first = link(CLUSTER, ALICE, policy=[["==", ".namespace", "x"]])
    assert refused(bob, first, TO_BOB) == ("MatchError", 0)
    revocations = {TO_BOB.cid: frozenset({ALICE})}
    assert refused(bob, TO_ALICE, TO_BOB, revocations=revocations) == ("Revoked", 1)


def test_powerlines_are_for_the_specification_only_and_never_the_root() -> None:
    open_link = link(ALICE, BOB, subject=None)
    specified = {"profile": SPECIFICATION}
    assert granted(claim(BOB), TO_ALICE, open_link, **specified)
    assert refused(claim(BOB), TO_ALICE, open_link) == ("InvalidClaim", 1)
    root = link(CLUSTER, ALICE, subject=None)
    assert refused(claim(ALICE), root, **specified) == ("InvalidClaim", 0)


def test_times_have_a_skew_of_a_minute_to_the_second() -> None:
    ends = link(CLUSTER, ALICE, expires_s=NOW)
    assert granted(claim(ALICE), ends, now_s=NOW + 59)
    assert refused(claim(ALICE), ends, now_s=NOW + 60) == ("Expired", 0)
    begins = link(CLUSTER, ALICE, not_before_s=NOW)
    assert granted(claim(ALICE), begins, now_s=NOW - 60)
    assert refused(claim(ALICE), begins, now_s=NOW - 61) == ("TooEarly", 0)
    for wrong, name in ((ends, "Expired"), (link(ALICE, BOB, not_before_s=NOW + 99), "TooEarly")):
        chain = [wrong, TO_BOB] if wrong is ends else [TO_ALICE, wrong]
        position = chain.index(wrong)
        assert refused(claim(BOB), *chain, now_s=NOW + (60 if wrong is ends else 0)) == (
            name,
            position,
        )


def test_a_delegation_without_end_is_for_the_specification_only() -> None:
    endless = link(CLUSTER, ALICE, expires_s=None)
    assert refused(claim(ALICE), endless) == ("InvalidClaim", 0)
    grant = granted(claim(ALICE), endless, profile=SPECIFICATION)
    assert grant.expires_s is None


def test_a_chain_has_eight_links_at_most() -> None:
    chain, last = chain_through(8)
    assert granted(claim(last), *chain)
    for length in (9, 12):
        chain, last = chain_through(length)
        assert refused(claim(last), *chain) == ("ChainTooLong", None)
        assert granted(claim(last), *chain, profile=SPECIFICATION)


def test_the_steps_of_all_policies_together_are_bounded() -> None:
    profile = replace(PRODUCT, evaluation_steps_max=6)
    three: list[Value] = [["<=", ".priority", 9]] * 3
    chain = [link(CLUSTER, ALICE, policy=three), link(ALICE, BOB, policy=three)]
    assert granted(claim(BOB), *chain, profile=profile)
    profile = replace(PRODUCT, evaluation_steps_max=5)
    assert refused(claim(BOB), *chain, profile=profile) == ("TooLarge", 1)


def test_an_error_says_name_link_token_and_why() -> None:
    with pytest.raises(UcanError) as caught:
        granted(claim(MALLORY), TO_ALICE)
    error = caught.value
    assert str(error) == (
        f"InvalidAudience at link 0 ({TO_ALICE.cid}): the last delegation is for someone else"
    )
    assert str(UcanError(Refusal.REPLAY, "used already")) == "Replay: used already"


# Revocation


def test_whoever_issued_a_link_of_the_chain_revokes_in_it_and_no_other() -> None:
    chain = (TO_ALICE, TO_BOB, TO_CAROL)
    for revoker, wanted in ((CLUSTER, 1), (ALICE, 1), (BOB, 1), (CAROL, None), (MALLORY, None)):
        revocations = {TO_BOB.cid: frozenset({revoker})}
        assert revoked_link(chain, revocations, None) == wanted
    revocations = {TO_BOB.cid: frozenset({MALLORY, ALICE})}
    assert revoked_link(chain, revocations, None) == 1
    other = {link(ALICE, CAROL).cid: frozenset({ALICE})}
    assert revoked_link(chain, other, CLUSTER) is None


def test_the_authority_revokes_anything_in_any_chain() -> None:
    chain = (link(ALICE, BOB, subject=ALICE),)
    revocations = {chain[0].cid: frozenset({CLUSTER})}
    assert revoked_link(chain, revocations, CLUSTER) == 0
    assert revoked_link(chain, revocations, None) is None


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_revoked_link_anywhere_ends_the_chain(position: int) -> None:
    chain = (TO_ALICE, TO_BOB, TO_CAROL)
    revocations = {chain[position].cid: frozenset({CLUSTER})}
    assert refused(claim(CAROL), *chain, revocations=revocations) == ("Revoked", position)


def test_who_may_revoke_what() -> None:
    path = (TO_ALICE, TO_BOB, TO_CAROL)
    check_revoker(CLUSTER, cid_of(DAG_CBOR, b"anything"), (), authority=CLUSTER)
    check_revoker(ALICE, TO_BOB.cid, path, authority=CLUSTER)
    check_revoker(ALICE, TO_BOB.cid, path[:2], authority=CLUSTER)
    check_revoker(ALICE, TO_CAROL.cid, path, authority=CLUSTER)
    check_revoker(BOB, TO_CAROL.cid, path, authority=CLUSTER)
    powerline = link(ALICE, BOB, subject=None)
    check_revoker(ALICE, powerline.cid, (TO_ALICE, powerline), authority=CLUSTER)


@pytest.mark.parametrize(
    ("revoker", "revoked", "path"),
    [
        (ALICE, TO_ALICE, (TO_ALICE,)),
        (BOB, TO_BOB, (TO_ALICE, TO_BOB, TO_CAROL)),
        (MALLORY, TO_BOB, (TO_ALICE, TO_BOB)),
        (ALICE, TO_BOB, ()),
        (ALICE, TO_BOB, (TO_ALICE,)),
        (ALICE, TO_BOB, (TO_BOB,)),
        (ALICE, TO_BOB, (TO_BOB, TO_ALICE)),
        (MALLORY, TO_BOB, (TO_ALICE, link(MALLORY, ALICE), TO_BOB)),
        (MALLORY, link(MALLORY, BOB), (link(MALLORY, BOB),)),
        (ALICE, link(ALICE, BOB, subject=ALICE), (TO_ALICE, link(ALICE, BOB, subject=ALICE))),
    ],
)
def test_who_may_not_revoke_what(revoker: Did, revoked: Delegation, path: Any) -> None:
    with pytest.raises(UcanError, match="InvalidClaim"):
        check_revoker(revoker, revoked.cid, path, authority=CLUSTER)


def test_the_arguments_of_a_revocation() -> None:
    one, two = Link.to(TO_ALICE.cid), Link.to(TO_BOB.cid)
    assert parse_revocation({"revoke": two}) == (TO_BOB.cid, ())
    assert parse_revocation({"revoke": two, "path": [one, two]}) == (
        TO_BOB.cid,
        (TO_ALICE.cid, TO_BOB.cid),
    )
    content = Link.to(cid_of(RAW, b"a file"))
    wrong: list[dict[str, Value]] = [
        {},
        {"path": [one]},
        {"revoke": str(TO_BOB.cid)},
        {"revoke": content},
        {"revoke": two, "path": one},
        {"revoke": two, "path": [1]},
        {"revoke": two, "path": [content]},
        {"revoke": two, "more": 1},
    ]
    for args in wrong:
        with pytest.raises(UcanError, match="Malformed"):
            parse_revocation(args)

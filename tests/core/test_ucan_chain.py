"""Chains and what is revoked of them: decided over tokens that are read already."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, RAW, Cid, cid_of
from ipfs_cluster_node.core.ucan import access as access_module
from ipfs_cluster_node.core.ucan.arrange import (
    ARRANGEMENTS_MAX,
    Shortfall,
    arrange,
    chains_to,
    check_any_chain,
    find_access,
    path_between,
)
from ipfs_cluster_node.core.ucan.chain import (
    Claim,
    Grant,
    check_chain,
)
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.explain import explain
from ipfs_cluster_node.core.ucan.policies import Evaluation, parse_policy, size_of
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from ipfs_cluster_node.core.ucan.revocations import (
    check_revoker,
    parse_revocation,
    revoked_link,
)
from ipfs_cluster_node.core.ucan.tokens import Delegation
from tests.support.claims import ALICE, ARGS, BOB, CAROL, CLUSTER, MALLORY, NOW, circumstances


def link(issuer: Did, audience: Did, command: str = "/task", **fields: Any) -> Delegation:
    policy = parse_policy(fields.pop("policy", []), profile=PRODUCT)
    default: dict[str, Any] = {"subject": CLUSTER, "expires_s": NOW + 3600, "nonce": b""}
    named = repr((issuer, audience, command, policy, fields)).encode()
    return Delegation(
        cid=cid_of(DAG_CBOR, named),
        issuer=issuer,
        audience=audience,
        command=Command(command),
        policy=policy,
        **(default | fields),
    )


def claim(issuer: Did, command: str = "/task/submit", **fields: Any) -> Claim:
    default: dict[str, Any] = {"subject": CLUSTER, "args": ARGS}
    return Claim(issuer=issuer, command=Command(command), **(default | fields))


def refused(claimed: Claim, *chain: Delegation, **fields: Any) -> tuple[str, int | None]:
    with pytest.raises(UcanError) as caught:
        check_chain(claimed, chain, circumstances(**fields))
    error = caught.value
    assert error.cid == (None if error.link is None else chain[error.link].cid)
    return str(error.name), error.link


def granted(claimed: Claim, *chain: Delegation, **fields: Any) -> Grant:
    return check_chain(claimed, chain, circumstances(**fields))


TO_ALICE: Final = link(CLUSTER, ALICE)
TO_BOB: Final = link(ALICE, BOB)
TO_CAROL: Final = link(BOB, CAROL)


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
        circumstances(authority=None)
    assert circumstances(authority=None, profile=SPECIFICATION)


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


def chain_through(length: int) -> tuple[list[Delegation], Did]:
    people = [CLUSTER, *(Did(f"did:key:z6Mk{number}") for number in range(length))]
    return [link(giver, taker) for giver, taker in pairwise(people)], people[-1]


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


# Chains out of a bag


def arranged(claimed: Claim, *bag: Delegation, **fields: Any) -> Grant:
    return check_any_chain(claimed, bag, circumstances(**fields))


def unarranged(claimed: Claim, *bag: Delegation, **fields: Any) -> tuple[str, int | None]:
    with pytest.raises(UcanError) as caught:
        arranged(claimed, *bag, **fields)
    return str(caught.value.name), caught.value.link


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
    """Once the first 64 chains of a bag were all that was looked at."""
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


people = st.sampled_from([CLUSTER, ALICE, BOB, CAROL])
links = st.builds(
    link,
    people,
    people,
    st.sampled_from(["/", "/task", "/task/submit", "/state"]),
    subject=st.sampled_from([CLUSTER, CLUSTER, CLUSTER, ALICE, None]),
    expires_s=st.sampled_from([NOW + 9, NOW + 99, NOW - 99, None]),
    policy=st.lists(
        st.sampled_from([["==", ".namespace", "team-a"], ["<=", ".priority", 2], ["or", []]]),
        max_size=1,
    ),
)
profiles = st.sampled_from([PRODUCT, SPECIFICATION])


def is_granted(claimed: Claim, chain: list[Delegation], **fields: Any) -> bool:
    try:
        granted(claimed, *chain, **fields)
    except UcanError:
        return False
    return True


@given(st.lists(links, max_size=4), people, profiles)
def test_a_grant_means_what_it_should(chain: list[Delegation], who: Did, profile: Any) -> None:
    if not is_granted(claim(who), chain, profile=profile):
        return
    holders = [CLUSTER, *(d.audience for d in chain)]
    assert [d.issuer for d in chain] == holders[:-1]
    assert holders[-1] == who
    assert all(d.command in ("/", "/task", "/task/submit") for d in chain)
    assert all(d.expires_s is None or d.expires_s > NOW - 60 for d in chain)
    assert all(d.subject in (CLUSTER, None) for d in chain)
    assert profile is SPECIFICATION or all(d.subject and d.expires_s for d in chain)


@given(st.lists(links, max_size=3), links, people, profiles)
def test_one_more_delegation_grants_nothing_that_its_issuer_had_not(
    chain: list[Delegation], more: Delegation, who: Did, profile: Any
) -> None:
    if is_granted(claim(who), [*chain, more], profile=profile):
        assert is_granted(claim(more.issuer), chain, profile=profile)


@given(st.lists(links, max_size=4), people, profiles)
def test_a_stricter_profile_and_a_revocation_only_take_away(
    chain: list[Delegation], who: Did, profile: Any
) -> None:
    if not is_granted(claim(who), chain, profile=SPECIFICATION):
        assert not is_granted(claim(who), chain, profile=PRODUCT)
    revocations = {d.cid: frozenset({CLUSTER}) for d in chain[:1]}
    if chain:
        assert not is_granted(claim(who), chain, profile=profile, revocations=revocations)


@given(st.lists(links, max_size=6), people, profiles)
def test_a_bag_grants_just_what_one_of_its_chains_does(
    bag: list[Delegation], who: Did, profile: Any
) -> None:
    try:
        grant = arranged(claim(who), *bag, profile=profile)
    except UcanError:
        # The specification lets a powerline stand at a detour's end, where it would be the root.
        assert profile is SPECIFICATION or not is_granted(claim(who), bag, profile=profile)
        return
    assert is_granted(claim(who), list(grant.chain), profile=profile)
    assert all(d in bag for d in grant.chain)


@given(
    st.lists(links, max_size=7, unique_by=lambda each: each.cid),
    people,
    st.dictionaries(st.integers(0, 6), people, max_size=2),
    st.frozensets(people, max_size=1),
)
def test_an_access_grants_what_some_chain_grants_and_no_more(
    bag: list[Delegation], who: Did, revoked: dict[int, Did], gone: frozenset[Did]
) -> None:
    """All chains one by one, as `check_chain` judges them, come to the same."""
    revocations = {bag[n].cid: frozenset({by}) for n, by in revoked.items() if n < len(bag)}
    present = circumstances(revocations=revocations, gone=gone)

    def holds(chain: tuple[Delegation, ...]) -> bool:
        try:
            check_chain(claim(who), chain, present)
        except UcanError:
            return False
        return True

    chains = [(), *chains_to(claim(who), bag)]
    try:
        grant = check_any_chain(claim(who), bag, present)
    except UcanError:
        # One may be overlooked where somebody revoked what came of their own.
        by_issuers = {by for by in revoked.values() if by != CLUSTER}
        assert by_issuers or not any(map(holds, chains))
        return
    assert holds(grant.chain)


def test_an_access_is_found_anew_when_its_first_link_ends() -> None:
    soon, later = link(CLUSTER, ALICE, expires_s=NOW + 5), link(ALICE, BOB, expires_s=NOW + 9)
    assert find_access(claim(BOB), [later, soon], circumstances()).until_s == NOW + 5
    for_ever = circumstances(profile=SPECIFICATION)
    unending = link(CLUSTER, ALICE, expires_s=None)
    assert find_access(claim(ALICE), [unending], for_ever).until_s is None


def test_an_access_allows_what_it_grants_and_nothing_else() -> None:
    """Lists are filtered by it."""
    bounded = link(CLUSTER, ALICE, policy=[["==", ".namespace", "team-a"]])
    access = find_access(claim(ALICE), [bounded], circumstances())
    assert access.unconditional is None
    assert access.allows({"namespace": "team-a"})
    assert not access.allows({"namespace": "team-b"})
    anything = find_access(claim(ALICE), [bounded, TO_ALICE], circumstances())
    assert anything.unconditional == Grant(claim=claim(ALICE), chain=(TO_ALICE,))
    assert anything.allows({"namespace": "team-b"})


FAR_WAY: Final = (link(CLUSTER, BOB), link(BOB, CAROL), link(CAROL, ALICE))


@pytest.mark.parametrize(
    ("near", "fields"),
    [
        ([link(CLUSTER, MALLORY), link(MALLORY, ALICE)], {"gone": frozenset({MALLORY})}),
        ([link(CLUSTER, ALICE, subject=None)], {"profile": SPECIFICATION}),
        ([link(CLUSTER, MALLORY), link(MALLORY, ALICE, subject=None)], {}),
        ([link(CLUSTER, ALICE, subject=MALLORY)], {}),
        ([link(CLUSTER, ALICE, "/task/cancel")], {}),
        ([link(CLUSTER, ALICE, expires_s=NOW - 61)], {}),
        ([link(CLUSTER, ALICE, not_before_s=NOW + 61)], {}),
        ([link(CLUSTER, ALICE, expires_s=None)], {}),
        ([link(CLUSTER, ALICE, expires_s=NOW + 500 * 86_400)], {}),
    ],
)
def test_what_does_not_hold_by_itself_stands_in_nobodys_way(
    near: list[Delegation], fields: dict[str, Any]
) -> None:
    """The nearer chain would be looked at first, and be refused as a whole."""
    assert arranged(claim(ALICE), *near, *FAR_WAY, **fields).chain == FAR_WAY
    with pytest.raises(UcanError):
        arranged(claim(ALICE), *near, **fields)


def test_a_revoked_link_stands_in_nobodys_way() -> None:
    for revoker in (CLUSTER, ALICE):
        near = link(CLUSTER, ALICE)
        taken = arranged(claim(ALICE), near, *FAR_WAY, revocations={near.cid: frozenset({revoker})})
        assert taken.chain == (FAR_WAY if revoker == CLUSTER else (near,))
    # What its giver, or the cluster, took back hides nothing else of the same giver.
    root, good = link(CLUSTER, BOB), link(BOB, ALICE, policy=[["like", ".namespace", "*"]])
    crowd = [link(BOB, ALICE, nonce=bytes([number])) for number in range(100)]
    for revoker in (CLUSTER, BOB):
        revoked = {each.cid: frozenset({revoker}) for each in crowd}
        access = arranged(claim(ALICE), root, *crowd, good, revocations=revoked)
        assert access.chain == (root, good)
    # Whoever is gone calls no more, by whatever chain.
    with pytest.raises(UcanError, match="Revoked"):
        arranged(claim(ALICE), *FAR_WAY, gone=frozenset({ALICE}))


def test_a_powerline_in_the_middle_passes_on_what_there_is_where_it_is_allowed() -> None:
    passed_on = (link(CLUSTER, BOB), link(BOB, ALICE, subject=None))
    assert arranged(claim(ALICE), *passed_on, profile=SPECIFICATION).chain == passed_on


def test_a_holder_is_come_to_again_by_what_is_passed_on_narrower() -> None:
    """The wide link came first, and leads nowhere: its giver has only the narrow right."""
    wide, narrow = link(ALICE, BOB, "/task"), link(ALICE, BOB, "/task/submit")
    root = link(CLUSTER, ALICE, "/task/submit")
    for bag in ([wide, narrow, root], [narrow, wide, root]):
        assert arranged(claim(BOB), *bag).chain == (root, narrow)
    assert unarranged(claim(BOB), wide, root) == ("InvalidCommand", 1)


def test_what_is_heavy_to_judge_shuts_out_nothing_that_is_light() -> None:
    heavy = [["or", [["==", ".never", n] for n in range(100)]], ["==", ".never", 1]]
    crowd = [
        link(CLUSTER, MALLORY),
        *(link(MALLORY, ALICE, policy=[["not", ["==", ".never", n]], *heavy]) for n in range(200)),
    ]
    light = [link(CLUSTER, BOB), link(BOB, ALICE, policy=[["==", ".namespace", "team-a"]])]
    assert arranged(claim(ALICE), *crowd, *light).chain == tuple(light)
    assert unarranged(claim(ALICE), *crowd) == ("MatchError", 1)


def test_no_holder_is_gone_on_from_twice_by_commands_as_wide() -> None:
    """Else four links a level are 65,536 ways over eight levels."""
    people = [Did(f"did:key:z6Mk{number}") for number in range(9)]
    bag = [link(giver, taker) for giver, taker in pairwise(people) for _ in range(4)]
    asked: list[Did] = []

    class Counted(dict[Did, list[Delegation]]):
        def get(self, key: Did, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    into = Counted()
    for each in bag:
        into.setdefault(each.audience, []).append(each)
    assert access_module._search(claim(people[-1]), into, circumstances(), lambda _: True) is None
    assert len(asked) == 8


def test_the_size_of_a_policy_is_that_of_all_its_statements() -> None:
    one: Value = ["==", ".a", 1]
    sizes: list[tuple[Value, int]] = [
        ([], 0),
        ([one], 1),
        ([one, ["not", one]], 3),
        ([["or", [one, one, ["and", [one]]]]], 5),
        ([["all", ".b", ["any", ".", one]]], 3),
    ]
    for policy, size in sizes:
        assert size_of(parse_policy(policy, profile=PRODUCT)) == size


def test_the_items_of_a_list_share_their_steps() -> None:
    heavy = link(CLUSTER, ALICE, policy=[["==", ".namespace", "team-a"]] * 100)
    access = find_access(claim(ALICE), [heavy], circumstances())
    evaluation = Evaluation(steps_max=250)
    assert access.allows(ARGS, evaluation)
    assert access.allows(ARGS, evaluation)
    with pytest.raises(UcanError, match="TooLarge"):
        access.allows(ARGS, evaluation)
    assert access.allows(ARGS)


def test_a_way_between_two_is_the_shortest() -> None:
    detour = [link(CLUSTER, BOB), link(BOB, ALICE), link(ALICE, CAROL)]
    assert path_between(detour, CLUSTER, CAROL) == tuple(detour)
    assert path_between([*detour, TO_ALICE], CLUSTER, CAROL) == (TO_ALICE, detour[2])
    assert path_between(detour, ALICE, ALICE) == ()
    assert path_between(detour, CAROL, ALICE) == ()


def test_an_explanation_tells_of_the_chain_that_holds_or_of_the_nearest() -> None:
    bounded = link(ALICE, BOB, policy=[["==", ".namespace", "team-b"]])
    held = explain(claim(BOB), [TO_ALICE, TO_BOB], circumstances())
    assert (held.chain, held.error) == ((TO_ALICE, TO_BOB), None)
    denied = explain(claim(BOB), [TO_ALICE, bounded], circumstances())
    assert denied.chain == (TO_ALICE, bounded)
    assert denied.error is not None
    assert (denied.error.name, denied.error.link) == (Refusal.MATCH_ERROR, 1)
    late = link(ALICE, BOB, expires_s=NOW - 999)
    assert isinstance(arrange(claim(BOB), [TO_ALICE, late], circumstances()), Shortfall)
    missing = explain(claim(BOB), [TO_ALICE, late], circumstances())
    assert missing.chain == (TO_ALICE, late)
    assert missing.error is not None
    assert missing.error.name is Refusal.EXPIRED

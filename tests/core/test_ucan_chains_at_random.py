"""Random delegations: every grant has the chain that it needs, however it is found."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.arrange import chains_to, find_access
from ipfs_cluster_node.core.ucan.chain import Claim, check_chain
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from ipfs_cluster_node.core.ucan.tokens import Delegation
from tests.support.claims import (
    ALICE,
    BOB,
    CAROL,
    CLUSTER,
    NOW,
    arranged,
    claim,
    granted,
    link,
    validation_context,
)

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
    bag: list[Delegation], who: Did, revoked: dict[int, Did], revoked_dids: frozenset[Did]
) -> None:
    """All chains one by one, as `check_chain` judges them, come to the same."""
    revocations = {bag[n].cid: frozenset({by}) for n, by in revoked.items() if n < len(bag)}
    present = validation_context(revocations=revocations, revoked_dids=revoked_dids)

    def holds(chain: tuple[Delegation, ...]) -> bool:
        try:
            check_chain(claim(who), chain, present)
        except UcanError:
            return False
        return True

    chains = [(), *chains_to(claim(who), bag)]
    try:
        grant = find_access(claim(who), bag, present).check(claim(who).args)
    except UcanError:
        # One may be overlooked where somebody revoked what came of their own.
        by_issuers = {by for by in revoked.values() if by != CLUSTER}
        assert by_issuers or not any(map(holds, chains))
        return
    assert holds(grant.chain)

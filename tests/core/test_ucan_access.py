"""What delegations allow a caller, found once for many requests, and explained."""

from itertools import pairwise
from typing import Any, Final

import pytest

from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan import access as access_module
from ipfs_cluster_node.core.ucan.arrange import Shortfall, arrange, find_access
from ipfs_cluster_node.core.ucan.chain import ProvenClaim
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError
from ipfs_cluster_node.core.ucan.explain import explain
from ipfs_cluster_node.core.ucan.policies import Evaluation, parse_policy, size_of
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from ipfs_cluster_node.core.ucan.tokens import Delegation
from tests.support.claims import (
    ALICE,
    ARGS,
    BOB,
    CAROL,
    CLUSTER,
    MALLORY,
    NOW,
    TO_ALICE,
    TO_BOB,
    arranged,
    claim,
    link,
    unarranged,
    validation_context,
)


def test_an_access_is_found_anew_when_its_first_link_ends() -> None:
    soon, later = link(CLUSTER, ALICE, expires_s=NOW + 5), link(ALICE, BOB, expires_s=NOW + 9)
    assert find_access(claim(BOB), [later, soon], validation_context()).until_s == NOW + 5
    for_ever = validation_context(profile=SPECIFICATION)
    unending = link(CLUSTER, ALICE, expires_s=None)
    assert find_access(claim(ALICE), [unending], for_ever).until_s is None


def test_an_access_allows_what_it_grants_and_nothing_else() -> None:
    """Lists are filtered by it."""
    bounded = link(CLUSTER, ALICE, policy=[["==", ".namespace", "team-a"]])
    access = find_access(claim(ALICE), [bounded], validation_context())
    assert access.unconditional is None
    assert access.allows({"namespace": "team-a"})
    assert not access.allows({"namespace": "team-b"})
    anything = find_access(claim(ALICE), [bounded, TO_ALICE], validation_context())
    assert anything.unconditional == ProvenClaim(claim=claim(ALICE), chain=(TO_ALICE,))
    assert anything.allows({"namespace": "team-b"})


FAR_WAY: Final = (link(CLUSTER, BOB), link(BOB, CAROL), link(CAROL, ALICE))


@pytest.mark.parametrize(
    ("near", "fields"),
    [
        (
            [link(CLUSTER, MALLORY), link(MALLORY, ALICE)],
            {"revoked_dids": frozenset({MALLORY})},
        ),
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
    """The nearer chain would be tried first, and the call refused because of it."""
    assert arranged(claim(ALICE), *near, *FAR_WAY, **fields).chain == FAR_WAY
    with pytest.raises(UcanError):
        arranged(claim(ALICE), *near, **fields)


def test_a_revoked_link_stands_in_nobodys_way() -> None:
    for revoker in (CLUSTER, ALICE):
        near = link(CLUSTER, ALICE)
        taken = arranged(claim(ALICE), near, *FAR_WAY, revocations={near.cid: frozenset({revoker})})
        assert taken.chain == (FAR_WAY if revoker == CLUSTER else (near,))
    # What its issuer, or the cluster, revoked hides nothing else of that issuer.
    root, good = link(CLUSTER, BOB), link(BOB, ALICE, policy=[["like", ".namespace", "*"]])
    crowd = [link(BOB, ALICE, nonce=bytes([number])) for number in range(100)]
    for revoker in (CLUSTER, BOB):
        revoked = {each.cid: frozenset({revoker}) for each in crowd}
        access = arranged(claim(ALICE), root, *crowd, good, revocations=revoked)
        assert access.chain == (root, good)
    # A removed principal can't call by any chain.
    with pytest.raises(UcanError, match="Revoked"):
        arranged(claim(ALICE), *FAR_WAY, revoked_dids=frozenset({ALICE}))


def test_a_powerline_in_the_middle_passes_on_what_there_is_where_it_is_allowed() -> None:
    passed_on = (link(CLUSTER, BOB), link(BOB, ALICE, subject=None))
    assert arranged(claim(ALICE), *passed_on, profile=SPECIFICATION).chain == passed_on


def test_a_holder_is_come_to_again_by_what_is_passed_on_narrower() -> None:
    """The wide link came first, and leads nowhere: its issuer has only the narrow permission."""
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
    """Otherwise four links a level are 65,536 ways over eight levels."""
    people = [Did(f"did:key:z6Mk{number}") for number in range(9)]
    bag = [link(giver, taker) for giver, taker in pairwise(people) for _ in range(4)]
    asked: list[Did] = []

    class Counted(dict[Did, list[Delegation]]):
        def get(self, key: Did, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    by_audience = Counted()
    for each in bag:
        by_audience.setdefault(each.audience, []).append(each)
    assert (
        access_module._search(claim(people[-1]), by_audience, validation_context(), lambda _: True)
        is None
    )
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
    access = find_access(claim(ALICE), [heavy], validation_context())
    evaluation = Evaluation(steps_max=250)
    assert access.allows(ARGS, evaluation)
    assert access.allows(ARGS, evaluation)
    with pytest.raises(UcanError, match="TooLarge"):
        access.allows(ARGS, evaluation)
    assert access.allows(ARGS)


def test_an_explanation_tells_of_the_chain_that_holds_or_of_the_nearest() -> None:
    bounded = link(ALICE, BOB, policy=[["==", ".namespace", "team-b"]])
    held = explain(claim(BOB), [TO_ALICE, TO_BOB], validation_context())
    assert (held.chain, held.error) == ((TO_ALICE, TO_BOB), None)
    denied = explain(claim(BOB), [TO_ALICE, bounded], validation_context())
    assert denied.chain == (TO_ALICE, bounded)
    assert denied.error is not None
    assert (denied.error.name, denied.error.link) == (Refusal.MATCH_ERROR, 1)
    late = link(ALICE, BOB, expires_s=NOW - 999)
    assert isinstance(arrange(claim(BOB), [TO_ALICE, late], validation_context()), Shortfall)
    missing = explain(claim(BOB), [TO_ALICE, late], validation_context())
    assert missing.chain == (TO_ALICE, late)
    assert missing.error is not None
    assert missing.error.name is Refusal.EXPIRED

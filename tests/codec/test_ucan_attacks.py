"""Valid tokens that are misused, and the name of the refusal."""

import time
from itertools import pairwise
from typing import Any

import pytest

from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_validator import Validator
from ipfs_cluster_node.core.ucan.access import Access
from ipfs_cluster_node.core.ucan.chain import ProvenClaim
from ipfs_cluster_node.core.ucan.commands import Command
from tests.support.ucan import (
    ALICE,
    ARGS,
    BOB,
    CAROL,
    CLUSTER,
    MALLORY,
    NO_REVOCATIONS,
    NOW,
    ROOT,
    actor,
    chain_of,
    peer_call,
    refused,
    refused_peer,
    refused_signed,
    signed_call,
    validator,
)


def test_the_control_is_taken_in_both_modes() -> None:
    to_bob = ALICE.delegates(BOB, "/task/submit", policy=[["<=", ".priority", 3]])
    for grant in (
        signed_call(BOB.invokes(ROOT, to_bob), ROOT, to_bob),
        peer_call(BOB, ROOT, to_bob),
    ):
        assert [link.cid for link in grant.chain] == [cid_of_token(ROOT), cid_of_token(to_bob)]
        assert (grant.claim.issuer, grant.holder) == (BOB.did, ALICE.did)


# Chains


def test_what_is_not_the_callers_to_use() -> None:
    assert refused_signed(MALLORY, ROOT) == ("InvalidAudience", 0)
    assert refused_peer(MALLORY, ROOT) == ("InvalidAudience", None)
    own = MALLORY.delegates(MALLORY)
    assert refused_signed(MALLORY, own) == ("InvalidAudience", 0)
    assert refused_peer(MALLORY, own) == ("InvalidAudience", None)
    to_bob = MALLORY.delegates(BOB)
    assert refused_signed(BOB, to_bob) == ("InvalidAudience", 0)
    assert refused_peer(BOB, to_bob) == ("InvalidAudience", 0)
    assert refused_signed(BOB, ROOT, to_bob) == ("InvalidAudience", 1)
    assert refused_peer(BOB, ROOT, to_bob) == ("InvalidAudience", 0)


def test_no_proof_at_all() -> None:
    assert refused_signed(MALLORY) == ("InvalidClaim", None)
    assert refused_peer(MALLORY) == ("InvalidClaim", None)
    assert signed_call(CLUSTER.invokes()).chain == ()


def test_a_subject_of_the_callers_own() -> None:
    """One's own subject needs no proof, and must not pass for the cluster's."""
    own = {"subject": MALLORY.did, "audience": CLUSTER.did}
    assert refused_signed(MALLORY, **own) == ("InvalidSubject", None)
    assert refused_signed(MALLORY, subject=MALLORY.did) == ("InvalidAudience", None)
    to_bob = MALLORY.delegates(BOB, subject=MALLORY.did)
    assert refused_signed(BOB, to_bob, **own) == ("InvalidSubject", None)
    assert refused_signed(BOB, to_bob) == ("InvalidSubject", 0)
    assert refused_peer(BOB, to_bob) == ("InvalidSubject", 0)


def test_a_call_for_another_executor() -> None:
    assert refused_signed(ALICE, ROOT, audience=BOB.did) == ("InvalidAudience", None)
    # The subject that is compared stays the subject where `aud` is set, as go-ucan had it not.
    assert refused_signed(ALICE, ROOT, audience=ALICE.did)[0] == "InvalidAudience"
    assert signed_call(ALICE.invokes(ROOT, audience=CLUSTER.did), ROOT)


def test_a_proof_that_did_not_come_along() -> None:
    to_bob = ALICE.delegates(BOB)
    both = BOB.invokes(ROOT, to_bob)
    assert refused(lambda: signed_call(both, to_bob)) == ("UnavailableProof", 0)
    assert refused(lambda: signed_call(both, ROOT)) == ("UnavailableProof", 1)
    by = validator()
    assert peer_call(BOB, ROOT, to_bob, by=by)
    # Not even if another call sent it.
    assert refused(lambda: signed_call(both, ROOT, by=by)) == ("UnavailableProof", 1)


def test_leaf_first_is_not_the_order() -> None:
    to_bob = ALICE.delegates(BOB)
    assert refused_signed(BOB, to_bob, ROOT) == ("InvalidAudience", 0)
    assert signed_call(BOB.invokes(ROOT, to_bob), to_bob, ROOT)


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        ("/task", "/tasksteal"),
        ("/crypto", "/cryptocurrency/steal"),
        ("/task/submit", "/task"),
        ("/task", "/"),
        ("/task", "/state/read"),
    ],
)
def test_a_command_that_only_begins_alike(granted: str, asked: str) -> None:
    root = CLUSTER.delegates(ALICE, granted)
    invocation = ALICE.invokes(root, command=asked)
    command = Command(asked)
    assert refused(lambda: signed_call(invocation, root, command=command)) == ("InvalidCommand", 0)
    assert refused_peer(ALICE, root, command=command) == ("InvalidCommand", 0)
    wider = ALICE.delegates(BOB, asked)
    assert refused_signed(BOB, root, wider, command=asked)[0] == "InvalidCommand"
    assert refused_peer(BOB, root, wider, command=command) == ("InvalidCommand", 1)


def test_the_top_command_covers_all() -> None:
    root = CLUSTER.delegates(ALICE, "/")
    assert signed_call(ALICE.invokes(root), root)
    assert peer_call(ALICE, root, command=Command("/admin/backup"))


def test_what_was_signed_is_not_what_is_asked() -> None:
    invocation = ALICE.invokes(ROOT)
    cancel = Command("/task/cancel")
    assert refused(lambda: signed_call(invocation, ROOT, command=cancel)) == (
        "InvalidCommand",
        None,
    )
    for args in (ARGS | {"namespace": "team-b"}, ARGS | {"more": 1}, {}, ARGS | {"priority": True}):
        assert refused(lambda: signed_call(invocation, ROOT, args=args)) == ("InvalidClaim", None)  # noqa: B023
    wide = ALICE.invokes(ROOT, command="/task")
    assert refused(lambda: signed_call(wide, ROOT)) == ("InvalidCommand", None)


def test_times_that_are_over_or_to_come() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"expires_s": NOW - 60}, "Expired"),
        ({"expires_s": 0}, "Expired"),
        ({"not_before_s": NOW + 61}, "TooEarly"),
        ({"not_before_s": 2**53 - 1}, "TooEarly"),
    )
    for fields, name in cases:
        root = CLUSTER.delegates(ALICE, **fields)
        assert refused_signed(ALICE, root) == (name, 0)
        assert refused_peer(ALICE, root) == (name, 0)
        invocation = ALICE.invokes(ROOT, **fields)
        assert refused(lambda: signed_call(invocation, ROOT)) == (name, None)  # noqa: B023
    late = CLUSTER.delegates(ALICE, expires_s=NOW - 59)
    assert signed_call(ALICE.invokes(late, expires_s=NOW - 59), late)
    assert peer_call(ALICE, late)


def test_a_root_without_a_subject() -> None:
    root = CLUSTER.delegates(ALICE, subject=None)
    assert refused_signed(ALICE, root) == ("InvalidClaim", 0)
    assert refused_peer(ALICE, root) == ("InvalidClaim", 0)


def test_chains_of_eight_and_of_twelve() -> None:
    links, last = chain_of(8)
    assert len(signed_call(last.invokes(*links), *links).chain) == 8
    assert len(peer_call(last, *links).chain) == 8
    links, last = chain_of(12)
    assert refused_signed(last, *links) == ("ChainTooLong", None)
    assert refused_peer(last, *links) == ("ChainTooLong", None)
    # Refused before any proof is looked for, let alone verified.
    absent = [cid_of_token(bytes([number])) for number in range(9)]
    assert refused_signed(ALICE, proofs=absent) == ("ChainTooLong", None)
    assert refused_signed(ALICE, proofs=absent[1:]) == ("UnavailableProof", 0)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_revoked_link_anywhere(position: int) -> None:
    chain = [ROOT, ALICE.delegates(BOB), BOB.delegates(CAROL)]
    cid = cid_of_token(chain[position])
    for revoker in (CLUSTER, (CLUSTER, ALICE, BOB)[position]):
        revocations = {cid: frozenset({revoker.did})}
        invocation = CAROL.invokes(*chain)
        assert refused(
            lambda: signed_call(invocation, *chain, revocations=revocations)  # noqa: B023
        ) == ("Revoked", position)
        assert refused_peer(CAROL, *chain, revocations=revocations) == ("Revoked", position)
    by_a_stranger = {cid: frozenset({MALLORY.did})}
    assert peer_call(CAROL, *chain, revocations=by_a_stranger)


def test_what_was_found_ends_when_its_chain_does() -> None:
    """A stream is checked like this again and again while it runs."""
    by = validator()
    delegations = by.delegations(by.read(write_container([ROOT])))

    def ask(now_s: int, **more: Any) -> Access:
        given: Any = {"now_s": now_s, "revocations": NO_REVOCATIONS} | more
        context = by.validation_context(**given)
        return by.access(ALICE.did, Command("/task/submit"), delegations, context)

    assert ask(NOW + 60).check(ARGS)
    revocations = {cid_of_token(ROOT): frozenset({CLUSTER.did})}
    assert refused(lambda: ask(NOW, revocations=revocations)) == ("Revoked", 0)
    assert refused(lambda: ask(NOW + 9999)) == ("Expired", 0)
    assert refused(lambda: ask(NOW, revoked_dids={CLUSTER.did})) == ("Revoked", 0)
    assert refused(lambda: ask(NOW, revoked_dids={ALICE.did})) == ("Revoked", None)


def test_a_proof_that_is_kept_need_not_come_along() -> None:
    by = validator()
    context = by.validation_context(now_s=NOW, revocations=NO_REVOCATIONS)
    kept = {cid_of_token(ROOT): ROOT}

    def ask(invocation: bytes) -> ProvenClaim:
        return by.invoked(
            by.read(write_container([invocation])),
            command=Command("/task/submit"),
            args_of=lambda: ARGS,
            context=context,
            stored=kept.get,
        )

    assert [d.cid for d in ask(ALICE.invokes(ROOT)).chain] == list(kept)
    to_bob = ALICE.delegates(BOB)
    assert refused(lambda: ask(BOB.invokes(ROOT, to_bob))) == ("UnavailableProof", 1)


def test_what_shows_items_is_not_judged_by_its_own_arguments() -> None:
    by = validator()
    context = by.validation_context(now_s=NOW, revocations=NO_REVOCATIONS)
    root = CLUSTER.delegates(ALICE, policy=[["==", ".never", True]])

    def ask(by_item: bool) -> ProvenClaim:  # noqa: FBT001
        return by.invoked(
            by.read(write_container([ALICE.invokes(root), root])),
            command=Command("/task/submit"),
            args_of=lambda: ARGS,
            context=context,
            by_item=by_item,
        )

    assert refused(lambda: ask(False)) == ("MatchError", 0)
    assert len(ask(True).chain) == 1


def test_the_second_use_of_an_invocation() -> None:
    by, invocation = validator(), ALICE.invokes(ROOT)
    assert signed_call(invocation, ROOT, by=by)
    assert refused(lambda: signed_call(invocation, ROOT, by=by)) == ("Replay", None)
    assert signed_call(ALICE.invokes(ROOT), ROOT, by=by)
    restarted = Validator(authority=CLUSTER.did, started_s=NOW)
    assert refused(lambda: signed_call(invocation, ROOT, by=restarted)) == ("Replay", None)


def test_what_was_refused_was_not_used() -> None:
    by, invocation = validator(), ALICE.invokes(ROOT)
    assert refused(lambda: signed_call(invocation, ROOT, by=by, args={}))[0] == "InvalidClaim"
    revocations = {cid_of_token(ROOT): frozenset({CLUSTER.did})}
    assert (
        refused(lambda: signed_call(invocation, ROOT, by=by, revocations=revocations))[0]
        == "Revoked"
    )
    assert signed_call(invocation, ROOT, by=by)


# Policies


def test_a_policy_of_any_link_refuses() -> None:
    strict: dict[str, Any] = {"policy": [["==", ".namespace", "team-b"]]}
    assert refused_signed(ALICE, CLUSTER.delegates(ALICE, **strict)) == ("MatchError", 0)
    to_bob = ALICE.delegates(BOB, **strict)
    assert refused_signed(BOB, ROOT, to_bob) == ("MatchError", 1)
    assert refused_peer(BOB, ROOT, to_bob) == ("MatchError", 1)


def test_quoted_keys_are_heeded() -> None:
    """Unlike iso-ucan, which ignored `["namespace"]`."""
    for selector in ('["namespace"]', '.["namespace"]'):
        for statement in (["!=", selector, "team-a"], ["==", selector, "team-b"]):
            root = CLUSTER.delegates(ALICE, policy=[statement])
            assert refused_signed(ALICE, root) == ("MatchError", 0)
        assert peer_call(ALICE, CLUSTER.delegates(ALICE, policy=[["==", selector, "team-a"]]))


def test_any_over_nothing_is_false() -> None:
    root = CLUSTER.delegates(ALICE, policy=[["any", ".names", ["==", ".", "a"]]])
    args: dict[str, Any] = {"names": []}
    assert refused_peer(ALICE, root, args=args) == ("MatchError", 0)


def test_negative_statements_hold_by_the_specification_where_the_field_is_absent() -> None:
    for statement in (["not", ["==", ".prod", True]], ["or", []], ["and", []]):
        assert peer_call(ALICE, CLUSTER.delegates(ALICE, policy=[statement]))
    root = CLUSTER.delegates(ALICE, policy=[["not", ["==", ".prod", True]]])
    assert refused_peer(ALICE, root, args=ARGS | {"prod": True}) == ("MatchError", 0)


def test_the_longest_chain_of_policies_that_a_container_holds() -> None:
    people = [CLUSTER, *(actor(200 + number) for number in range(8))]
    longest = [["<=", ".priority", 9]] * 60
    chain = [giver.delegates(taker, policy=longest) for giver, taker in pairwise(people)]
    by = validator()
    invocation = people[-1].invokes(*chain)
    began = time.perf_counter()
    assert signed_call(invocation, *chain, by=by)
    assert time.perf_counter() - began < 0.3


def test_a_policy_made_to_take_long() -> None:
    long_text = "a" * 4000
    root = CLUSTER.delegates(ALICE, policy=[["like", ".key", "a*" * 100 + "b"]])
    began = time.perf_counter()
    assert refused_peer(ALICE, root, args={"key": long_text}) == ("MatchError", 0)
    # 8,000 statements to evaluate each time, from forty bytes of policy.
    none: Any = ["any", ".a", ["any", ".", ["any", ".", ["==", ".", 1]]]]
    args: dict[str, Any] = {"a": [[[0] * 20] * 20] * 20}
    root = CLUSTER.delegates(ALICE, policy=[none])
    root_2 = CLUSTER.delegates(ALICE, policy=[["not", none]] * 9)
    assert refused_peer(ALICE, root, args=args) == ("MatchError", 0)
    assert refused_peer(ALICE, root_2, args=args) == ("TooLarge", 0)
    assert time.perf_counter() - began < 0.5

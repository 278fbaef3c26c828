"""What the product refuses and the specification allows, one test per difference."""

from dataclasses import fields, replace
from typing import Any

import pytest

from ipfs_cluster_node.codec.ucan import (
    VERSION_RC1,
    cid_of_token,
)
from ipfs_cluster_node.codec.ucan_container import read_container, write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION, ValidationProfile
from tests.support.ucan import (
    ALICE,
    BOB,
    CLUSTER,
    NOW,
    Actor,
    chain_of,
    forge,
    payload_of,
    peer_call,
    read_as,
    signed_call,
    validator,
)

P256 = Did("did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169")


def by_profile(profile: ValidationProfile, invocation: bytes, *proofs: bytes, **asked: Any) -> str:
    """`taken`, or the name of the refusal."""
    authority = CLUSTER if profile.authority_required else None
    try:
        signed_call(invocation, *proofs, by=validator(profile, authority), **asked)
    except UcanError as error:
        return str(error.name)
    return "taken"


def differ(name: str, invocation: bytes, *proofs: bytes, **asked: Any) -> None:
    assert by_profile(SPECIFICATION, invocation, *proofs, **asked) == "taken"
    assert by_profile(PRODUCT, invocation, *proofs, **asked) == name


def alike(invocation: bytes, *proofs: bytes, **asked: Any) -> None:
    assert by_profile(SPECIFICATION, invocation, *proofs, **asked) == "taken"
    assert by_profile(PRODUCT, invocation, *proofs, **asked) == "taken"


ROOT = CLUSTER.delegates(ALICE)


def test_an_invocation_expires_within_five_minutes() -> None:
    alike(ALICE.invokes(ROOT, expires_s=NOW + 300), ROOT)
    differ("InvalidClaim", ALICE.invokes(ROOT, expires_s=NOW + 301), ROOT)


def test_a_delegation_expires() -> None:
    root = CLUSTER.delegates(ALICE, expires_s=None)
    differ("InvalidClaim", ALICE.invokes(root), root)


def test_a_delegation_expires_within_four_hundred_days() -> None:
    """Revocations are kept until then: one for 2^53 s would be kept for ever."""
    days = 400 * 86_400
    near, far = (CLUSTER.delegates(ALICE, expires_s=NOW + days + more) for more in (60, 61))
    alike(ALICE.invokes(near), near)
    differ("InvalidClaim", ALICE.invokes(far), far)
    peer_call(ALICE, near)
    with pytest.raises(UcanError, match="InvalidClaim"):
        peer_call(ALICE, far)


def test_there_is_no_powerline() -> None:
    to_bob = ALICE.delegates(BOB, subject=None)
    differ("InvalidClaim", BOB.invokes(ROOT, to_bob), ROOT, to_bob)


def test_the_executor_and_the_subject_are_the_cluster() -> None:
    differ("InvalidAudience", ALICE.invokes(ROOT, audience=BOB.did), ROOT)
    own = {"subject": ALICE.did, "audience": CLUSTER.did}
    differ("InvalidSubject", ALICE.invokes(**own))
    with pytest.raises(ValueError, match="cluster's DID"):
        validator(PRODUCT, None)
    with pytest.raises(ValueError, match="cluster's DID"):
        peer_call(ALICE, by=validator(SPECIFICATION, None))


def test_dids_are_of_ed25519() -> None:
    for foreign in (
        P256,
        "did:web:example.com",
        "did:plc:abc:def",
        "did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc",
    ):
        token = sign_delegation(
            CLUSTER.key, audience=Did(foreign), subject=CLUSTER.did, command="/", expires_s=NOW
        )
        assert read_as(SPECIFICATION, token) == "read"
        assert read_as(PRODUCT, token) == "Malformed"
    for wrong in (
        "did:",
        "did:web:",
        "did:Web:x",
        "did:web:x:",
        "did:web:a b",
        "web:x",
        "did:web:" + "x" * 505,
    ):
        token = forge(CLUSTER.key, payload_of(ROOT) | {"aud": wrong})
        assert read_as(SPECIFICATION, token) == "Malformed"
    longest = forge(CLUSTER.key, payload_of(ROOT) | {"aud": "did:web:" + "x" * 504})
    assert read_as(SPECIFICATION, longest) == "read"
    # Neither profile knows how to verify them.
    token = forge(ALICE.key, payload_of(ROOT) | {"iss": P256})
    assert read_as(SPECIFICATION, token) == "InvalidSignature"


def test_a_chain_has_eight_links() -> None:
    links, last = chain_of(8)
    alike(last.invokes(*links), *links)
    links, last = chain_of(9)
    differ("ChainTooLong", last.invokes(*links), *links)


def padded_to(size: int) -> bytes:
    # The length of `meta` itself takes three bytes from 256 on.
    empty = len(CLUSTER.delegates(ALICE, nonce=b"", meta={"x": bytes(256)})) - 256
    token = CLUSTER.delegates(ALICE, nonce=b"", meta={"x": bytes(size - empty)})
    assert len(token) == size
    return token


def test_a_token_has_four_kibibytes() -> None:
    for size, product in ((4096, "read"), (4097, "TooLarge")):
        assert read_as(PRODUCT, padded_to(size)) == product
        assert read_as(SPECIFICATION, padded_to(size)) == "read"
    with pytest.raises(UcanError, match="TooLarge"):
        padded_to(64 * 1024 + 1)


def test_a_container_has_sixteen_kibibytes() -> None:
    tokens = [padded_to(4000), padded_to(4001), padded_to(4002)]
    whole = len(write_container(tokens))
    for profile, wanted in ((replace(PRODUCT, container_chars_max=whole), 3), (PRODUCT, 3)):
        assert len(read_container(write_container(tokens), profile=profile)) == wanted
    with pytest.raises(UcanError, match="TooLarge"):
        read_container(
            write_container(tokens), profile=replace(PRODUCT, container_chars_max=whole - 1)
        )
    assert PRODUCT.container_chars_max == 16 * 1024
    assert SPECIFICATION.container_chars_max > PRODUCT.container_chars_max


def test_a_container_has_thirty_two_tokens() -> None:
    tokens = [bytes([number]) for number in range(33)]
    assert len(read_container(write_container(tokens[:32]), profile=PRODUCT)) == 32
    assert len(read_container(write_container(tokens), profile=SPECIFICATION)) == 33
    with pytest.raises(UcanError, match="TooLarge"):
        read_container(write_container(tokens), profile=PRODUCT)


def test_a_token_is_sixteen_levels_deep() -> None:
    def nested(depth: int) -> bytes:
        value: Any = 0
        for _ in range(depth):
            value = [value]
        # The envelope, what is signed, the payload and `meta` are four levels.
        return CLUSTER.delegates(ALICE, meta={"x": value})

    assert read_as(PRODUCT, nested(12)) == "read"
    assert read_as(PRODUCT, nested(13)) == "Malformed"
    assert read_as(SPECIFICATION, nested(60)) == "read"
    with pytest.raises(UcanError, match="Malformed"):
        nested(61)
    with pytest.raises(ValueError, match="depth_max"):
        replace(PRODUCT, depth_max=65)


def test_a_policy_has_128_statements() -> None:
    for count, product in ((128, "read"), (129, "TooLarge")):
        token = CLUSTER.delegates(ALICE, policy=[["==", ".a", 1]] * count)
        assert (read_as(PRODUCT, token), read_as(SPECIFICATION, token)) == (product, "read")


def test_a_selector_has_256_characters() -> None:
    for count, product in ((255, "read"), (256, "Malformed")):
        token = CLUSTER.delegates(ALICE, policy=[["==", "." + "a" * count, 1]])
        assert (read_as(PRODUCT, token), read_as(SPECIFICATION, token)) == (product, "read")


def test_a_command_has_256_characters() -> None:
    for count, product in ((255, "read"), (256, "Malformed")):
        token = CLUSTER.delegates(ALICE, "/" + "a" * count)
        assert (read_as(PRODUCT, token), read_as(SPECIFICATION, token)) == (product, "read")


def test_ten_thousand_statements_are_evaluated() -> None:
    root = CLUSTER.delegates(ALICE, policy=[["all", ".a", ["==", ".", 0]]])
    for count, wanted in ((9_999, "taken"), (10_000, "TooLarge")):
        args: dict[str, Any] = {"a": [0] * count}
        try:
            peer_call(ALICE, root, args=args)
            name = "taken"
        except UcanError as error:
            name = str(error.name)
        assert name == wanted
    assert SPECIFICATION.evaluation_steps_max > PRODUCT.evaluation_steps_max


def test_the_product_is_nowhere_laxer() -> None:
    for field in fields(ValidationProfile):
        strict, lax = getattr(PRODUCT, field.name), getattr(SPECIFICATION, field.name)
        if field.name.endswith("_max") and lax is not None:
            assert strict < lax, field.name
    assert PRODUCT.skew_s == SPECIFICATION.skew_s == 60


# Both


def test_the_tag_of_the_release_candidate_is_read_and_written() -> None:
    root = CLUSTER.delegates(ALICE, version=VERSION_RC1)
    assert b"ucan/dlg@1.0.0-rc.1" in root
    invocation = ALICE.invokes(root, version=VERSION_RC1)
    assert b"ucan/inv@1.0.0-rc.1" in invocation
    alike(invocation, root)
    assert b"ucan/dlg@1.0.0\xa7" in ROOT


def test_nonces_are_random_unless_given() -> None:
    assert CLUSTER.delegates(ALICE) != CLUSTER.delegates(ALICE)
    assert CLUSTER.delegates(ALICE, nonce=b"") == CLUSTER.delegates(ALICE, nonce=b"")
    assert ALICE.invokes() != ALICE.invokes()
    assert len(payload_of(ALICE.invokes())["nonce"]) == 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": "task"},
        {"audience": Actor(ALICE.key), "policy": [["like", ".a", 1]]},
        {"expires_s": -1},
        {"expires_s": 1.5},
        {"meta": {"x": float("nan")}},
        {"meta": {"x": object()}},
        {"nonce": "text"},
        {"subject": "cluster"},
        {"version": "2.0.0"},
    ],
)
def test_what_would_be_no_token_is_not_signed(wrong: dict[str, Any]) -> None:
    with pytest.raises(UcanError, match="Malformed"):
        CLUSTER.delegates(wrong.pop("audience", ALICE), **wrong)


def test_what_would_be_no_invocation_is_not_signed() -> None:
    wrong: list[dict[str, Any]] = [
        {"command": "/x/"},
        {"args": {"x": 2**64}},
        {"proofs": [cid_of_token(ROOT)] * 2},
        {"subject": None},
    ]
    for fields_ in wrong:
        with pytest.raises(UcanError, match="Malformed"):
            ALICE.invokes(**fields_)

"""Tokens and containers: round trips, refusals, and the cache of verified delegations."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.codec.ucan import (
    Envelope,
    TokenReader,
    cid_of_token,
    open_envelope,
)
from ipfs_cluster_node.codec.ucan_container import read_container, write_container
from ipfs_cluster_node.core.dag_cbor import Link, encode
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION
from tests.support.ucan import (
    ALICE,
    ARGS,
    BOB,
    CLUSTER,
    NOW,
    ROOT,
    Actor,
    forge,
    payload_of,
    peer_call,
    read_as,
    signed_call,
    validator,
)

# What is remembered


def test_what_is_remembered_is_bounded_and_what_is_used_stays() -> None:
    reader = TokenReader(PRODUCT, remembered_max=3)
    tokens = [CLUSTER.delegates(ALICE) for _ in range(5)]
    envelopes = [open_envelope(token, profile=PRODUCT) for token in tokens]
    read = [reader.delegation(envelope) for envelope in envelopes]
    assert len(reader) == 0
    for delegation in read[:3]:
        reader.remember(delegation)
    assert reader.delegation(envelopes[0]) is read[0]
    reader.remember(read[3])
    assert reader.remembered(envelopes[1].cid) is None
    reader.remember(read[2])
    reader.remember(read[4])
    assert len(reader) == 3
    known = [reader.remembered(envelope.cid) is not None for envelope in envelopes]
    assert known == [False, False, True, True, True]


def verifications(monkeypatch: pytest.MonkeyPatch) -> list[Did]:
    """The tokens whose signatures are verified from now on."""
    issuers: list[Did] = []

    def verify(did: Did, signature: bytes, message: bytes) -> bool:
        issuers.append(did)
        return verify_signature(did, signature, message)

    monkeypatch.setattr("ipfs_cluster_node.codec.ucan.verify_signature", verify)
    return issuers


def test_a_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, by = verifications(monkeypatch), validator()
    to_bob, useless = ALICE.delegates(BOB), CLUSTER.delegates(BOB, "/state")
    for _ in range(2):
        peer_call(BOB, ROOT, to_bob, useless, by=by)
    # But not one that grants nothing, or it could displace those of others.
    assert sorted(seen) == sorted([CLUSTER.did, ALICE.did, CLUSTER.did, CLUSTER.did])
    seen.clear()
    by = validator()
    for _ in range(2):
        signed_call(BOB.invokes(ROOT, to_bob), ROOT, to_bob, useless, by=by)
    assert seen == [BOB.did, CLUSTER.did, ALICE.did, BOB.did]


def test_what_grants_nothing_is_not_kept_for_callers_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, by = verifications(monkeypatch), validator()
    root = CLUSTER.delegates(ALICE, policy=[["==", ".namespace", "team-b"]])
    for _ in range(2):
        with pytest.raises(UcanError, match="MatchError"):
            signed_call(ALICE.invokes(root), root, by=by)
    assert seen == [ALICE.did, CLUSTER.did] * 2


def test_what_did_not_verify_is_never_remembered() -> None:
    by = validator()
    bad = forge(CLUSTER.key, payload_of(ROOT), signature=bytes(64))
    for _ in range(2):
        with pytest.raises(UcanError, match="InvalidSignature"):
            peer_call(ALICE, bad, by=by)


def test_an_envelope_in_the_wrong_place_names_its_token() -> None:
    reader = TokenReader(PRODUCT)
    invocation: Envelope = open_envelope(ALICE.invokes(ROOT), profile=PRODUCT)
    with pytest.raises(UcanError, match="Malformed") as caught:
        reader.delegation(invocation)
    assert caught.value.cid == invocation.cid
    with pytest.raises(UcanError, match="Malformed"):
        reader.invocation(open_envelope(ROOT, profile=PRODUCT))


def test_a_remembered_delegation_is_judged_anew() -> None:
    by = validator()
    assert signed_call(ALICE.invokes(ROOT), ROOT, by=by)
    revocations = {cid_of_token(ROOT): frozenset({CLUSTER.did})}
    with pytest.raises(UcanError, match="Revoked"):
        signed_call(ALICE.invokes(ROOT), ROOT, by=by, revocations=revocations)
    later = NOW + 4000
    with pytest.raises(UcanError, match="Expired"):
        signed_call(ALICE.invokes(ROOT, expires_s=later), ROOT, by=by, now_s=later)


def test_what_the_invocation_does_not_name_is_passed_over() -> None:
    unnamed = forge(CLUSTER.key, payload_of(ROOT), signature=bytes(64))
    other = CLUSTER.delegates(BOB, "/state")
    assert signed_call(ALICE.invokes(ROOT), ROOT, other, unnamed)


# Containers


def cbor(value: Any) -> str:
    return "C" + base64.urlsafe_b64encode(encode(value)).decode().rstrip("=")


@given(st.sets(st.binary(max_size=40), max_size=10))
def test_a_container_gives_back_its_tokens_sorted(tokens: set[bytes]) -> None:
    assert read_container(write_container(tokens), profile=PRODUCT) == sorted(tokens)
    assert write_container([*tokens, *tokens]) == write_container(sorted(tokens))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "C",
        "c" + cbor({"ctn-v1": []})[1:],
        "@" + cbor({"ctn-v1": []})[1:],
        "B" + base64.b64encode(encode({"ctn-v1": []})).decode(),
        "M",
        "O",
        "P",
        cbor({"ctn-v1": []}) + "=",
        cbor({"ctn-v1": []}) + "A",
        cbor({"ctn-v1": []}) + "\n",
        " " + cbor({"ctn-v1": []}),
        cbor({"ctn-v1": [b"\xff\xfe"]}).replace("_", "/"),
        "Có",
        cbor([]),
        cbor({}),
        cbor({"ctn-v2": []}),
        cbor({"ctn-v1": [], "x": 1}),
        cbor({"ctn-v1": {}}),
        cbor({"ctn-v1": b""}),
        cbor({"ctn-v1": [1]}),
        cbor({"ctn-v1": ["text"]}),
        cbor({"ctn-v1": [b"a", b"a"]}),
        cbor({"ctn-v1": [b"b", b"a"]}),
        cbor({"ctn-v1": [b"a", b"c", b"b"]}),
        cbor({"ctn-v1": [b"a", b"b", b"b"]}),
        cbor({"ctn-v1": [[b"a"]]}),
    ],
)
def test_what_is_no_container(text: str) -> None:
    with pytest.raises(UcanError, match="Malformed"):
        read_container(text, profile=PRODUCT)


def test_a_container_has_one_text() -> None:
    text = write_container([b"abc"])
    assert len(text[1:]) % 4 == 2
    assert read_container(text, profile=PRODUCT) == [b"abc"]
    swapped = text[:-1] + chr(ord(text[-1]) + 1)
    with pytest.raises(UcanError, match="Malformed"):
        read_container(swapped, profile=PRODUCT)


@given(st.text(max_size=60) | st.text(alphabet="CoWZjdG4tdjGB", max_size=60).map("C".__add__))
def test_any_text_is_a_container_or_refused(text: str) -> None:
    try:
        tokens = read_container(text, profile=PRODUCT)
    except UcanError:
        return
    assert write_container(tokens) == text


# Any bytes at all


@given(st.binary(max_size=300))
def test_any_bytes_are_a_token_or_refused(data: bytes) -> None:
    for profile in (PRODUCT, SPECIFICATION):
        assert read_as(profile, data) != "read"


TOKENS = (
    CLUSTER.delegates(
        ALICE, policy=[["==", ".namespace", "team-a"]], meta={"x": [1, None]}, nonce=b"n"
    ),
    ALICE.invokes(ROOT, nonce=b"n", not_before_s=NOW, meta={}),
)


def verifies(token: bytes) -> bool:
    reader = TokenReader(SPECIFICATION)
    for read in (reader.delegation, reader.invocation):
        try:
            read(open_envelope(token, profile=SPECIFICATION))
        except UcanError:
            continue
        return True
    return False


def test_no_change_of_any_byte_verifies() -> None:
    for token in TOKENS:
        assert verifies(token)
        for position in range(len(token)):
            for flip in (0x01, 0x80, 0x20):
                mutant = bytearray(token)
                mutant[position] ^= flip
                assert not verifies(bytes(mutant)), position


@given(st.sampled_from(TOKENS), st.data())
def test_no_other_bytes_in_any_place_verify(token: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(token)))
    stop = data.draw(st.integers(start, min(len(token), start + 8)))
    mutant = token[:start] + data.draw(st.binary(max_size=8)) + token[stop:]
    assert mutant == token or not verifies(mutant)


@given(
    st.sampled_from([ALICE, BOB]),
    st.sampled_from(["/", "/task", "/a/b"]),
    st.integers(0, 2**53 - 1) | st.none(),
    st.integers(0, 2**53 - 1) | st.none(),
    st.binary(max_size=20),
    st.sampled_from([CLUSTER.did, None]),
)
def test_a_delegation_comes_back_as_it_was_signed(
    audience: Actor,
    command: str,
    expires_s: int | None,
    not_before_s: int | None,
    nonce: bytes,
    subject: Did | None,
) -> None:
    token = CLUSTER.delegates(
        audience,
        command,
        expires_s=expires_s,
        not_before_s=not_before_s,
        nonce=nonce,
        subject=subject,
    )
    read = TokenReader(SPECIFICATION).delegation(open_envelope(token, profile=SPECIFICATION))
    assert (read.issuer, read.audience, read.subject) == (CLUSTER.did, audience.did, subject)
    assert (read.command, read.expires_s, read.not_before_s) == (command, expires_s, not_before_s)
    assert (read.nonce, read.cid, read.policy) == (nonce, cid_of_token(token), ())


def test_an_invocation_comes_back_as_it_was_signed() -> None:
    token = ALICE.invokes(
        ROOT,
        not_before_s=5,
        audience=BOB.did,
        meta={"x": 1},
        nonce=b"n",
        cause=Link(b"\x01\x55\x00\x01x"),
    )
    read = TokenReader(SPECIFICATION).invocation(open_envelope(token, profile=SPECIFICATION))
    assert (read.issuer, read.subject, read.audience) == (ALICE.did, CLUSTER.did, BOB.did)
    assert (read.command, read.args, read.proofs) == ("/task/submit", ARGS, (cid_of_token(ROOT),))
    assert (read.expires_s, read.issued_s, read.not_before_s) == (NOW + 60, NOW, 5)
    assert (read.nonce, read.meta, read.cause, read.cid) == (
        b"n",
        {"x": 1},
        Link(b"\x01\x55\x00\x01x"),
        cid_of_token(token),
    )
    assert read.executor == BOB.did


def test_what_an_invocation_may_lack() -> None:
    token = ALICE.invokes(ROOT, issued_s=None)
    assert payload_of(token).keys() == {"iss", "sub", "cmd", "args", "prf", "nonce", "exp"}
    read = TokenReader(PRODUCT).invocation(open_envelope(token, profile=PRODUCT))
    assert (read.audience, read.issued_s, read.not_before_s) == (None, None, None)
    assert (read.meta, read.cause, read.executor) == (None, None, CLUSTER.did)
    assert signed_call(token, ROOT)

"""Tokens that were forged, altered or inflated, and the name of each refusal."""

import base64
import gzip
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ipfs_cluster_node.codec.signatures import _public_key, verify_signature
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.core.dag_cbor import Link, encode
from ipfs_cluster_node.core.ids import did_from_public_key
from ipfs_cluster_node.core.multiformats import RAW, cid_of
from ipfs_cluster_node.core.ucan.errors import UcanError
from tests.support.ucan import (
    ALICE,
    BOB,
    CALL,
    CLUSTER,
    GROUP_ORDER,
    INV,
    MALLORY,
    NOW,
    ROOT,
    ZERO,
    actor,
    changed,
    forge,
    payload_of,
    peer,
    peer_call,
    refused,
    refused_peer,
    refused_signed,
    signed_call,
    validator,
)

# Signatures


@pytest.mark.parametrize(
    "signature",
    [ZERO, b"\xff" * 64, ALICE.key.sign(b"something else"), b"", bytes(63), bytes(65)],
)
def test_another_signature_on_a_link_or_on_the_invocation(signature: bytes) -> None:
    root = forge(CLUSTER.key, payload_of(ROOT), signature=signature)
    assert refused_signed(ALICE, root)[0] == "InvalidSignature"
    assert refused_peer(ALICE, root)[0] == "InvalidSignature"
    invocation = forge(ALICE.key, payload_of(ALICE.invokes(ROOT)), tag=INV, signature=signature)
    assert refused(lambda: signed_call(invocation, ROOT)) == ("InvalidSignature", None)


def test_a_link_that_the_owner_did_not_sign_is_named() -> None:
    root = forge(MALLORY.key, payload_of(ROOT))
    assert refused_signed(ALICE, root) == ("InvalidSignature", 0)
    to_bob = forge(MALLORY.key, payload_of(ALICE.delegates(BOB)))
    assert refused_signed(BOB, ROOT, to_bob) == ("InvalidSignature", 1)
    assert refused_peer(BOB, ROOT, to_bob)[0] == "InvalidSignature"
    invocation = forge(MALLORY.key, payload_of(ALICE.invokes(ROOT)), tag=INV)
    assert refused(lambda: signed_call(invocation, ROOT)) == ("InvalidSignature", None)


@pytest.mark.parametrize(
    ("what", "header"),
    [
        ("P-256", "3401ec01802412" + "71"),
        ("secp256k1", "3401ec01e70112" + "71"),
        ("RS256", "340185241280" + "0271"),
        ("DAG-JSON", "3401ed01ed0113a902"),
        ("DAG-PB", "3401ed01ed011370"),
        ("version 0", "34ed01ed011371"),
        ("version 2", "3402ed01ed011371"),
        ("SHA-256", "3401ed01ed011271"),
        ("another curve", "3401ed01ee011371"),
        ("none", ""),
        ("one byte more", "3401ed01ed01137100"),
        ("one byte less", "3401ed01ed0113"),
    ],
)
def test_a_header_that_the_key_does_not_imply(what: str, header: str) -> None:
    root = forge(CLUSTER.key, payload_of(ROOT), header=bytes.fromhex(header))
    assert refused_signed(ALICE, root) == ("InvalidSignature", 0)
    assert refused_peer(ALICE, root)[0] == "InvalidSignature"


def test_a_second_signature_made_of_the_first() -> None:
    root = forge(CLUSTER.key, payload_of(ROOT))
    signature = root[3:67]
    beyond = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    other = signature[:32] + beyond.to_bytes(32, "little")
    assert root == forge(CLUSTER.key, payload_of(ROOT), signature=signature)
    changed_root = forge(CLUSTER.key, payload_of(ROOT), signature=other)
    assert refused_signed(ALICE, changed_root) == ("InvalidSignature", 0)


Point = tuple[int, int]
P: Final = 2**255 - 19
D: Final = -121665 * pow(121666, -1, P) % P


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def multiply(scalar: int, point: Point) -> Point:
    product = (0, 1)
    for bit in f"{scalar:b}":
        product = add(product, product)
        product = add(product, point) if bit == "1" else product
    return product


def points() -> Iterator[Point]:
    for y in range(2, 1000):
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        root = pow(square, (P + 3) // 8, P)
        for x in (root, root * pow(2, (P - 1) // 4, P) % P):
            if x * x % P == square:
                yield x, y


def small_order_encodings() -> set[bytes]:
    """Every encoding, canonical or not, of the eight points whose order divides eight."""
    for point in points():
        # Times the group's order, what is left of a point is of small order.
        orbit = [multiply(GROUP_ORDER, point)]
        while orbit[-1] != (0, 1):
            orbit.append(add(orbit[-1], orbit[0]))
        if len(orbit) == 8:
            ys = {value for _, y in orbit for value in (y, y + P) if value < 2**255}
            return {(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)}
    raise AssertionError


def library_takes(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_a_key_that_anyone_can_sign_for() -> None:
    encodings = small_order_encodings()
    assert len(encodings) == 14
    identity = (1).to_bytes(32, "little")
    universal = identity + bytes(32)
    fooled = 0
    for encoding in encodings:
        did = did_from_public_key(encoding)
        # Good for a message in eight, or in fewer, by the order of the key.
        messages = [bytes([number]) for number in range(100)]
        taken = [message for message in messages if library_takes(encoding, universal, message)]
        fooled += bool(taken)
        assert not any(verify_signature(did, universal, message) for message in messages)
        root = forge(ALICE.key, changed(ROOT, iss=did), signature=universal)
        assert refused_signed(ALICE, root) == ("InvalidSignature", 0)
        invocation = forge(
            ALICE.key, changed(ALICE.invokes(ROOT), iss=did), tag=INV, signature=universal
        )
        assert refused(lambda: signed_call(invocation, ROOT)) == ("InvalidSignature", None)  # noqa: B023
    # Without our own check, these would pass.
    assert fooled >= 8


def test_a_key_in_its_other_encoding() -> None:
    """If y were not reduced, a key would have two DIDs, and a revocation of one would miss the other."""
    for y in (P, P + 1, P + 3, 2**255 - 1, P + 3 | 1 << 255):
        with pytest.raises(ValueError, match="one encoding"):
            _public_key(did_from_public_key(y.to_bytes(32, "little")))
    for y in (3, P - 2, 3 | 1 << 255):
        assert _public_key(did_from_public_key(y.to_bytes(32, "little")))


def test_keys_with_either_sign_are_taken() -> None:
    signs = set()
    for number in range(20):
        who = actor(number)
        assert verify_signature(who.did, who.key.sign(b"message"), b"message")
        signs.add(who.key.public_key().public_bytes_raw()[31] >> 7)
    assert signs == {0, 1}


# Form


def test_one_kind_of_token_for_the_other() -> None:
    as_proof = CLUSTER.invokes()
    assert refused_signed(ALICE, as_proof) == ("Malformed", None)
    assert refused_peer(ALICE, as_proof) == ("InvalidClaim", None)  # No delegation is there.
    assert refused(lambda: signed_call(ROOT)) == ("Malformed", None)
    for payload, tag in ((payload_of(as_proof), "ucan/dlg@1.0.0"), (payload_of(ROOT), INV)):
        token = forge(CLUSTER.key, payload, tag=tag)
        assert refused(lambda: signed_call(token))[0] == "Malformed"  # noqa: B023
        assert refused_peer(ALICE, token)[0] == "Malformed"
    assert refused(lambda: signed_call(ALICE.invokes(ROOT), ALICE.invokes(ROOT), ROOT)) == (
        "Malformed",
        None,
    )


@pytest.mark.parametrize(
    "envelope",
    [
        [],
        {},
        None,
        b"",
        [ZERO],
        [ZERO, {}],
        [ZERO, {"h": b""}],
        [ZERO, {"ucan/dlg@1.0.0": {}}],
        [ZERO, {"h": b"", "ucan/dlg@1.0.0": {}}, 0],
        [ZERO, {"h": "", "ucan/dlg@1.0.0": {}}],
        [ZERO, {"h": b"", "ucan/dlg@1.0.0": []}],
        [ZERO, {"h": b"", "ucan/dlg@1.0.0": {}, "x": 1}],
        [ZERO, {"h": b"", "ucan/dlg@1.0.0": {}, "ucan/inv@1.0.0": {}}],
        [ZERO, {"H": b"", "ucan/dlg@1.0.0": {}}],
        [ZERO, {"h": b"", "ucan/dlg@2.0.0": {}}],
        [ZERO, {"h": b"", "ucan/dlg@1.0.0-rc.2": {}}],
        [ZERO, {"h": b"", "ucan/dlg": {}}],
        [ZERO, {"h": b"", "ucan/rcpt@1.0.0": {}}],
        ["signature", {"h": b"", "ucan/dlg@1.0.0": {}}],
        [None, {"h": b"", "ucan/dlg@1.0.0": {}}],
    ],
)
def test_what_is_no_envelope(envelope: Any) -> None:
    token = encode(envelope)
    assert refused_peer(ALICE, token) == ("Malformed", None)
    assert refused(lambda: signed_call(token, ROOT)) == ("Malformed", None)


def test_an_error_names_the_token_that_is_the_cause() -> None:
    to_bob = ALICE.delegates(BOB)
    bad = [b"", ROOT[:-1], bytes(5000), forge(ALICE.key, payload_of(to_bob), signature=b"")]
    bad += [forge(MALLORY.key, payload_of(to_bob)), forge(ALICE.key, changed(to_bob, exp="x"))]
    for token in bad:
        with pytest.raises(UcanError) as caught:
            peer_call(BOB, ROOT, token)
        assert caught.value.cid == cid_of_token(token)
        with pytest.raises(UcanError) as caught:
            signed_call(BOB.invokes(ROOT, token), ROOT, token)
        assert caught.value.cid == cid_of_token(token)


def test_more_beside_what_is_signed() -> None:
    mores: list[dict[str, Any]] = [
        {"x": 1},
        {INV: {}},
        {"ucan/dlg@1.0.0-rc.1": payload_of(ROOT)},
    ]
    for more in mores:
        token = forge(CLUSTER.key, payload_of(ROOT), more=more)
        assert refused_peer(ALICE, token)[0] == "Malformed"


BAD_FIELDS: Final[list[tuple[str, Any]]] = [
    ("iss", ...),
    ("iss", None),
    ("iss", 1),
    ("iss", ""),
    ("iss", "did:key:z6Mk"),
    ("iss", "did:web:example.com"),
    ("iss", CLUSTER.did + "#key"),
    ("iss", CLUSTER.did.upper()),
    ("iss", " " + CLUSTER.did),
    ("iss", "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"),
    ("sub", ...),
    ("sub", 1),
    ("sub", ""),
    ("sub", "cluster"),
    ("cmd", ...),
    ("cmd", None),
    ("cmd", b"/task"),
    ("cmd", "task"),
    ("cmd", "/task/"),
    ("cmd", "/Task"),
    ("cmd", ""),
    ("nonce", ...),
    ("nonce", None),
    ("nonce", "text"),
    ("nonce", 1),
    ("exp", ...),
    ("exp", "tomorrow"),
    ("exp", float(NOW + 60)),
    ("exp", True),
    ("exp", -1),
    ("exp", 2**53),
    ("exp", 2**64 - 1),
    ("nbf", None),
    ("nbf", 1.0),
    ("nbf", False),
    ("nbf", -1),
    ("nbf", 2**53),
    ("meta", None),
    ("meta", []),
    ("meta", "text"),
    ("x", 1),
    ("", 1),
    ("fct", {}),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *BAD_FIELDS,
        ("aud", ...),
        ("aud", None),
        ("aud", 1),
        ("pol", ...),
        ("pol", None),
        ("pol", {}),
        ("pol", [[]]),
        ("pol", [["==", "a", 1]]),
        ("prf", []),
        ("args", {}),
        ("iat", NOW),
        ("cause", None),
    ],
)
def test_a_field_of_a_delegation_that_is_wrong(name: str, value: Any) -> None:
    root = forge(CLUSTER.key, changed(ROOT, **{name: value}))
    assert refused_signed(ALICE, root) == ("Malformed", 0)
    assert refused_peer(ALICE, root)[0] == "Malformed"


CONTENT: Final = Link.to(cid_of(RAW, b"a file"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *BAD_FIELDS,
        ("sub", None),
        ("aud", None),
        ("aud", ""),
        ("args", ...),
        ("args", None),
        ("args", []),
        ("prf", ...),
        ("prf", None),
        ("prf", {}),
        ("prf", [str(cid_of_token(ROOT))]),
        ("prf", [CONTENT]),
        ("prf", [Link.to(cid_of_token(ROOT))] * 2),
        ("pol", []),
        ("iat", None),
        ("iat", -1),
        ("iat", 1.5),
        ("cause", None),
        ("cause", "text"),
    ],
)
def test_a_field_of_an_invocation_that_is_wrong(name: str, value: Any) -> None:
    invocation = forge(ALICE.key, changed(ALICE.invokes(ROOT), **{name: value}), tag=INV)
    assert refused(lambda: signed_call(invocation, ROOT)) == ("Malformed", None)


def test_fields_that_may_be_there() -> None:
    root = CLUSTER.delegates(ALICE, not_before_s=NOW - 9, meta={"note": "hi"})
    invocation = ALICE.invokes(
        root,
        audience=CLUSTER.did,
        not_before_s=NOW,
        cause=Link.to(cid_of_token(ROOT)),
        meta={"note": [1, {"b": 2}]},
    )
    assert signed_call(invocation, root).chain[0].meta == {"note": "hi"}
    assert peer_call(ALICE, root)


def test_bytes_behind_or_in_another_form() -> None:
    long_list = b"\x98\x02" + ROOT[1:]
    long_signature = b"\x82\x59\x00\x40" + ROOT[3:]
    assert ROOT[:3] == b"\x82\x58\x40"
    for token in (ROOT + b"\0", ROOT[:-1], long_list, long_signature, b"", ROOT + ROOT):
        assert refused_peer(ALICE, token) == ("Malformed", None)
        assert refused_signed(ALICE, token) == ("Malformed", None)


def test_a_key_that_is_there_twice() -> None:
    issuer = encode("iss") + encode(CLUSTER.did)
    twice = ROOT.replace(issuer, encode("iss") + encode(ALICE.did) + issuer)
    twice = twice.replace(b"ucan/dlg@1.0.0\xa7", b"ucan/dlg@1.0.0\xa8")
    assert len(twice) > len(ROOT)
    assert refused_peer(ALICE, twice) == ("Malformed", None)


# Sizes


def test_bombs_are_refused_in_no_time() -> None:
    bomb = gzip.compress(bytes(50_000_000), 9)
    deep = b"\x81" * 4000 + b"\x00"
    lies = b"\x9b" + b"\xff" * 8
    unpadded = base64.urlsafe_b64encode(bomb).decode().rstrip("=")
    containers = [
        "M" + unpadded,
        "P" + unpadded[:16_000],
        "C" + "A" * 1_000_000,
        "C" + "_" * 16_000,
    ]
    for framed in (deep, lies, b"\x82" + lies, bytes(4096)):
        containers += [
            write_container([framed]),
            "C" + base64.urlsafe_b64encode(framed).decode().rstrip("="),
        ]
    by = validator()
    began = time.perf_counter()
    for container in containers:
        with pytest.raises(UcanError) as caught:
            peer(by, ALICE.did, container, **CALL)
        assert caught.value.name in ("Malformed", "TooLarge")
    assert time.perf_counter() - began < 0.1


def test_an_error_never_shows_a_token() -> None:
    secret = "correct-horse-battery"
    tokens = [
        forge(CLUSTER.key, changed(ROOT, cmd=secret)),
        forge(CLUSTER.key, changed(ROOT, iss=secret)),
        forge(CLUSTER.key, changed(ROOT, **{secret: 1})),
        forge(CLUSTER.key, changed(ROOT, pol=[[secret, ".a", 1]])),
        forge(CLUSTER.key, changed(ROOT, pol=[["==", secret, 1]])),
        forge(CLUSTER.key, changed(ROOT, pol=[["==", ".namespace", secret]])),
        forge(CLUSTER.key, changed(ROOT, pol=[["==", ".namespace", "team-b"]], meta={"x": secret})),
        forge(CLUSTER.key, payload_of(ROOT), tag=secret),
        forge(MALLORY.key, changed(ROOT, nonce=secret.encode())),
        secret.encode(),
    ]
    for token in tokens:
        with pytest.raises(UcanError) as caught:
            peer_call(ALICE, token)
        shown = f"{caught.value} {caught.value.args} {caught.value!r} {caught.value.__cause__}"
        assert secret not in shown

"""The validator against what ucan-wg, w3c-ccg and Wycheproof publish."""

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import TokenReader, cid_of_token, open_envelope
from ipfs_cluster_node.codec.ucan_mint import sign_delegation
from ipfs_cluster_node.codec.ucan_validator import claim_of, resolve
from ipfs_cluster_node.core.ids import parse_did
from ipfs_cluster_node.core.multiformats import TOKEN_CODECS, encode_base58, parse_cid
from ipfs_cluster_node.core.ucan.chain import (
    ProvenClaim,
    ValidationContext,
    check_chain,
    check_invocation,
)
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.policies import Evaluation, parse_policy
from ipfs_cluster_node.core.ucan.profiles import SPECIFICATION


def unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def validate(case: dict[str, Any]) -> ProvenClaim:
    reader = TokenReader(SPECIFICATION)
    envelopes = [
        open_envelope(unpadded(token["/"]["bytes"]), profile=SPECIFICATION)
        for token in (case["invocation"], *case["proofs"])
    ]
    context = ValidationContext(profile=SPECIFICATION, now_s=case["time"], revocations={})
    invocation = reader.invocation(envelopes[0])
    check_invocation(invocation, context)
    chain = resolve(invocation, {envelope.cid: envelope for envelope in envelopes[1:]}, reader)
    return check_chain(claim_of(invocation), chain, context)


def test_valid_invocations_are_taken(vectors: Path) -> None:
    cases = json.loads((vectors / "ucan/invocation.json").read_text())["valid"]
    for case in cases:
        grant = validate(case)
        assert len(grant.chain) == len(case["proofs"]), case["name"]
    assert len(cases) == 7


def test_invalid_invocations_are_refused_by_the_name_that_is_wanted(vectors: Path) -> None:
    cases = json.loads((vectors / "ucan/invocation.json").read_text())["invalid"]
    wrong = []
    for case in cases:
        try:
            validate(case)
            name = "taken"
        except UcanError as error:
            name = str(error.name)
        if name != case["error"]["name"]:
            wrong.append((case["name"], case["error"]["name"], name))
    assert (wrong, len(cases)) == ([], 13)


def test_a_delegation_is_made_again_byte_for_byte(vectors: Path) -> None:
    document = json.loads((vectors / "ucan/delegation.json").read_text())
    [case] = document["valid"]
    fields = case["envelope"]["payload"]
    # The private key has its multicodec, 0x1300 as a varint, before it.
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(document["principals"]["bob"])[2:])
    made = sign_delegation(
        key,
        audience=parse_did(fields["aud"]),
        subject=parse_did(fields["sub"]),
        command=fields["cmd"],
        policy=fields["pol"],
        expires_s=fields["exp"],
        nonce=base64.b64decode(fields["nonce"]),
    )
    assert made == base64.b64decode(case["token"])
    assert str(cid_of_token(made)) == case["cid"]
    read = TokenReader(SPECIFICATION).delegation(open_envelope(made, profile=SPECIFICATION))
    assert read.issuer == fields["iss"]
    assert read.cid == parse_cid(case["cid"], codecs=TOKEN_CODECS)
    in_base58 = "z" + encode_base58(read.cid.binary)
    assert read.cid == parse_cid(in_base58, codecs=TOKEN_CODECS)


def test_policies_hold_and_fail_as_wanted(vectors: Path) -> None:
    document = json.loads((vectors / "ucan/policy.json").read_text())
    seen = {"valid": 0, "invalid": 0}
    for kind in seen:
        for model in document[kind]:
            for policy in model["policies"]:
                parsed = parse_policy(policy, profile=SPECIFICATION)
                failing = Evaluation(steps_max=1000).failing(parsed, model["args"])
                assert (failing is None) == (kind == "valid"), policy
                seen[kind] += 1
    assert seen == {"valid": 17, "invalid": 8}

"""Identities and signatures, against vectors that nobody here wrote."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.core.ids import (
    did_from_node_id,
    did_from_public_key,
    node_id_from_did,
    parse_did,
)
from ipfs_cluster_node.core.multiformats import decode_base58


def test_a_seed_gives_the_did_of_the_did_key_vectors(vectors: Path) -> None:
    cases = json.loads((vectors / "did-key/ed25519-x25519.json").read_text())
    seen = 0
    for did, case in cases.items():
        if "seed" in case:
            key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["seed"]))
            assert Identity(key).did == did
            public = case.get("verificationKeyPair", {}).get("publicKeyBase58")
            if public is not None:
                assert Identity(key).public_key == decode_base58(public)
            seen += 1
        assert did_from_node_id(node_id_from_did(parse_did(did))) == did
    assert seen > 0


def test_signatures_are_judged_as_wycheproof_judges_them(vectors: Path) -> None:
    groups = json.loads((vectors / "ed25519/wycheproof-ed25519.json").read_text())["testGroups"]
    wrong, seen = [], 0
    for group in groups:
        did = did_from_public_key(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
            seen += 1
            if verify_signature(did, signature, message) != (case["result"] == "valid"):
                wrong.append(case["tcId"])
    assert (wrong, seen) == ([], 151)

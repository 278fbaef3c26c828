"""Writes tokens, containers, policies and texts that are right, for the fuzzer to begin with."""

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import cid_of_token, open_envelope
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation, sign_invocation
from ipfs_cluster_node.core.dag_cbor import Link, Value, encode
from ipfs_cluster_node.core.ids import did_from_public_key
from ipfs_cluster_node.core.ucan.profiles import SPECIFICATION

key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
did = did_from_public_key(key.public_key().public_bytes_raw())
policy: list[Value] = [
    ["==", ".namespace", "team-a"],
    ["all", ".a[1:]?", ["or", [["like", ".", "b*"], ["not", ["<=", '["c"]', 1.5]]]]],
]
delegation = sign_delegation(
    key, audience=did, subject=did, command="/task", policy=policy, expires_s=2**40
)
invocation = sign_invocation(
    key,
    subject=did,
    command="/task/submit",
    args={"namespace": "team-a"},
    proofs=[cid_of_token(delegation)],
    expires_s=2**40,
    meta={"a": 1},
    cause=Link.to(cid_of_token(delegation)),
)
payloads = [
    encode(dict(open_envelope(token, profile=SPECIFICATION).payload))
    for token in (delegation, invocation)
]
seeds = [
    *((0, token) for token in (delegation, invocation)),
    *((1, token) for token in (delegation, invocation)),
    *((2, payload) for payload in payloads),
    (3, write_container([delegation, invocation])[1:].encode()),
    (4, encode(policy)),
    *((5, text) for text in (b'.a[0]?["c d"][-1:2][]', b"/task/submit", b"a*b\\*c\0axb*c")),
]
for number, (target, content) in enumerate(seeds):
    (Path(sys.argv[1]) / f"seed-{number}").write_bytes(bytes([target]) + content)

"""Typed ids and their grammar. A raw string is parsed once, where it enters."""

import re
from functools import lru_cache
from typing import Final, NewType

from ipfs_cluster_node.core.multiformats import (
    LIBP2P_KEY,
    decode_base58,
    encode_base36,
    encode_base58,
)

NodeId = NewType("NodeId", str)
"""A node's PeerID, `12D3Koo…`: the base58 identity multihash of its Ed25519 public key."""
Did = NewType("Did", str)
"""A principal, `did:key:z6Mk…`: the same key, spelled for UCAN."""
TaskId = NewType("TaskId", str)
NO_TASK: Final = TaskId("")
VoterId = NewType("VoterId", str)
"""`<NodeId>.<incarnation>`: a voter that lost its log never returns under its old name."""

CONVERSIONS_MAX: Final = 4096
"""Size of the cache: every call of a node converts its id, and base58 is slow."""
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of tasks, task types, inputs, nodes and clients, request ids, and parts of namespaces."""
NAMESPACE_PATTERN: Final = re.compile(rf"{NAME_PATTERN.pattern}(/{NAME_PATTERN.pattern}){{0,7}}")
"""Namespaces: names within names, `team-a/nightly`; none of them empty, `.` or `..`."""
NAMESPACE_CHARS_MAX: Final = 128

_ED25519_MULTICODEC: Final = b"\xed\x01"
_ED25519_PEER_PREFIX: Final = b"\x00\x24\x08\x01\x12\x20"  # identity multihash of the key protobuf


def is_namespace(text: str) -> bool:
    """Whether a task can be in this namespace."""
    return len(text) <= NAMESPACE_CHARS_MAX and bool(NAMESPACE_PATTERN.fullmatch(text))


def did_from_public_key(public_key: bytes) -> Did:
    """Spell a 32-byte Ed25519 public key as a DID."""
    return Did("did:key:z" + encode_base58(_ED25519_MULTICODEC + public_key))


def node_id_from_public_key(public_key: bytes) -> NodeId:
    """Spell a 32-byte Ed25519 public key as a PeerID."""
    return NodeId(encode_base58(_ED25519_PEER_PREFIX + public_key))


def public_key_from_did(did: Did) -> bytes:
    """Return the 32-byte Ed25519 public key that `did` spells.

    Raises:
        ValueError: Not an Ed25519 `did:key`.
    """
    if not did.startswith("did:key:z") or len(did) > 80:
        raise ValueError("a DID here looks like did:key:z6Mk…")
    decoded = decode_base58(did.removeprefix("did:key:z"))
    if len(decoded) != 34 or decoded[:2] != _ED25519_MULTICODEC:
        raise ValueError("only Ed25519 did:key principals are known here")
    return decoded[2:]


def public_key_from_node_id(node_id: NodeId) -> bytes:
    """Return the 32-byte Ed25519 public key that `node_id` spells.

    Raises:
        ValueError: Not an Ed25519 PeerID.
    """
    if len(node_id) > 80:
        raise ValueError("a node id looks like 12D3Koo…")
    decoded = decode_base58(node_id)
    if len(decoded) != 38 or not decoded.startswith(_ED25519_PEER_PREFIX):
        raise ValueError("a node id looks like 12D3Koo…")
    return decoded[6:]


@lru_cache(maxsize=CONVERSIONS_MAX)
def node_id_from_did(did: Did) -> NodeId:
    """The PeerID of the key that `did` spells."""
    return node_id_from_public_key(public_key_from_did(did))


@lru_cache(maxsize=CONVERSIONS_MAX)
def did_from_node_id(node_id: NodeId) -> Did:
    """The DID of the key that `node_id` spells."""
    return did_from_public_key(public_key_from_node_id(node_id))


@lru_cache(maxsize=CONVERSIONS_MAX)
def tls_name(node_id: NodeId) -> str:
    """The DNS name in a node's certificate: PeerID as CIDv1 in base36, then `.peer`.

    62 lower-case characters before the suffix, so it fits a DNS label.
    """
    cid = b"\x01" + bytes([LIBP2P_KEY]) + decode_base58(node_id)
    return "k" + encode_base36(cid) + ".peer"


def parse_node_id(text: str) -> NodeId:
    """Check `text` and return it as a node id.

    Raises:
        ValueError: Not an Ed25519 PeerID.
    """
    public_key_from_node_id(NodeId(text))
    return NodeId(text)


def parse_did(text: str) -> Did:
    """Check `text` and return it as a DID.

    Raises:
        ValueError: Not an Ed25519 `did:key`.
    """
    public_key_from_did(Did(text))
    return Did(text)


def parse_name(text: str, *, what: str) -> str:
    """Check `text` against `NAME_PATTERN` and return it.

    Raises:
        ValueError: Empty, over 64 characters, or a character outside the grammar.
    """
    if not NAME_PATTERN.fullmatch(text):
        raise ValueError(
            f"{what} has 1 to 64 characters of A-Z a-z 0-9 . _ - and begins with a letter or digit"
        )
    return text


def voter_id(node_id: NodeId, incarnation: int) -> VoterId:
    """The voter of `node_id` in this incarnation."""
    return VoterId(f"{node_id}.{incarnation}")


def node_id_of_voter(voter: VoterId) -> NodeId:
    """The node of a voter."""
    return NodeId(voter.partition(".")[0])

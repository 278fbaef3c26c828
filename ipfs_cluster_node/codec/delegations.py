"""Delegations on the wire, and policies and arguments as readable text."""

import base64
import json
from collections.abc import Iterable
from typing import Any

from ipfs_cluster_node.codec.ucan import open_envelope
from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.delegations import StoredDelegation
from ipfs_cluster_node.core.errors import invalid_field
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import TOKEN_CODECS, Cid, parse_cid
from ipfs_cluster_node.core.ucan.profiles import PRODUCT
from ipfs_cluster_node.core.ucan.tokens import Delegation
from ipfs_cluster_node.v1 import authorization_pb2 as pb


def delegation_to_proto(
    delegation: Delegation, token: bytes, revokers: Iterable[Did] = ()
) -> pb.Delegation:
    """Encode a verified delegation."""
    payload = open_envelope(token, profile=PRODUCT).payload
    encoded = pb.Delegation(
        cid=str(delegation.cid),
        issuer=delegation.issuer,
        audience=delegation.audience,
        command=delegation.command,
        policy_json=to_json(payload["pol"]),
        revoker_dids=sorted(revokers),
        token=token,
    )
    if delegation.expires_s is not None:
        encoded.expire_time.FromSeconds(delegation.expires_s)
    if delegation.not_before_s is not None:
        encoded.not_before_time.FromSeconds(delegation.not_before_s)
    return encoded


def stored_delegation(
    delegation: Delegation, token: bytes, *, at_ms: int, put_by: str = ""
) -> StoredDelegation:
    """The stored form of a verified delegation with an expiry."""
    assert delegation.expires_s is not None
    return StoredDelegation(
        cid=delegation.cid,
        token=token,
        issuer=delegation.issuer,
        audience=delegation.audience,
        expires_s=delegation.expires_s,
        put_at_ms=at_ms,
        put_by=put_by,
    )


def token_cid_of(text: str, field: str) -> Cid:
    """Decode the CID of a token in a request; raises ClusterError."""
    try:
        return parse_cid(text, codecs=TOKEN_CODECS)
    except ValueError as error:
        raise invalid_field(field, f"the CID of a token: {error}") from error


def to_json(value: Value) -> str:
    """Spell a value in JSON; bytes and links as DAG-JSON does."""
    return json.dumps(value, default=_dag_json, ensure_ascii=True)


def _dag_json(value: object) -> Any:
    if isinstance(value, bytes):
        return {"/": {"bytes": base64.b64encode(value).decode().rstrip("=")}}
    if isinstance(value, Link):
        return {"/": value.binary.hex()}
    raise TypeError(f"{type(value).__name__} has no place in JSON")

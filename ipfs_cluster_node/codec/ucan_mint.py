"""Signs new UCAN tokens.

The policies that our tools may sign are those of `core.ucan.minting`; `check_mintable` is called
where users write policies, not here, so that tests can sign anything well formed.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import ED25519_HEADER, VERSION, open_envelope
from ipfs_cluster_node.codec.ucan_payload import delegation_of, invocation_of
from ipfs_cluster_node.core.dag_cbor import DagCborError, Link, Value, encode
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.errors import malformed
from ipfs_cluster_node.core.ucan.profiles import SPECIFICATION, ValidationProfile

NONCE_BYTES: Final = 12
"""As in the fixtures: two tokens of one issuer and second never share a CID."""


def sign_delegation(
    key: Ed25519PrivateKey,
    *,
    audience: Did,
    subject: Did | None,
    command: str,
    policy: Sequence[Value] = (),
    expires_s: int | None,
    not_before_s: int | None = None,
    meta: Mapping[str, Value] | None = None,
    nonce: bytes | None = None,
    version: str = VERSION,
) -> bytes:
    """Sign a delegation.

    Args:
        key: The issuer's key.
        audience: The recipient.
        subject: The root's issuer; None for a powerline.
        command: Such as `/task/submit`.
        policy: Statements as the specification writes them, `["==", ".namespace", "team-a"]`.
        expires_s: Seconds since 1970; None means never, which the product profile refuses.
        not_before_s: Seconds since 1970.
        meta: Signed metadata.
        nonce: None: random.
        version: `VERSION`, or `VERSION_RC1` for libraries that know no other.

    Returns:
        The envelope.

    Raises:
        UcanError: Malformed or TooLarge: the token would be invalid.
    """
    payload: dict[str, Value] = {
        "iss": _did_of(key),
        "aud": audience,
        "sub": subject,
        "cmd": command,
        "pol": list(policy),
        "nonce": _nonce(nonce),
        "exp": expires_s,
    }
    _add(payload, nbf=not_before_s, meta=None if meta is None else dict(meta))
    return _sign(key, f"ucan/dlg@{version}", payload, delegation_of)


def sign_invocation(
    key: Ed25519PrivateKey,
    *,
    subject: Did,
    command: str,
    args: Mapping[str, Value],
    proofs: Sequence[Cid],
    expires_s: int | None,
    audience: Did | None = None,
    issued_s: int | None = None,
    not_before_s: int | None = None,
    cause: Link | None = None,
    meta: Mapping[str, Value] | None = None,
    nonce: bytes | None = None,
    version: str = VERSION,
) -> bytes:
    """Sign an invocation.

    Args:
        key: The issuer's, who is the caller.
        subject: The subject; for a node, the cluster's DID.
        command: Such as `/task/submit`.
        args: The arguments that the server will derive from the request.
        proofs: The delegations that authorize it, root first.
        expires_s: Seconds since 1970; for a node at most 300 s from now.
        audience: The executor, if not the subject.
        issued_s: Seconds since 1970; required by a node that started less than 300 s ago.
        not_before_s: Seconds since 1970.
        cause: The receipt that caused this.
        meta: Signed metadata.
        nonce: None: random.
        version: `VERSION`, or `VERSION_RC1` for libraries that know no other.

    Returns:
        The envelope.

    Raises:
        UcanError: Malformed, TooLarge or ChainTooLong: the token would be invalid.
    """
    payload: dict[str, Value] = {
        "iss": _did_of(key),
        "sub": subject,
        "cmd": command,
        "args": dict(args),
        "prf": [Link.to(proof) for proof in proofs],
        "nonce": _nonce(nonce),
        "exp": expires_s,
    }
    _add(
        payload,
        aud=audience,
        iat=issued_s,
        nbf=not_before_s,
        cause=cause,
        meta=None if meta is None else dict(meta),
    )
    return _sign(key, f"ucan/inv@{version}", payload, invocation_of)


def _sign(
    key: Ed25519PrivateKey,
    tag: str,
    payload: dict[str, Value],
    parse: Callable[[dict[str, Value], Cid, ValidationProfile], object],
) -> bytes:
    """Sign a payload, and check it by reading it."""
    content: dict[str, Value] = {"h": ED25519_HEADER, tag: payload}
    try:
        token = encode([key.sign(encode(content)), content])
    except DagCborError as error:
        raise malformed(f"DAG-CBOR can't hold the payload: {error}") from None
    envelope = open_envelope(token, profile=SPECIFICATION)
    parse(envelope.payload, envelope.cid, SPECIFICATION)
    return token


def _add(payload: dict[str, Value], **optional: Value) -> None:
    payload.update({name: value for name, value in optional.items() if value is not None})


def _nonce(given: bytes | None) -> bytes:
    return secrets.token_bytes(NONCE_BYTES) if given is None else given


def _did_of(key: Ed25519PrivateKey) -> Did:
    return did_from_public_key(key.public_key().public_bytes_raw())

"""UCAN envelopes: bytes to verified tokens.

An envelope is `[signature, {"h": varsig header, "ucan/dlg@1.0.0": payload}]` in DAG-CBOR; what is
signed are the bytes of that map. Only Ed25519 verifies.

Source: ucan-wg/spec "Envelope"; ucan-wg/varsig v1; RFC 8032.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from ipfs_cluster_node.codec.signatures import verify_signature
from ipfs_cluster_node.codec.ucan_payload import delegation_of, invocation_of
from ipfs_cluster_node.core.dag_cbor import DagCborError, Value, decode
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import DAG_CBOR, Cid
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile
from ipfs_cluster_node.core.ucan.tokens import Delegation, Invocation

VERSION: Final = "1.0.0"
VERSION_RC1: Final = "1.0.0-rc.1"
"""Emitted by libraries until 2026; the format is the same."""
DELEGATION_TAGS: Final = {f"ucan/dlg@{version}" for version in (VERSION, VERSION_RC1)}
INVOCATION_TAGS: Final = {f"ucan/inv@{version}" for version in (VERSION, VERSION_RC1)}
_TAGS: Final = DELEGATION_TAGS | INVOCATION_TAGS

ED25519_HEADER: Final = bytes.fromhex("3401ed01ed011371")
"""Varsig version 1: EdDSA over edwards25519 with SHA-512, the payload in DAG-CBOR."""
SIGNATURE_BYTES: Final = 64
REMEMBERED_MAX: Final = 4096
"""Cached verified delegations: at most 4 KiB each as bytes, typically some 2 KiB."""

_SIGNED_OFFSET: Final = 1 + 2 + SIGNATURE_BYTES
"""After the head of the list, the head of the signature and the signature."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A token whose form is checked, but not its signature."""

    cid: Cid
    tag: str
    payload: dict[str, Value]
    header: bytes
    signature: bytes
    signed: bytes
    """The signed bytes."""


def cid_of_token(token: bytes) -> Cid:
    """The CID of a token, over its exact bytes."""
    return Cid(DAG_CBOR, hashlib.sha256(token).digest())


def open_envelope(token: bytes, *, profile: ValidationProfile) -> Envelope:
    """Parse an envelope.

    Raises:
        UcanError: TooLarge, Malformed, or InvalidSignature for one of another length; with the
            token's CID.
    """
    cid = cid_of_token(token)
    try:
        return _open(token, cid, profile)
    except UcanError as error:
        raise error.at(None, cid) from None


def _open(token: bytes, cid: Cid, profile: ValidationProfile) -> Envelope:
    if len(token) > profile.token_bytes_max:
        raise UcanError(Refusal.TOO_LARGE, f"a token has at most {profile.token_bytes_max} bytes")
    try:
        value = decode(token, bytes_max=profile.token_bytes_max, depth_max=profile.depth_max)
    except DagCborError as error:
        raise malformed(f"not canonical DAG-CBOR: {error}") from None
    match value:
        case [bytes(signature), {"h": bytes(header), **rest}] if len(rest) == 1:
            [(tag, payload)] = rest.items()
        case _:
            raise malformed("not an envelope of a signature, a header and one payload")
    if tag not in _TAGS or not isinstance(payload, dict):
        raise malformed("the payload is of no known kind")
    if len(signature) != SIGNATURE_BYTES:
        raise UcanError(Refusal.INVALID_SIGNATURE, f"a signature has {SIGNATURE_BYTES} bytes")
    return Envelope(cid, tag, payload, header, signature, token[_SIGNED_OFFSET:])


def check_signature(envelope: Envelope, issuer: Did) -> None:
    """Check that `issuer` signed the envelope.

    Raises:
        UcanError: InvalidSignature: no Ed25519 `did:key` or one of small order, a header that its
            key does not imply, or another signature.
    """
    if envelope.header != ED25519_HEADER:
        detail = "the signature header is not that of the issuer's key"
        raise UcanError(Refusal.INVALID_SIGNATURE, detail, cid=envelope.cid)
    if not verify_signature(issuer, envelope.signature, envelope.signed):
        detail = "the issuer did not sign this"
        raise UcanError(Refusal.INVALID_SIGNATURE, detail, cid=envelope.cid)


Token = TypeVar("Token", Delegation, Invocation)


class TokenReader:
    """Reads and verifies tokens; caches verified delegations by CID."""

    def __init__(self, profile: ValidationProfile, *, remembered_max: int = REMEMBERED_MAX) -> None:
        """Read tokens within the limits of `profile`."""
        self.profile = profile
        self._remembered_max = remembered_max
        self._remembered: OrderedDict[Cid, Delegation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._remembered)

    def remembered(self, cid: Cid) -> Delegation | None:
        """The delegation with this CID, if it is cached."""
        delegation = self._remembered.get(cid)
        if delegation is not None:
            self._remembered.move_to_end(cid)
        return delegation

    def delegation(self, envelope: Envelope) -> Delegation:
        """Read a delegation and verify it, unless it is cached.

        Raises:
            UcanError: Malformed, TooLarge or InvalidSignature, with the token's CID.
        """
        known = self.remembered(envelope.cid)
        if known is not None:
            return known
        return self._verified(envelope, DELEGATION_TAGS, delegation_of)

    def invocation(self, envelope: Envelope) -> Invocation:
        """Read an invocation and verify it.

        Raises:
            UcanError: Malformed, TooLarge or InvalidSignature, with the token's CID.
        """
        return self._verified(envelope, INVOCATION_TAGS, invocation_of)

    def _verified(
        self,
        envelope: Envelope,
        tags: set[str],
        parse: Callable[[dict[str, Value], Cid, ValidationProfile], Token],
    ) -> Token:
        try:
            if envelope.tag not in tags:
                raise malformed("a token of the other kind")
            token = parse(envelope.payload, envelope.cid, self.profile)
        except UcanError as error:
            raise error.at(None, envelope.cid) from None
        check_signature(envelope, token.issuer)
        return token

    def remember(self, delegation: Delegation) -> None:
        """Cache a delegation that this reader verified; the least recently used is evicted."""
        self._remembered[delegation.cid] = delegation
        self._remembered.move_to_end(delegation.cid)
        if len(self._remembered) > self._remembered_max:
            self._remembered.popitem(last=False)

"""The payloads of UCAN tokens: decoded maps to core values.

Source: ucan-wg/delegation and ucan-wg/invocation, the tables of their payloads.
"""

import re
from functools import lru_cache
from typing import Final

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.ids import CONVERSIONS_MAX, Did, parse_did
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.commands import Command, parse_command
from ipfs_cluster_node.core.ucan.errors import Refusal, UcanError, malformed
from ipfs_cluster_node.core.ucan.policies import parse_policy
from ipfs_cluster_node.core.ucan.profiles import ValidationProfile
from ipfs_cluster_node.core.ucan.revocations import token_cid
from ipfs_cluster_node.core.ucan.tokens import TIME_S_MAX, Delegation, Invocation

DID_CHARS_MAX: Final = 512
"""Longest DID of another method."""

_FOREIGN_DID: Final = re.compile(r"did:[a-z0-9]+:[A-Za-z0-9._%:-]*[A-Za-z0-9._%-]")
_DELEGATION_REQUIRED: Final = frozenset({"iss", "aud", "sub", "cmd", "pol", "nonce", "exp"})
_DELEGATION_OPTIONAL: Final = frozenset({"nbf", "meta"})
_INVOCATION_REQUIRED: Final = frozenset({"iss", "sub", "cmd", "args", "prf", "nonce", "exp"})
_INVOCATION_OPTIONAL: Final = frozenset({"aud", "meta", "iat", "nbf", "cause"})


def delegation_of(payload: dict[str, Value], cid: Cid, profile: ValidationProfile) -> Delegation:
    """Read the payload of a delegation.

    Raises:
        UcanError: Malformed or TooLarge.
    """
    fields = _Fields(payload, profile, _DELEGATION_REQUIRED, _DELEGATION_OPTIONAL)
    return Delegation(
        cid=cid,
        issuer=fields.did("iss"),
        audience=fields.did("aud"),
        subject=None if payload["sub"] is None else fields.did("sub"),
        command=fields.command("cmd"),
        policy=parse_policy(payload["pol"], profile=profile),
        nonce=fields.content("nonce"),
        expires_s=None if payload["exp"] is None else fields.time_s("exp"),
        not_before_s=fields.time_s("nbf") if "nbf" in payload else None,
        meta=fields.map("meta") if "meta" in payload else None,
    )


def invocation_of(payload: dict[str, Value], cid: Cid, profile: ValidationProfile) -> Invocation:
    """Read the payload of an invocation.

    Raises:
        UcanError: Malformed, TooLarge or ChainTooLong.
    """
    fields = _Fields(payload, profile, _INVOCATION_REQUIRED, _INVOCATION_OPTIONAL)
    return Invocation(
        cid=cid,
        issuer=fields.did("iss"),
        subject=fields.did("sub"),
        audience=fields.did("aud") if "aud" in payload else None,
        command=fields.command("cmd"),
        args=fields.map("args"),
        proofs=fields.proofs("prf"),
        nonce=fields.content("nonce"),
        expires_s=None if payload["exp"] is None else fields.time_s("exp"),
        not_before_s=fields.time_s("nbf") if "nbf" in payload else None,
        issued_s=fields.time_s("iat") if "iat" in payload else None,
        cause=fields.link("cause") if "cause" in payload else None,
        meta=fields.map("meta") if "meta" in payload else None,
    )


class _Fields:
    """A payload with the right keys, read by type."""

    def __init__(
        self,
        payload: dict[str, Value],
        profile: ValidationProfile,
        required: frozenset[str],
        optional: frozenset[str],
    ) -> None:
        if not required <= payload.keys() <= required | optional:
            raise malformed("a field of the payload is missing, or one is not known")
        self._payload = payload
        self._profile = profile

    def did(self, name: str) -> Did:
        value = self._payload[name]
        if not isinstance(value, str):
            raise malformed(f"{name} is not a DID")
        if not _is_ed25519(value) and not self._is_foreign(value):
            raise malformed(f"{name} is not an accepted DID")
        return Did(value)

    def _is_foreign(self, text: str) -> bool:
        if not self._profile.foreign_dids_allowed or len(text) > DID_CHARS_MAX:
            return False
        return _FOREIGN_DID.fullmatch(text) is not None

    def command(self, name: str) -> Command:
        value = self._payload[name]
        if not isinstance(value, str):
            raise malformed(f"{name} is not text")
        return parse_command(value, chars_max=self._profile.command_chars_max)

    def content(self, name: str) -> bytes:
        value = self._payload[name]
        if not isinstance(value, bytes):
            raise malformed(f"{name} is not bytes")
        return value

    def time_s(self, name: str) -> int:
        value = self._payload[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TIME_S_MAX:
            raise malformed(f"{name} is not a time in whole seconds")
        return value

    def map(self, name: str) -> dict[str, Value]:
        value = self._payload[name]
        if not isinstance(value, dict):
            raise malformed(f"{name} is not a map")
        return value

    def link(self, name: str) -> Link:
        value = self._payload[name]
        if not isinstance(value, Link):
            raise malformed(f"{name} is not a link")
        return value

    def proofs(self, name: str) -> tuple[Cid, ...]:
        value = self._payload[name]
        if not isinstance(value, list):
            raise malformed(f"{name} is not a list")
        limit = self._profile.chain_links_max
        if len(value) > limit:
            raise UcanError(Refusal.CHAIN_TOO_LONG, f"a chain has at most {limit} links")
        proofs = []
        for item in value:
            if not isinstance(item, Link):
                raise malformed(f"{name} has an item that is not a link")
            proofs.append(token_cid(item))
        if len(set(proofs)) < len(proofs):
            raise malformed(f"{name} names a delegation twice")
        return tuple(proofs)


@lru_cache(maxsize=CONVERSIONS_MAX)
def _is_ed25519(text: str) -> bool:
    try:
        parse_did(text)
    except ValueError:
        return False
    return True

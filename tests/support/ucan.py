"""Principals and chains for tests of UCAN."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ipfs_cluster_node.codec.ucan import (
    ED25519_HEADER,
    SIGNATURE_BYTES,
    TokenReader,
    cid_of_token,
    open_envelope,
)
from ipfs_cluster_node.codec.ucan_container import write_container
from ipfs_cluster_node.codec.ucan_mint import sign_delegation, sign_invocation
from ipfs_cluster_node.codec.ucan_validator import Validator
from ipfs_cluster_node.core.dag_cbor import Value, encode
from ipfs_cluster_node.core.ids import Did, did_from_public_key
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.chain import ProvenClaim
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.profiles import PRODUCT, SPECIFICATION, ValidationProfile
from ipfs_cluster_node.core.ucan.revocations import Revocations

NOW: Final = 1_790_000_000
BOOT: Final = NOW - 86_400
NO_REVOCATIONS: Final[dict[Cid, frozenset[Did]]] = {}


@dataclass(frozen=True)
class Actor:
    """A principal with a key."""

    key: Ed25519PrivateKey

    @property
    def did(self) -> Did:
        return did_from_public_key(self.key.public_key().public_bytes_raw())

    def delegates(self, audience: "Actor", command: str = "/task", **fields: Any) -> bytes:
        """Sign a delegation that the product takes, but for what `fields` say."""
        default: dict[str, Any] = {"subject": CLUSTER.did, "expires_s": NOW + 3600}
        return sign_delegation(
            self.key, audience=audience.did, command=command, **(default | fields)
        )

    def invokes(self, *proofs: bytes, **fields: Any) -> bytes:
        """Sign an invocation that the product takes, but for what `fields` say."""
        default: dict[str, Any] = {
            "subject": CLUSTER.did,
            "command": "/task/submit",
            "args": ARGS,
            "proofs": [cid_of_token(proof) for proof in proofs],
            "expires_s": NOW + 60,
            "issued_s": NOW,
        }
        return sign_invocation(self.key, **(default | fields))


def actor(number: int) -> Actor:
    return Actor(Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")))


CLUSTER: Final = actor(1)
ALICE: Final = actor(2)
BOB: Final = actor(3)
CAROL: Final = actor(4)
MALLORY: Final = actor(5)
ARGS: Final[dict[str, Any]] = {"namespace": "team-a", "priority": 3, "task_type": "render"}

CALL: Final[dict[str, Any]] = {
    "command": Command("/task/submit"),
    "args": ARGS,
    "now_s": NOW,
    "revocations": NO_REVOCATIONS,
}
"""The server's decision about a call."""


def validator(profile: ValidationProfile = PRODUCT, authority: Actor | None = CLUSTER) -> Validator:
    did = None if authority is None else authority.did
    return Validator(authority=did, started_s=BOOT, profile=profile)


def signed_call(
    invocation: bytes, *proofs: bytes, by: Validator | None = None, **fields: Any
) -> ProvenClaim:
    """Present an invocation and its proofs to a fresh validator."""
    return signed(by or validator(), write_container([invocation, *proofs]), **(CALL | fields))


def peer_call(
    caller: Actor, *delegations: bytes, by: Validator | None = None, **fields: Any
) -> ProvenClaim:
    """Present delegations as a caller whom TLS named, to a fresh validator."""
    asked = CALL | fields
    return peer(by or validator(), caller.did, write_container(delegations), **asked)


def signed(
    by: Validator,
    container: str,
    *,
    command: Command,
    args: Mapping[str, Value],
    now_s: int,
    revocations: Revocations,
) -> ProvenClaim:
    """A signed call, from a container to a grant."""
    context = by.validation_context(now_s=now_s, revocations=revocations)
    return by.invoked(by.read(container), command=command, args_of=lambda: args, context=context)


def peer(
    by: Validator,
    caller: Did,
    container: str,
    *,
    command: Command,
    args: Mapping[str, Value],
    now_s: int,
    revocations: Revocations,
) -> ProvenClaim:
    """A call without an invocation, from a container to a grant."""
    delegations = by.delegations(by.read(container))
    context = by.validation_context(now_s=now_s, revocations=revocations)
    return by.access(caller, command, delegations, context).check(args)


def payload_of(token: bytes) -> dict[str, Any]:
    """The payload of a token, to be changed and forged again."""
    return open_envelope(token, profile=SPECIFICATION).payload


def forge(
    key: Ed25519PrivateKey,
    payload: Value,
    *,
    tag: str = "ucan/dlg@1.0.0",
    header: bytes = ED25519_HEADER,
    signature: bytes | None = None,
    more: dict[str, Value] | None = None,
) -> bytes:
    """Sign whatever it is, well formed or not; or put another signature to it."""
    content: dict[str, Value] = {"h": header, tag: payload, **(more or {})}
    return encode([key.sign(encode(content)) if signature is None else signature, content])


def chain_of(length: int) -> tuple[list[bytes], Actor]:
    """Delegations from the cluster through `length` links, root first, and who ends up with them."""
    actors = [CLUSTER, *(actor(100 + number) for number in range(length))]
    links = [giver.delegates(taker) for giver, taker in pairwise(actors)]
    return links, actors[-1]


INV: Final = "ucan/inv@1.0.0"
ROOT: Final = CLUSTER.delegates(ALICE)
GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
ZERO: Final = bytes(SIGNATURE_BYTES)


def refused(call: Callable[[], object]) -> tuple[str, int | None]:
    with pytest.raises(UcanError) as caught:
        call()
    return str(caught.value.name), caught.value.link


def refused_signed(who: Actor, *proofs: bytes, **fields: Any) -> tuple[str, int | None]:
    return refused(lambda: signed_call(who.invokes(*proofs, **fields), *proofs))


def refused_peer(who: Actor, *delegations: bytes, **fields: Any) -> tuple[str, int | None]:
    return refused(lambda: peer_call(who, *delegations, **fields))


def changed(token: bytes, **fields: Any) -> dict[str, Any]:
    """A token's payload with other fields; None of `...` takes one away."""
    payload = payload_of(token) | fields
    return {name: value for name, value in payload.items() if value is not ...}


def read_as(profile: ValidationProfile, token: bytes) -> str:
    """How a delegation is read: `read`, or the name of the refusal."""
    try:
        TokenReader(profile).delegation(open_envelope(token, profile=profile))
    except UcanError as error:
        return str(error.name)
    return "read"

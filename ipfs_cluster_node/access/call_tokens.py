"""What accompanies a call's request: the tokens, and the consistency wanted."""

from dataclasses import dataclass
from typing import Any, Final

import grpc

from ipfs_cluster_node.codec.metadata import ATTEMPT_KEY, CONSISTENCY_KEY, UCAN_KEY, UCAN_PROOF_KEY
from ipfs_cluster_node.core.errors import invalid_field

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class CallTokens:
    """The tokens that came with a call."""

    container: str = ""
    proofs: str = ""
    request: bytes = b""
    """With a container: the call's request as received, or the first of its stream."""
    attempt: str = ""
    """Of a worker: the attempt that it calls for."""


NOTHING: Final = CallTokens()
READ_KEYS: Final = frozenset({CONSISTENCY_KEY, UCAN_KEY, UCAN_PROOF_KEY, ATTEMPT_KEY})


def read_metadata(context: Context, request: bytes = b"") -> tuple[bool, CallTokens]:
    """Whether a stale answer is accepted, and the call's tokens; `request` as received."""
    values: dict[str, list[Any]] = {}
    for key, value in context.invocation_metadata() or ():
        if key in READ_KEYS:
            values.setdefault(key, []).append(value)
    if not values:
        return False, NOTHING
    consistency = values.get(CONSISTENCY_KEY, [])
    containers = values.get(UCAN_KEY, [])
    proofs = values.get(UCAN_PROOF_KEY, [])
    attempts = values.get(ATTEMPT_KEY, [])
    if consistency not in ([], ["linearizable"], ["stale"]):
        raise invalid_field(CONSISTENCY_KEY, "linearizable or stale")
    if len(containers) + len(proofs) > 1:
        raise invalid_field(UCAN_KEY, f"one container, or CIDs in one {UCAN_PROOF_KEY}")
    if len(attempts) > 1:
        raise invalid_field(ATTEMPT_KEY, "one attempt")
    tokens = NOTHING
    if containers or proofs or attempts:
        signed = request if containers else b""
        tokens = CallTokens("".join(containers), "".join(proofs), signed, "".join(attempts))
    return consistency == ["stale"], tokens

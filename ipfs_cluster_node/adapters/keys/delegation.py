"""Delegations signed in the name of the cluster's authority."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

from ipfs_cluster_node.adapters.keys.identity import Identity
from ipfs_cluster_node.codec.ucan import cid_of_token
from ipfs_cluster_node.codec.ucan_mint import NONCE_BYTES, sign_delegation
from ipfs_cluster_node.core.dag_cbor import Value
from ipfs_cluster_node.core.delegations import StoredDelegation
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.ucan.commands import Command


def delegate(
    authority: Identity,
    audience: Did,
    command: Command,
    *,
    policy: Sequence[Value] = (),
    expires_s: int,
    at_ms: int,
    nonce: bytes | None = None,
) -> StoredDelegation:
    """Delegate `command`, with all below it, on the cluster to `audience`, in the authority's name.

    `expires_s` is in seconds and `at_ms`, now, in milliseconds since 1970. Equal nonces give equal
    tokens; None is random.
    """
    token = sign_delegation(
        authority.private_key,
        audience=audience,
        subject=authority.did,
        command=command,
        policy=policy,
        expires_s=expires_s,
        nonce=nonce,
    )
    return StoredDelegation(
        cid=cid_of_token(token),
        token=token,
        issuer=authority.did,
        audience=audience,
        expires_s=expires_s,
        put_at_ms=at_ms,
    )


def delegate_preset(
    authority: Identity,
    audience: Did,
    commands: Iterable[tuple[Command, Sequence[Value]]],
    *,
    expires_s: int,
    at_ms: int,
    seed: str,
) -> list[StoredDelegation]:
    """Delegate the commands of a client's preset, with their policies, as `delegate` does.

    Equal seeds and times give equal tokens.
    """
    return [
        replace(
            delegate(
                authority,
                audience,
                command,
                policy=policy,
                expires_s=expires_s,
                at_ms=at_ms,
                nonce=sha256(f"{seed} {audience} {command}".encode()).digest()[:NONCE_BYTES],
            ),
            command=command,
        )
        for command, policy in commands
    ]

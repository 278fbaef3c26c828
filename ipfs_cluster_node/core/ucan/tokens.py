"""The two tokens of UCAN 1.0, as read and checked for form.

Source: ucan-wg/delegation and ucan-wg/invocation, the tables of their payloads.
"""

from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.dag_cbor import Link, Value
from ipfs_cluster_node.core.ids import Did
from ipfs_cluster_node.core.multiformats import Cid
from ipfs_cluster_node.core.ucan.commands import Command
from ipfs_cluster_node.core.ucan.policies import Policy

TIME_S_MAX: Final = (1 << 53) - 1
"""Latest time that a token may name, in seconds since 1970: JavaScript's largest exact integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """`issuer` lets `audience` do `command` on `subject` where `policy` holds."""

    cid: Cid
    """Of the whole envelope as it came, signature included."""
    issuer: Did
    audience: Did
    subject: Did | None
    """None is a powerline: whatever subject the link before it has."""
    command: Command
    policy: Policy
    nonce: bytes
    expires_s: int | None
    """Seconds since 1970; None means never."""
    not_before_s: int | None = None
    meta: dict[str, Value] | None = None
    """Signed remarks; they grant nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """`issuer` asks that `command` be done on `subject`, by right of `proofs`."""

    cid: Cid
    """Of the whole envelope as it came, signature included."""
    issuer: Did
    subject: Did
    audience: Did | None = None
    """Who is to do it; the subject where None."""
    command: Command
    args: dict[str, Value]
    proofs: tuple[Cid, ...]
    """Delegations, the root first."""
    nonce: bytes
    expires_s: int | None
    """Seconds since 1970; None means never."""
    not_before_s: int | None = None
    """In no specification, yet some libraries write it."""
    issued_s: int | None = None
    cause: Link | None = None
    """The receipt that asked for this; nothing here is decided by it."""
    meta: dict[str, Value] | None = None

    @property
    def executor(self) -> Did:
        """Who is to do it."""
        return self.subject if self.audience is None else self.audience

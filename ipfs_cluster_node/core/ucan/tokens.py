"""The two tokens of UCAN 1.0, decoded and well formed.

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
"""Latest time in a token, in seconds since 1970: JavaScript's largest exact integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """`issuer` lets `audience` do `command` on `subject` if `policy` is true."""

    cid: Cid
    """The CID of the whole envelope, including the signature."""
    issuer: Did
    audience: Did
    subject: Did | None
    """None is a powerline: the subject of the previous link."""
    command: Command
    policy: Policy
    nonce: bytes
    expires_s: int | None
    """Seconds since 1970; None means never."""
    not_before_s: int | None = None
    meta: dict[str, Value] | None = None
    """Signed metadata, which grants nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """`issuer` requests `command` on `subject`, authorized by `proofs`."""

    cid: Cid
    """The CID of the whole envelope, including the signature."""
    issuer: Did
    subject: Did
    audience: Did | None = None
    """The executor; None: the subject."""
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

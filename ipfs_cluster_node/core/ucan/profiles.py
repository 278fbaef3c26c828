"""How strict the validator is: all that the specification allows, or what this product accepts."""

from dataclasses import dataclass
from typing import Final

from ipfs_cluster_node.core.dag_cbor import DEPTH_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationProfile:
    """Limits and switches of the validator."""

    token_bytes_max: int
    container_chars_max: int
    container_tokens_max: int
    depth_max: int
    """Deepest nesting of CBOR lists and maps; bounds every recursion over a token."""
    policy_nodes_max: int
    """Most statements in one policy, nested ones counted."""
    selector_chars_max: int
    command_chars_max: int
    chain_links_max: int
    evaluation_steps_max: int
    """Most statements evaluated for one call; quantifiers repeat theirs for every item."""
    skew_s: int = 60
    """How far another clock may be off; both profiles follow the specification here."""

    invocation_lifetime_s_max: int | None
    """Latest expiry of an invocation from now; None: unlimited, and it may never expire."""
    delegation_expiry_required: bool
    delegation_lifetime_s_max: int | None
    """Latest expiry of a delegation from now, which bounds how long revocations are remembered."""
    powerline_allowed: bool
    """Whether a delegation may leave its subject open (`sub: null`)."""
    foreign_dids_allowed: bool
    """Whether DIDs other than an Ed25519 `did:key` may occur. Only those verify."""
    authority_required: bool
    """Whether every chain's subject, and every invocation's audience, must be the cluster's DID."""

    def __post_init__(self) -> None:
        """Refuse a depth that the decoder does not support."""
        if self.depth_max > DEPTH_MAX:
            raise ValueError(f"depth_max is at most {DEPTH_MAX}")


SPECIFICATION: Final = ValidationProfile(
    token_bytes_max=64 * 1024,
    container_chars_max=1024 * 1024,
    container_tokens_max=256,
    depth_max=DEPTH_MAX,
    policy_nodes_max=4096,
    selector_chars_max=4096,
    command_chars_max=4096,
    chain_links_max=64,
    evaluation_steps_max=1_000_000,
    invocation_lifetime_s_max=None,
    delegation_expiry_required=False,
    delegation_lifetime_s_max=None,
    powerline_allowed=True,
    foreign_dids_allowed=True,
    authority_required=False,
)
"""All that UCAN 1.0 allows, with bounds far above any use."""

PRODUCT: Final = ValidationProfile(
    token_bytes_max=4 * 1024,
    container_chars_max=16 * 1024,
    container_tokens_max=32,
    depth_max=16,
    policy_nodes_max=128,
    selector_chars_max=256,
    command_chars_max=256,
    chain_links_max=8,
    evaluation_steps_max=10_000,
    invocation_lifetime_s_max=300,
    delegation_expiry_required=True,
    delegation_lifetime_s_max=400 * 24 * 3600,
    powerline_allowed=False,
    foreign_dids_allowed=False,
    authority_required=True,
)
"""What a node accepts from callers."""

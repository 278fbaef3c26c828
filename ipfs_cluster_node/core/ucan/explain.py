"""Explains why a claim is proven or not, with its chain."""

from collections.abc import Sequence
from dataclasses import dataclass

from ipfs_cluster_node.core.ucan.arrange import Shortfall, arrange
from ipfs_cluster_node.core.ucan.chain import Claim, ValidationContext
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.tokens import Delegation


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chain that proves a claim, or the nearest one and its error."""

    chain: tuple[Delegation, ...]
    error: UcanError | None = None


def explain(
    claim: Claim,
    delegations: Sequence[Delegation],
    context: ValidationContext,
    *,
    by_item: bool = False,
) -> Explanation:
    """Judge a claim like a call, by verified delegations in any order, and return the chain.

    With `by_item`, policies are evaluated on each item of the answer, not on the call.
    """
    found = arrange(claim, delegations, context)
    if isinstance(found, Shortfall):
        return Explanation(found.chain, found.error)
    if by_item:
        return Explanation(found.nearest)
    try:
        return Explanation(found.check(claim.args).chain)
    except UcanError as error:
        return Explanation(found.nearest, error)  # The chain that `check` reports.

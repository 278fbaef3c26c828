"""Why a claim holds or not: the judgement of a call, told with its chain."""

from collections.abc import Sequence
from dataclasses import dataclass

from ipfs_cluster_node.core.ucan.arrange import Shortfall, arrange
from ipfs_cluster_node.core.ucan.chain import Claim, ValidationContext
from ipfs_cluster_node.core.ucan.errors import UcanError
from ipfs_cluster_node.core.ucan.tokens import Delegation


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chain by which a claim holds, or the one that comes nearest and what is wrong with it."""

    chain: tuple[Delegation, ...]
    error: UcanError | None = None


def explain(
    claim: Claim,
    delegations: Sequence[Delegation],
    context: ValidationContext,
    *,
    by_item: bool = False,
) -> Explanation:
    """Judge a claim as a call is judged, and tell by which chain.

    Args:
        claim: What would be asked.
        delegations: Verified, in any order.
        context: The profile, the time, what is revoked and who is revoked.
        by_item: Whether policies judge each item that is shown, and not the call itself.
    """
    found = arrange(claim, delegations, context)
    if isinstance(found, Shortfall):
        return Explanation(found.chain, found.error)
    if by_item:
        return Explanation(found.nearest)
    try:
        return Explanation(found.check(claim.args).chain)
    except UcanError as error:
        return Explanation(found.nearest, error)  # `check` tells of it.
